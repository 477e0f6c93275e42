"""Streams of wrapped models: identical ones share a call in progress, and a hit reads like a miss."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import tool
from langchain_doubles import USAGE, Streaming
from langchain_llm_cache_mem import cached
from threads import WAIT_SECONDS, start

from llm_cache_mem import LLMCache

FIELDS = ("content", "tool_call_chunks", "tool_calls", "response_metadata", "additional_kwargs")


class Gated(Streaming):
    """Streams when it is let; a tool's result is answered with a text, all else with a tool call
    in pieces."""

    def _pieces(self, messages: list[BaseMessage]) -> Iterator[AIMessageChunk]:
        answer = self._answer(messages)
        if isinstance(messages[-1], ToolMessage):
            yield AIMessageChunk("It is ", additional_kwargs={"n": "1"})
            yield AIMessageChunk(messages[-1].content)
        else:
            head = {
                "name": "look_up",
                "args": "",
                "id": "call_1",
                "index": 0,
                "type": "tool_call_chunk",
            }
            for args in ("", '{"what"', ': "x"}'):
                call = (
                    {**head, "args": args}
                    if not args
                    else {**head, "name": None, "id": None, "args": args}
                )
                yield AIMessageChunk("", tool_call_chunks=[call])
        yield AIMessageChunk(
            "",
            usage_metadata=USAGE,
            response_metadata=answer.response_metadata,
            chunk_position="last",
        )

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        assert gate.wait(WAIT_SECONDS)
        for piece in self._pieces(messages):
            yield ChatGenerationChunk(message=piece)

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for piece in self._pieces(messages):
            await asyncio.sleep(0)
            yield ChatGenerationChunk(message=piece)


gate = threading.Event()


@pytest.fixture(autouse=True)
def open_gate() -> Iterator[None]:
    gate.set()
    yield
    gate.set()


@pytest.fixture
def own() -> LLMCache:
    return LLMCache(prices={})


@tool
def look_up(what: str) -> str:
    """Look something up."""
    return f"known: {what}"


def shape(chunk: Any) -> dict[str, Any]:
    """What a chunk says, but for what marks a hit."""
    told = {name: getattr(chunk, name) for name in FIELDS}
    told["response_metadata"] = {
        name: value for name, value in told["response_metadata"].items() if name != "llm_cache_mem"
    }
    return {**told, "class": type(chunk), "last": chunk.chunk_position}


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.count = 0

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.count += 1


def test_identical_streams_of_threads_make_one_call(own: LLMCache) -> None:
    provider = Gated()
    gate.clear()
    handlers = [Tokens() for _ in range(10)]
    readers = [
        start(lambda seen=seen: list(cached(provider, own).stream("x", {"callbacks": [seen]})))
        for seen in handlers
    ]
    gate.set()
    first, *rest = [reader.result(WAIT_SECONDS) for reader in readers]
    for other in rest:
        assert [shape(chunk) for chunk in other] == [shape(chunk) for chunk in first]
    assert provider.calls == 1
    assert own.stats().hits + own.stats().coalesced == 9
    assert {seen.count for seen in handlers} == {len(first)}


async def test_only_the_stream_that_called_the_model_has_tokens_to_pay_for(own: LLMCache) -> None:
    provider = Gated()

    async def total() -> tuple[int, Any]:
        chunks = [chunk async for chunk in cached(provider, own).astream("x")]
        whole: Any = chunks[0]
        for chunk in chunks[1:]:
            whole = whole + chunk
        marked = "llm_cache_mem" in whole.response_metadata
        return whole.usage_metadata["total_tokens"], marked

    totals = await asyncio.gather(*(total() for _ in range(5)))
    assert sorted(totals) == [(0, True)] * 4 + [(15, False)]


async def test_twenty_identical_agents_that_stream_make_two_calls(own: LLMCache) -> None:
    provider = Gated()

    async def run() -> str:
        agent = create_agent(cached(provider, own), [look_up])
        asked: Any = {"messages": [("user", "x?")]}
        parts = [
            message.text
            async for message, _ in agent.astream(asked, stream_mode="messages")
            if isinstance(message, AIMessageChunk)
        ]
        return "".join(parts)

    answers = await asyncio.gather(*(run() for _ in range(20)))
    assert answers == ["It is known: x"] * 20
    assert provider.calls == 2


def test_twenty_identical_agents_in_threads_that_stream_make_two_calls(own: LLMCache) -> None:
    provider = Gated()
    gate.clear()

    def run() -> str:
        agent = create_agent(cached(provider, own), [look_up])
        parts = [
            message.text
            for message, _ in agent.stream({"messages": [("user", "x?")]}, stream_mode="messages")
            if isinstance(message, AIMessageChunk)
        ]
        return "".join(parts)

    readers = [start(run) for _ in range(20)]
    gate.set()
    assert [reader.result(WAIT_SECONDS) for reader in readers] == ["It is known: x"] * 20
    assert provider.calls == 2


@pytest.mark.parametrize("prompt", ["x", [ToolMessage("known: x", tool_call_id="call_1")]])
def test_a_streamed_hit_is_the_stream_that_came(own: LLMCache, prompt: Any) -> None:
    model = cached(Gated(), own)
    live, replayed = list(model.stream(prompt)), list(model.stream(prompt))
    assert [shape(chunk) for chunk in replayed] == [shape(chunk) for chunk in live]
    assert replayed[-1].usage_metadata == dict.fromkeys(USAGE, 0)
    assert [chunk.usage_metadata is None for chunk in replayed] == [
        chunk.usage_metadata is None for chunk in live
    ]
    assert all(chunk.id.startswith("lc_run--") for chunk in replayed)
    assert live[0].id != replayed[0].id


def told(event: Any) -> Any:
    """An event without what differs from run to run."""
    data = {
        name: shape(value) if isinstance(value, AIMessageChunk) else type(value).__name__
        for name, value in event["data"].items()
    }
    return event["event"], event["name"], data


async def test_events_of_a_streamed_hit_are_those_of_a_miss(own: LLMCache) -> None:
    model = cached(Gated(), own)
    live, replayed = [
        [told(event) async for event in model.astream_events("x", version="v2")] for _ in range(2)
    ]
    assert replayed == live
    assert model.calls == 1


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_v3_events_of_a_streamed_hit_are_those_of_a_miss(own: LLMCache) -> None:
    model = cached(Gated(), own)

    async def run() -> tuple[list[str], AIMessage]:
        stream = await model.astream_events("x", version="v3")
        events = [event["event"] async for event in stream]
        return events, await stream.output

    (live, first), (replayed, second) = await run(), await run()
    assert replayed == live
    assert (second.tool_calls, second.usage_metadata["total_tokens"]) == (first.tool_calls, 0)
    assert model.calls == 1


class Native(Gated):
    """Has events of its own, which LangChain prefers to chunks."""

    def _stream_chat_model_events(self, messages: Any, **kwargs: Any) -> Any:
        raise AssertionError("past the cache")

    def _astream_chat_model_events(self, messages: Any, **kwargs: Any) -> Any:
        raise AssertionError("past the cache")


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_events_of_the_models_own_do_not_go_past_the_cache(own: LLMCache) -> None:
    model = cached(Native(), own)
    for _ in range(2):
        stream = await model.astream_events("x", version="v3")
        assert (await stream.output).tool_calls
        assert model.stream_events("x", version="v3").output.tool_calls
    assert model.calls == 1
