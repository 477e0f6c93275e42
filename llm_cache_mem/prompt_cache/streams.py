"""A provider's stream that is watched for what it says of its usage, and is otherwise the stream it
was."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from llm_cache_mem.responses.fields import field

__all__ = ["AsyncWatched", "Watched"]

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
_MOST = 8


class _Watching:
    def __init__(self, source: Any, done: Callable[[list[Any]], object]) -> None:
        self._source = source
        self._done: Callable[[list[Any]], object] | None = done
        self._told: list[Any] = []

    def _see(self, piece: Any) -> None:
        if not self._told or field(piece, *_HOLDERS) is not None:
            self._told.append(piece)
            if len(self._told) > _MOST:  # each repeats the running total of those before
                del self._told[_MOST // 2 : -1]

    def _end(self) -> None:
        """The stream is over, or was left: the call has been paid for either way."""
        done, self._done = self._done, None
        if done is not None:
            done(self._told)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # nor before __init__ has run
            raise AttributeError(name)
        return getattr(self._source, name)


class Watched(_Watching):
    """For ``for`` and ``with``."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            piece = next(self._source)
        except BaseException:
            self._end()
            raise
        self._see(piece)
        return piece

    def close(self) -> None:
        close = getattr(self._source, "close", None)
        if close is not None:
            close()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncWatched(_Watching):
    """For ``async for`` and ``async with``."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            piece = await anext(self._source)
        except BaseException:
            self._end()
            raise
        self._see(piece)
        return piece

    async def close(self) -> None:
        for name in ("aclose", "close"):
            close = getattr(self._source, name, None)
            if close is not None:
                await close()
                break
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
