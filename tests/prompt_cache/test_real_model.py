"""A real model in a real server with a real prompt cache, asked through the real SDKs: warmed,
proven, watched, counted."""

from collections.abc import Iterator

import anthropic
import openai
import pytest

from llm_cache_mem import LLMCache
from llm_cache_mem.prompt_cache import PromptCacheTracker, Warmer
from llm_cache_mem.testing.model_server.launch import MODEL, ModelServer, ServerFailed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RULES = "You answer in one short sentence. " + " ".join(
    f"Rule {n}: be kind to guest number {n}." for n in range(80)
)


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    try:
        running = ModelServer(MODEL)
    except ServerFailed as exc:
        pytest.skip(f"the model of the demo is not installed: {exc}")
    with running:
        yield running


def test_a_warmed_prefix_is_read_by_calls_with_another_question_and_counted(server):
    cache = LLMCache(prices={server.model: (1.0, 2.0, 0.1)})
    alerts = []
    tracker = PromptCacheTracker(cache, on_alert=alerts.append)
    with anthropic.Anthropic(
        api_key="x", base_url=server.url, max_retries=0, timeout=300
    ) as client:
        warmed = Warmer(client).warm(model=server.model, system=RULES, verify=True)
        assert (warmed.verified, warmed.warnings) == (True, ())
        assert warmed.verified_read_tokens >= 0.9 * warmed.input_tokens > 1000
        create = tracker.wrap(client.messages.create)
        for guest in range(4):
            answer = create(**warmed.prefix.request(f"Who is guest {guest}?", max_tokens=4))
            assert answer.usage.cache_read_input_tokens >= 0.9 * (warmed.input_tokens - 20)
        with create(
            **warmed.prefix.request("Who is guest 9?", max_tokens=4), stream=True
        ) as stream:
            assert [event.type for event in stream][-1] == "message_stop"
    provider = cache.stats().provider
    assert (provider.calls, provider.cached_calls) == (5, 5)
    assert provider.share > 0.9
    assert provider.saved_usd == pytest.approx(provider.read_tokens * 0.9 / 1e6)
    assert alerts == []


def test_a_changed_prefix_is_noticed_through_openais_sdk(server):
    alerts = []
    with openai.OpenAI(
        api_key="x", base_url=f"{server.url}/v1", max_retries=0, timeout=300
    ) as client:
        warmed = Warmer(client).warm(model=server.model, system=RULES, verify=True)
        assert warmed.verified is True
        create = PromptCacheTracker(on_alert=alerts.append).wrap(client.chat.completions.create)
        for question in ("Who is guest 1?", "Who is guest 2?"):
            create(**warmed.prefix.request(question, max_completion_tokens=4))
        assert alerts == []
        changed = Warmer(client).prefix(model=server.model, system=f"It is 10:05.\n{RULES}")
        create(**changed.request("Who is guest 3?", max_completion_tokens=4))
    ((reason, path),) = [(alert.reason, alert.path) for alert in alerts]
    assert reason == "changed"
    assert path.startswith("messages[0].content")
