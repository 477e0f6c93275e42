"""Streams of a provider's SDK that are observed for the usage they report, and otherwise passed
through."""

from collections.abc import Callable
from typing import Any

from llm_cache_mem.engine.streams import AsyncStream, SyncStream
from llm_cache_mem.responses.fields import field

__all__ = ["AsyncObservedStream", "ObservedStream"]

_HOLDERS = (
    "usage",
    "usage_metadata",
    "usageMetadata",
    "response",
    "message",
    "x_groq",
    "metadata",
    "prompt_eval_count",
    "eval_count",
)
"""The fields of a chunk in which providers report usage."""
_MOST_CHUNKS = 8


class _Observed:
    def __init__(self, source: Any, done: Callable[[list[Any]], object]) -> None:
        self._source = source
        self._done: Callable[[list[Any]], object] | None = done
        self._reports: list[Any] = []

    def _observe(self, chunk: Any) -> None:
        if not self._reports or field(chunk, *_HOLDERS) is not None:
            self._reports.append(chunk)
            if len(self._reports) > _MOST_CHUNKS:  # each repeats the running total so far
                del self._reports[_MOST_CHUNKS // 2 : -1]

    def _end(self) -> None:
        """Report the call: it is paid for whether the stream was read to its end or left."""
        done, self._done = self._done, None
        if done is not None:
            done(self._reports)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # nor before __init__ has run
            raise AttributeError(name)
        return getattr(self._source, name)


class ObservedStream(_Observed, SyncStream):
    """A stream for ``for`` and ``with``."""

    def __next__(self) -> Any:
        try:
            chunk = next(self._source)
        except BaseException:
            self._end()
            raise
        self._observe(chunk)
        return chunk

    def close(self) -> None:
        close = getattr(self._source, "close", None)
        if close is not None:
            close()
        self._end()


class AsyncObservedStream(_Observed, AsyncStream):
    """A stream for ``async for`` and ``async with``."""

    async def __anext__(self) -> Any:
        try:
            chunk = await anext(self._source)
        except BaseException:
            self._end()
            raise
        self._observe(chunk)
        return chunk

    async def aclose(self) -> None:
        for name in ("aclose", "close"):
            close = getattr(self._source, name, None)
            if close is not None:
                await close()
                break
        self._end()
