"""Hits of wrapped LangChain models are verified, streams and whole answers alike."""

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from langchain_core.language_models import LLM, FakeListLLM
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration
from langchain_llm_cache_mem import cached
from langchain_llm_cache_mem.agreement import answer_in
from langchain_llm_cache_mem.generations import dump
from langchain_openai import ChatOpenAI

from llm_cache_mem import LLMCache
from llm_cache_mem.values.payload import Payload


def settle(cache: LLMCache) -> None:
    verifier: Any = cache.engine.verifier
    while verifier._pending:
        threading.Event().wait(0.001)


async def asettle(cache: LLMCache) -> None:
    verifier: Any = cache.engine.verifier
    while verifier._pending:
        await asyncio.sleep(0)


class Provider:
    """Answers as the Chat Completions API does: a text in pieces, and perhaps a call of a tool."""

    def __init__(self, *pieces: str, tool: bool = False) -> None:
        self.pieces = pieces
        self.tool = tool
        self.calls = 0

    def model(self, **settings: Any) -> ChatOpenAI:
        transport: Any = httpx2.MockTransport(self.respond)
        return ChatOpenAI(
            model="m",
            api_key="k",  # type: ignore[arg-type]
            http_client=httpx2.Client(transport=transport),
            http_async_client=httpx2.AsyncClient(transport=transport),
            temperature=0,
            **settings,
        )

    def respond(self, request: httpx2.Request) -> httpx2.Response:
        self.calls += 1
        call = {"id": f"c{self.calls}", "type": "function"}
        name, parts = "look", ('{"a": ', "1}")
        if not json.loads(request.content).get("stream"):
            message: dict[str, Any] = {"role": "assistant", "content": "".join(self.pieces)}
            if self.tool:
                asked = {**call, "function": {"name": name, "arguments": "".join(parts)}}
                message["tool_calls"] = [asked]
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = {"id": f"r{self.calls}", "object": "chat.completion", "created": self.calls}
            return httpx2.Response(200, json={**whole, "model": "m", "choices": [choice]})
        deltas: list[dict[str, Any]] = [{"content": piece} for piece in self.pieces]
        if self.tool:
            first = {**call, "index": 0, "function": {"name": name, "arguments": parts[0]}}
            second = {"index": 0, "function": {"arguments": parts[1]}}
            deltas += [{"tool_calls": [first]}, {"tool_calls": [second]}]
        chunk = {"id": f"r{self.calls}", "object": "chat.completion.chunk", "model": "m"}
        events = [
            *({**chunk, "choices": [{"index": 0, "delta": delta}]} for delta in deltas),
            {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        ]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return httpx2.Response(200, text=text, headers={"content-type": "text/event-stream"})


def whole(model: Any, cache: LLMCache) -> None:
    model.invoke("hi")
    settle(cache)


def streamed(model: Any, cache: LLMCache) -> None:
    for _ in model.stream("hi"):
        pass
    settle(cache)


def streamed_by_task(model: Any, cache: LLMCache) -> None:
    async def run() -> None:
        async for _ in model.astream("hi"):
            pass
        await asettle(cache)

    asyncio.run(run())


WAYS = [whole, streamed, streamed_by_task]


@pytest.mark.parametrize("tool", [False, True], ids=["text", "tool"])
@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize("store", [whole, streamed])
def test_hits_are_verified_in_the_form_of_their_caller(
    store: Callable[..., None], ask: Callable[..., None], tool: bool
) -> None:
    cache, provider = LLMCache(verify_rate=1), Provider("ye", "s it", " is", tool=tool)
    model = cached(provider.model(), cache)
    store(model, cache)
    ask(model, cache)
    provider.pieces = ("yes ", "it is")
    ask(model, cache)
    provider.pieces = ("no",)
    ask(model, cache)
    (found,) = cache.stats().verified.values()
    assert (found.checked, found.agreed, found.failed, provider.calls) == (3, 2, 0, 4)


@pytest.mark.parametrize("ask", WAYS[1:])
def test_a_drifted_stream_is_replaced(ask: Callable[..., None]) -> None:
    cache, provider = LLMCache(verify_rate=1, on_drift="replace"), Provider("ye", "s")
    model = cached(provider.model(), cache)
    ask(model, cache)
    provider.pieces = ("n", "o")
    ask(model, cache)
    assert [chunk.content for chunk in model.stream("hi")][:2] == ["n", "o"]


def test_a_plain_llm_is_verified_without_touching_its_caller() -> None:
    cache = LLMCache(verify_rate=1, verify_with="exact")
    model = cached(FakeListLLM(responses=["yes", "no"]), cache, identity="fake")
    for _ in range(2):
        assert model.invoke("hi") == "yes"
        settle(cache)
    (found,) = cache.stats().verified.values()
    assert (found.checked, found.drifted) == (1, 1)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_prompts_of_a_batch_are_verified_one_by_one(asynchronous: bool) -> None:
    texts: dict[str, str] = {}

    class Told(LLM):
        _llm_type = "told"

        def _call(self, prompt: str, *args: Any, **kwargs: Any) -> str:
            return texts[prompt]

    cache = LLMCache(verify_rate=1, verify_with="exact", on_drift="replace")
    model = cached(Told(), cache, identity="told")

    async def ask() -> list[str]:
        found = await model.abatch(["a", "b"])
        await asettle(cache)
        return found

    for texts["a"], texts["b"] in [("A", "B"), ("A", "new B")]:
        assert (asyncio.run(ask()) if asynchronous else model.batch(["a", "b"])) == ["A", "B"]
        settle(cache)
    (found,) = cache.stats().verified.values()
    assert (found.checked, found.agreed, found.replaced) == (2, 1, 1)
    assert model.batch(["b", "a"]) == ["new B", "A"]


def message(content: Any, **fields: Any) -> Payload:
    made = ChatGeneration(message=AIMessage(content=content, **fields))
    return Payload.of(dump([made], {}))


def test_text_is_compared_alike_in_blocks_and_alone() -> None:
    call: Any = {"name": "look", "args": {"a": 1}, "id": "1", "type": "tool_call"}
    blocks = [
        {"type": "text", "text": "yes", "index": 0},
        {"type": "tool_use", "id": "2", "name": "look", "input": {}, "index": 1},
    ]
    one = answer_in(message(blocks, tool_calls=[call]))
    assert one == answer_in(message("yes", tool_calls=[{**call, "id": "9"}]))
    assert one == [{"content": "yes", "tool_calls": [{"name": "look", "arguments": '{"a": 1}'}]}]
