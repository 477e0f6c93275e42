"""PromptCacheHandler: LlamaIndex's LLMs watched through its own events."""

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Clock
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import MockLLM
from llama_index_instrumentation import root_dispatcher
from llama_index_llm_cache_mem import CachedLLM
from llama_index_llm_cache_mem.prompt_cache import PromptCacheHandler
from prompt_cache_server import OLDER_GPT, PRICES, SYSTEM, PromptCacheServer

from llm_cache_mem import LLMCache
from llm_cache_mem.prompt_cache import PromptCacheTracker

openai = pytest.importorskip("llama_index.llms.openai", exc_type=ImportError)

MESSAGES = [ChatMessage(role="system", content=SYSTEM), ChatMessage(role="user", content="why")]
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning"),
]


@pytest.fixture
def server(clock: Clock) -> Iterator[PromptCacheServer]:
    with PromptCacheServer(clock) as running:
        yield running


@pytest.fixture
def tracker(clock: Clock) -> Iterator[PromptCacheTracker]:
    tracker = PromptCacheTracker(prices=PRICES, clock=clock)
    handler = PromptCacheHandler(tracker)
    root_dispatcher.add_event_handler(handler)
    yield tracker
    root_dispatcher.event_handlers.remove(handler)


@pytest.fixture
def llm(server: PromptCacheServer) -> Any:
    return openai.OpenAI(model=OLDER_GPT, api_base=f"{server.url}/v1", api_key="x", max_retries=0)


def counts(tracker: PromptCacheTracker) -> list[tuple[str | None, int, int]]:
    return [(one.model, one.calls, one.read_tokens) for one in tracker.stats().prefixes]


def test_calls_and_streams_are_watched(llm, tracker):
    llm.chat(MESSAGES)
    assert list(llm.stream_chat(MESSAGES))
    assert counts(tracker) == [(OLDER_GPT, 2, 1920)]


async def test_async_calls_and_streams_are_watched(llm, tracker):
    await llm.achat(MESSAGES)
    assert [chunk async for chunk in await llm.astream_chat(MESSAGES)]
    assert counts(tracker) == [(OLDER_GPT, 2, 1920)]


def test_completions_are_watched_once(llm, tracker):
    for _ in range(2):
        llm.complete(SYSTEM)
    assert sum(calls for _, calls, _ in counts(tracker)) == 2
    assert sum(read for _, _, read in counts(tracker)) == 1920


def test_a_changed_system_prompt_is_told(llm, tracker, clock):
    for minute in range(3):
        llm.chat([ChatMessage(role="system", content=f"Now 10:0{minute}.\n{SYSTEM}"), MESSAGES[1]])
        clock.advance(60)
    assert tracker.stats().alerts == 1


def test_hits_are_no_calls_of_the_provider(llm, tracker, server):
    cached = CachedLLM(llm, LLMCache())
    for _ in range(3):
        cached.chat(MESSAGES)
    assert len(server.requests) == 1
    assert counts(tracker) == [(OLDER_GPT, 1, 0)]


def test_an_llm_without_usage_breaks_nothing(tracker):
    MockLLM().complete("x")
    assert (tracker.stats().calls, tracker.stats().without_usage) == (0, 1)


def test_ended_calls_leave_no_state(llm, tracker):
    handler = next(
        one for one in root_dispatcher.event_handlers if isinstance(one, PromptCacheHandler)
    )
    llm.chat(MESSAGES)
    list(llm.stream_chat(MESSAGES))
    assert not handler._pending
