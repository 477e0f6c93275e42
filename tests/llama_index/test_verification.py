"""Streamed hits of cached LLMs are verified as streams, wherever their chunks are cut."""

import asyncio
import threading
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, CompletionResponse
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.prompts import PromptTemplate
from llama_index_llm_cache_mem import CachedLLM, structured
from llama_index_llm_cache_mem.leaves import LEAVES
from pydantic import BaseModel

from llm_cache_mem import LLMCache

STREAMS = ["stream_chat", "stream_complete", "astream_chat", "astream_complete"]


def ask(llm: Any, leaf: str, cache: LLMCache) -> str:
    """The text of a stream, after whose hit all is verified that was to be."""
    subject: Any = [ChatMessage(role="user", content="hi")] if leaf.endswith("chat") else "hi"
    verifier: Any = cache.engine.verifier

    def text(answer: Any) -> str:
        return str(answer.message.content if hasattr(answer, "message") else answer.text)

    async def run() -> str:
        answer = await getattr(llm, leaf)(subject)
        deltas = [chunk.delta async for chunk in answer] if "stream" in leaf else [text(answer)]
        while verifier._pending:
            await asyncio.sleep(0.001)
        return "".join(deltas)

    if leaf.startswith("a"):
        return asyncio.run(run())
    answer = getattr(llm, leaf)(subject)
    deltas = [chunk.delta for chunk in answer] if "stream" in leaf else [text(answer)]
    settle(cache)
    return "".join(deltas)


def settle(cache: LLMCache) -> None:
    verifier: Any = cache.engine.verifier
    while verifier._pending:
        threading.Event().wait(0.001)


@pytest.mark.parametrize("leaf", STREAMS)
def test_streamed_hits_are_verified(leaf: str, make_parrot: Any) -> None:
    texts = [["ye", "s it", " is"], ["yes it", " is"], ["no"]]

    class Told(make_parrot):  # type: ignore[misc]
        @llm_completion_callback()
        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            pieces, said = texts.pop(0), ""
            for piece in pieces:
                said += piece
                yield CompletionResponse(text=said, delta=piece, raw={"id": len(texts)})

    cache = LLMCache(verify_rate=1, verify_with="exact")
    llm = CachedLLM(Told(), cache)
    for _ in range(3):
        assert ask(llm, leaf, cache) == "yes it is"
    (found,) = cache.stats().verified.values()
    assert (found.checked, found.agreed, found.failed) == (2, 1, 0)


@pytest.mark.parametrize("leaf", ["chat", "complete", "achat", "acomplete"])
@pytest.mark.parametrize("streamed", [False, True], ids=["as stream", "from stream"])
def test_answers_in_another_form_are_verified_in_their_own(
    leaf: str, streamed: bool, make_parrot: Any
) -> None:
    stream = LEAVES[leaf].other().name
    texts = ["yes", "yes", "no", "no"]

    class Told(make_parrot):  # type: ignore[misc]
        @llm_completion_callback()
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            return CompletionResponse(text=texts.pop(0))

        @llm_completion_callback()
        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            text = texts.pop(0)
            yield CompletionResponse(text=text, delta=text)

    cache = LLMCache(verify_rate=1, verify_with="exact", on_drift="replace")
    llm = CachedLLM(Told(), cache)
    first, second = (stream, leaf) if streamed else (leaf, stream)
    assert [ask(llm, name, cache) for name in (first, *[second] * 4)] == [*["yes"] * 3, "no", "no"]
    (found,) = cache.stats().verified.values()
    assert (found.checked, found.agreed, found.replaced, found.failed) == (3, 2, 1, 1)


class City(BaseModel):
    name: str


@pytest.mark.parametrize("asynchronous", [False, True])
def test_native_structured_streams_are_verified(
    asynchronous: bool, make_parrot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["Rome", "Rome", "Oslo"]

    class Native(make_parrot):  # type: ignore[misc]
        def stream_structured_predict(self, *args: Any, **kwargs: Any) -> Any:
            yield City(name=names.pop(0))

        async def astream_structured_predict(self, *args: Any, **kwargs: Any) -> Any:
            async def cities() -> Any:
                yield City(name=names.pop(0))

            return cities()

    name = f"{Native.__module__}:{Native.__qualname__}"
    methods = frozenset({"stream_structured_predict", "astream_structured_predict"})
    monkeypatch.setitem(structured._PROVIDERS, name, methods)
    cache = LLMCache(verify_rate=1, verify_with="exact")
    llm, prompt = CachedLLM(Native(), cache), PromptTemplate("Which city?")

    async def aask() -> list[Any]:
        stream = await llm.astream_structured_predict(City, prompt)
        found = [city async for city in stream]
        verifier: Any = cache.engine.verifier
        while verifier._pending:
            await asyncio.sleep(0.001)
        return found

    for _ in range(3):
        if asynchronous:
            assert asyncio.run(aask()) == [City(name="Rome")]
        else:
            assert [*llm.stream_structured_predict(City, prompt)] == [City(name="Rome")]
            settle(cache)
    (found,) = cache.stats().verified.values()
    assert (found.checked, found.agreed, found.failed) == (2, 1, 0)
