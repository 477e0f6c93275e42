"""What type checkers make of calls through the cache; mypy and pyright check the bodies."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

import anthropic
import openai
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llm_cache_mem import LLMCache


def types_of_calls(cache: LLMCache, client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    create, said = client.chat.completions.create, [{"role": "user", "content": "hi"}]
    assert_type(cache.get_or_call(said, create, model="m"), ChatCompletion)
    assert_type(
        cache.get_or_call(said, create, model="m", stream=True), Iterator[ChatCompletionChunk]
    )
    message = cache.get_or_call(said, claude.messages.create, model="m", max_tokens=9)
    assert_type(message, Message)
    events = cache.get_or_call(said, claude.messages.create, model="m", max_tokens=9, stream=True)
    assert_type(events, Iterator[RawMessageStreamEvent])


async def types_of_async_calls(cache: LLMCache, client: openai.AsyncOpenAI) -> None:
    create = client.chat.completions.create
    assert_type(await cache.aget_or_call([], create, model="m"), ChatCompletion)
    assert_type(
        await cache.aget_or_call([], create, model="m", stream=True),
        AsyncIterator[ChatCompletionChunk],
    )


def types_of_own_functions(cache: LLMCache) -> None:
    def ask(messages: Any, model: str) -> str:
        return model

    def stream(messages: Any, **params: Any) -> Iterator[int]:
        yield 1

    assert_type(cache.get_or_call([], ask, model="m"), str)
    assert_type(cache.get_or_call([], stream, model="m", stream=True), Iterator[int])


def types_of_cached_methods(cache: LLMCache, client: openai.OpenAI) -> None:
    create = cache.cached(client.chat.completions.create)
    assert_type(create(messages=[], model="m"), ChatCompletion)
    assert_type(create(messages=[], model="m", stream=True), openai.Stream[ChatCompletionChunk])


def test_streams_are_iterators_as_their_types_say() -> None:
    def stream(messages: Any, **params: Any) -> Iterator[int]:
        yield 1

    cache = LLMCache()
    for _ in range(2):
        found = cache.get_or_call([], stream, model="m", stream=True)
        assert isinstance(found, Iterator)
        assert list(found) == [1]
