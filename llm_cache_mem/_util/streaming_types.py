"""Functions that give a stream with ``stream=True``, as type checkers tell them from others: by the
keywords that the SDKs of OpenAI and those like it, and of Anthropic, require."""

from collections.abc import AsyncIterable, Awaitable, Iterable
from typing import Any, Literal, Protocol, TypeVar

__all__ = ["AsyncStreams", "AsyncStreamsUpTo", "Streams", "StreamsUpTo"]

C = TypeVar("C", covariant=True)


class Streams(Protocol[C]):
    def __call__(self, *, messages: Any, model: Any, stream: Literal[True]) -> Iterable[C]: ...


class StreamsUpTo(Protocol[C]):
    def __call__(
        self, *, messages: Any, model: Any, max_tokens: Any, stream: Literal[True]
    ) -> Iterable[C]: ...


class AsyncStreams(Protocol[C]):
    def __call__(
        self, *, messages: Any, model: Any, stream: Literal[True]
    ) -> Awaitable[AsyncIterable[C]]: ...


class AsyncStreamsUpTo(Protocol[C]):
    def __call__(
        self, *, messages: Any, model: Any, max_tokens: Any, stream: Literal[True]
    ) -> Awaitable[AsyncIterable[C]]: ...
