"""PromptCacheCallback: LangChain's own Anthropic and OpenAI models, watched against a provider with
a prompt cache."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Clock
from langchain_anthropic import ChatAnthropic
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_llm_cache_mem import LLMCacheMem, cached
from langchain_llm_cache_mem.prompt_cache import PromptCacheCallback
from langchain_openai import ChatOpenAI
from prompt_cache_server import CLAUDE, OLDER_GPT, PRICES, SYSTEM, PromptCacheServer
from pydantic import SecretStr

from llm_cache_mem import LLMCache
from llm_cache_mem.prompt_cache import PromptCacheTracker

MARKED = SystemMessage([{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}])


@pytest.fixture
def server(clock: Clock) -> Iterator[PromptCacheServer]:
    with PromptCacheServer(clock) as running:
        yield running


@pytest.fixture
def tracker(clock: Clock) -> PromptCacheTracker:
    return PromptCacheTracker(prices=PRICES, clock=clock)


def claude(server: PromptCacheServer, **settings: Any) -> ChatAnthropic:
    return ChatAnthropic(
        model_name=CLAUDE,
        base_url=server.url,
        api_key=SecretStr("x"),
        max_retries=0,
        max_tokens_to_sample=9,
        **settings,
    )


def config(tracker: PromptCacheTracker) -> Any:
    return {"callbacks": [PromptCacheCallback(tracker)]}


def counts(tracker: PromptCacheTracker) -> list[tuple[str | None, int, int, int]]:
    return [
        (one.model, one.calls, one.read_tokens, one.write_tokens)
        for one in tracker.stats().prefixes
    ]


def test_calls_streams_and_batches_of_a_claude_are_watched(server, tracker):
    model = claude(server)
    model.invoke([MARKED, HumanMessage("one")], config(tracker))
    assert list(model.stream([MARKED, HumanMessage("two")], config(tracker)))
    model.batch([[MARKED, HumanMessage("three")], [MARKED, HumanMessage("four")]], config(tracker))
    assert counts(tracker) == [(CLAUDE, 4, 6000, 2000)]
    assert tracker.stats().alerts == 0


async def test_async_calls_are_watched(server, tracker):
    model = claude(server)
    await model.ainvoke([MARKED, HumanMessage("zero")], config(tracker))
    await asyncio.gather(
        *(model.ainvoke([MARKED, HumanMessage(f"{n}")], config(tracker)) for n in range(3))
    )
    assert [chunk async for chunk in model.astream([MARKED, HumanMessage("x")], config(tracker))]
    assert counts(tracker) == [(CLAUDE, 5, 8000, 2000)]


def test_an_openai_model_is_watched(server, tracker):
    model = ChatOpenAI(
        model=OLDER_GPT, base_url=f"{server.url}/v1", api_key=SecretStr("x"), max_retries=0
    )
    for question in ("one", "two"):
        model.invoke([SystemMessage(SYSTEM), HumanMessage(question)], config(tracker))
    assert counts(tracker) == [(OLDER_GPT, 2, 1920, 0)]


def test_a_changed_tool_of_a_model_with_tools_is_told(server, clock):
    alerts: list[Any] = []
    tracker = PromptCacheTracker(clock=clock, on_alert=alerts.append)
    tool = {
        "name": "look",
        "description": "Look at it",
        "input_schema": {"type": "object", "properties": {}},
    }
    for description in ("Look at it", "Look at it", "Look again"):
        model = claude(server).bind_tools([{**tool, "description": description}])
        model.invoke([MARKED, HumanMessage("one")], config(tracker))
        clock.advance(10)
    assert [(alert.reason, alert.path) for alert in alerts] == [
        ("changed", "tools[0].function.description")
    ]


@pytest.mark.parametrize("usage", ["zero", "keep"])
def test_hits_of_a_cache_are_no_calls_of_the_provider(server, tracker, usage):
    set_llm_cache(LLMCacheMem(usage=usage))
    for _ in range(3):
        claude(server).invoke([MARKED, HumanMessage("one")], config(tracker))
    set_llm_cache(None)
    wrapped = cached(claude(server), LLMCache(), usage=usage)
    for _ in range(3):
        wrapped.invoke([MARKED, HumanMessage("one")], config(tracker))
    assert len(server.requests) == 2
    assert (tracker.stats().calls, tracker.stats().without_usage) == (2, 0)


def test_a_call_that_the_cache_sees_too_counts_once(server, clock):
    cache = LLMCache(prices=PRICES, clock=clock)
    tracker = PromptCacheTracker(cache, clock=clock)
    set_llm_cache(LLMCacheMem(cache))
    for _ in range(2):
        claude(server).invoke([MARKED, HumanMessage("one")], config(tracker))
    claude(server, cache=False).invoke([MARKED, HumanMessage("beside")], config(tracker))
    provider = cache.stats().provider
    assert (provider.calls, provider.write_tokens, provider.read_tokens) == (2, 2000, 2000)


def test_failures_are_forgotten(server, tracker):
    callback = PromptCacheCallback(tracker)
    server.fail = [500]
    with pytest.raises(Exception, match="as told"):
        claude(server).invoke([MARKED, HumanMessage("one")], {"callbacks": [callback]})
    assert not callback._pending
    assert tracker.stats().calls == 0


def test_models_without_usage_break_nothing(tracker):
    FakeListChatModel(responses=["a"]).invoke("x", config(tracker))
    FakeListLLM(responses=["a"]).invoke("x", config(tracker))
    assert tracker.stats().without_usage == 2
