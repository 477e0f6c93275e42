"""Identical streams of LLMs share one call in progress, and a follower's listeners hear a hit."""

import asyncio
import copy
from collections.abc import AsyncIterator, Iterator
from functools import cached_property
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ImageBlock,
    LLMMetadata,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import LLM
from llama_index.core.llms.callbacks import llm_chat_callback
from llama_index_instrumentation import root_dispatcher
from llama_index_llm_cache_mem import CachedLLM, set_llm_cache
from threads import WAIT_SECONDS, start

from llm_cache_mem import LLMCache


class Rich(LLM):
    """Streams all that a chunk can hold, and changes what it has given out, as OpenAI's class
    does."""

    fails_with: dict[str, Exception] = Field(default_factory=dict, exclude=True)
    _said: list[Any] = PrivateAttr(default_factory=list)

    @cached_property  # which is no setting
    def calls(self) -> list[str]:
        return []

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="rich-1", is_chat_model=True)

    @classmethod
    def class_name(cls) -> str:
        return "rich"

    def _chunks(self, api_key: str) -> Iterator[ChatResponse]:
        self.calls.append(api_key)
        if api_key in self.fails_with:
            raise self.fails_with[api_key]
        blocks: list[Any] = [ThinkingBlock(content="")]
        for number, word in enumerate(("It ", "is ", "so.")):
            blocks[0].content += word
            yield self._chunk(blocks, "", {"thinking_delta": word}, number)
        blocks.append(TextBlock(text=""))
        for number, word in enumerate(("Look: ", "there.")):
            blocks[1].text += word
            yield self._chunk(blocks, word, {}, number)
        blocks.append(ToolCallBlock(tool_call_id="c1", tool_name="look", tool_kwargs=""))
        for number, part in enumerate(('{"at"', ': "x"}')):
            blocks[2].tool_kwargs += part  # type: ignore[operator]
            yield self._chunk(blocks, "", {}, number)
        usage = {"prompt_tokens": 3, "completion_tokens": 5}
        yield self._chunk(blocks, "", {"prompt_tokens": 3}, 9, usage=usage)

    def _chunk(self, blocks: Any, delta: str, beside: Any, number: int, **more: Any) -> Any:
        raw = {"id": "r1", "n": number, "choices": [{"delta": {"content": delta}}], **more}
        message = ChatMessage(role="assistant", blocks=list(blocks), additional_kwargs=dict(beside))
        return ChatResponse(message=message, delta=delta, raw=raw, additional_kwargs=dict(beside))

    @llm_chat_callback()
    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        self.calls.append("chat")
        message = ChatMessage(role="assistant", content="Look: there.")
        raw = {"id": "r2", "choices": [{"message": {"content": "Look: there."}}]}
        return ChatResponse(message=message, raw=raw)

    @llm_chat_callback()
    def stream_chat(self, messages: Any, api_key: str = "good", **kwargs: Any) -> Any:
        return self._chunks(api_key)

    @llm_chat_callback()
    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return self.chat(messages, **kwargs)  # type: ignore[no-any-return]

    @llm_chat_callback()
    async def astream_chat(self, messages: Any, api_key: str = "good", **kwargs: Any) -> Any:
        async def chunks() -> AsyncIterator[ChatResponse]:
            for chunk in self._chunks(api_key):
                await asyncio.sleep(0)
                yield chunk

        return chunks()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    stream_complete = acomplete = astream_complete = complete  # type: ignore[assignment]


ASKED = [ChatMessage(content="where?")]


def bare() -> list[ChatResponse]:
    """The stream as it comes, chunk by chunk."""
    return [copy.deepcopy(chunk) for chunk in Rich()._chunks("good")]


def without_tokens(chunks: list[ChatResponse]) -> list[ChatResponse]:
    for chunk in chunks:
        for counts in (chunk.raw.get("usage") or {}, chunk.additional_kwargs):
            counts.update({name: 0 for name in counts if name.endswith("_tokens")})
        beside = chunk.message.additional_kwargs
        beside.update({name: 0 for name in beside if name.endswith("_tokens")})
    return chunks


class Ears(BaseEventHandler):
    heard: list[Any] = Field(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.heard.append((type(event).__name__, bool(event.tags.get("llm_cache.hit"))))


@pytest.fixture
def ears() -> Iterator[Ears]:
    before, ears = list(root_dispatcher.event_handlers), Ears()
    root_dispatcher.add_event_handler(ears)
    yield ears
    root_dispatcher.event_handlers = before


@pytest.mark.parametrize("usage", ["zero", "keep"])
def test_a_hit_is_the_stream_that_came_chunk_by_chunk(usage: Any, cache: LLMCache) -> None:
    llm = CachedLLM(Rich(), cache, usage=usage)
    live = [copy.deepcopy(chunk) for chunk in llm.stream_chat(ASKED)]
    assert live == bare()
    assert list(llm.stream_chat(ASKED)) == (without_tokens(live) if usage == "zero" else live)
    assert llm.calls == ["good"]


def test_chunks_of_a_hit_share_nothing(cache: LLMCache) -> None:
    llm = CachedLLM(Rich(), cache, usage="keep")
    list(llm.stream_chat(ASKED))
    for chunk in llm.stream_chat(ASKED):
        chunk.raw["choices"].clear()
        chunk.message.blocks[0].content = "scribble"
    assert list(llm.stream_chat(ASKED)) == bare()


@pytest.mark.parametrize("first", ["chat", "stream_chat"])
def test_chat_after_a_stream_has_the_raw_of_chat(first: str, cache: LLMCache, ask: Any) -> None:
    llm = CachedLLM(Rich(), cache)
    for leaf in (first, "chat", "stream_chat", "achat", "astream_chat"):
        answer = ask(llm, leaf)
        if "stream" in leaf:
            assert [chunk.raw["choices"][0]["delta"]["content"] for chunk in answer][3] == "Look: "
        else:
            assert answer.raw["choices"][0]["message"]["content"] == "Look: there."
    assert sorted(llm.calls) == ["chat", "good"]


def test_a_stored_stream_takes_little_more_than_its_last_chunk(cache: LLMCache) -> None:
    class Long(Rich):
        def _chunks(self, api_key: str) -> Iterator[ChatResponse]:
            block = TextBlock(text="")
            for number in range(1000):
                block.text += "word "
                yield self._chunk([block], "word ", {}, number)

    list(CachedLLM(Long(), cache).stream_chat(ASKED))
    [(_, entry)] = cache.engine.entries()
    assert entry.size < 250_000  # the texts of the chunks alone are 2.5 million characters


def test_a_long_stream_is_stored_and_shared(cache: LLMCache) -> None:
    word = "thirty characters of an answer"

    class Long(Rich):
        def _chunks(self, api_key: str) -> Iterator[ChatResponse]:
            self.calls.append(api_key)
            block = TextBlock(text="")
            for number in range(1500):
                block.text += word
                yield self._chunk([TextBlock(text=block.text)], word, {}, number)

    llm = CachedLLM(Long(), cache)
    first, second = llm.stream_chat(ASKED), llm.stream_chat(ASKED)
    texts = [[len(chunk.message.content) for chunk in stream] for stream in (first, second)]
    texts.append([len(chunk.message.content) for chunk in llm.stream_chat(ASKED)])
    assert texts == [[30 * (number + 1) for number in range(1500)]] * 3
    assert llm.calls == ["good"]


def test_a_chunk_that_holds_a_picture_comes_back(cache: LLMCache) -> None:
    class Drawing(Rich):
        def _chunks(self, api_key: str) -> Iterator[ChatResponse]:
            blocks: list[Any] = [TextBlock(text="See: ")]
            yield self._chunk(blocks, "See: ", {}, 0)
            blocks.append(ImageBlock(url="https://example.com/a.png"))
            yield self._chunk(blocks, "", {}, 1)

    llm = CachedLLM(Drawing(), cache)
    live, replayed = list(llm.stream_chat(ASKED)), list(llm.stream_chat(ASKED))
    assert replayed == live
    assert cache.stats().hits == 1


@pytest.mark.parametrize("everywhere", [False, True], ids=["wrapped", "process-wide"])
def test_identical_streams_of_threads_make_one_call(everywhere: bool, cache: LLMCache) -> None:
    plain = Rich()
    with set_llm_cache(cache if everywhere else None):
        streams = [
            (plain if everywhere else CachedLLM(plain, cache)).stream_chat(ASKED) for _ in range(10)
        ]
        readers = [
            start(lambda stream=stream: [copy.deepcopy(chunk) for chunk in stream])
            for stream in streams
        ]
        came = [reader.result(WAIT_SECONDS) for reader in readers]
    assert sorted(came, key=lambda chunks: -chunks[-1].raw["usage"]["prompt_tokens"]) == [
        bare(),
        *[without_tokens(bare())] * 9,
    ]
    assert plain.calls == ["good"]


def test_a_follower_with_another_api_key_makes_its_own_call() -> None:
    cache = LLMCache(ignore=("api_key",))
    plain = Rich(fails_with={"bad": PermissionError("401")})
    llm = CachedLLM(plain, cache)
    bad, good = (llm.stream_chat(ASKED, api_key=key) for key in ("bad", "good"))
    with pytest.raises(PermissionError):
        list(bad)
    assert len(list(good)) == len(bare())
    assert plain.calls == ["bad", "good"]


def test_each_reader_of_a_shared_stream_has_its_own_events(cache: LLMCache, ears: Ears) -> None:
    llm = CachedLLM(Rich(), cache)
    first, second = llm.stream_chat(ASKED), llm.stream_chat(ASKED)
    list(first)
    live, ears.heard = ears.heard, []
    list(second)
    assert [name for name, _ in ears.heard] == [name for name, _ in live]
    assert {hit for _, hit in live} == {False}
    assert {hit for _, hit in ears.heard} == {True}


async def test_each_task_of_a_shared_stream_has_its_own_events(cache: LLMCache, ears: Ears) -> None:
    llm = CachedLLM(Rich(), cache)
    first, second = await llm.astream_chat(ASKED), await llm.astream_chat(ASKED)
    assert len([chunk async for chunk in first]) == len(bare())
    live, ears.heard = ears.heard, []
    assert len([chunk async for chunk in second]) == len(bare())
    assert [name for name, _ in ears.heard] == [name for name, _ in live]
    assert {hit for _, hit in ears.heard} == {True}
