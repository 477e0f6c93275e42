"""Streams are collected while they pass through, stored only when they end cleanly, and replayed as
streams."""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self

from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.values.payload import Payload

__all__ = ["AsyncReplay", "AsyncStream", "AsyncTee", "Recording", "Replay", "SyncStream", "Tee"]


class Recording:
    """Snapshots of chunks, taken before the consumer can change them; *fault* is the first that has
    no storable form."""

    def __init__(self) -> None:
        self._snapshots: list[Payload] = []
        self.fault: LLMCacheError | None = None

    def add(self, chunk: Any) -> None:
        if self.fault is None:
            try:
                self._snapshots.append(Payload.of(chunk))
            except LLMCacheError as exc:
                self.fault = exc
                self._snapshots.clear()

    def chunks(self) -> list[Any]:
        return [snapshot.decode() for snapshot in self._snapshots]


class SyncStream:
    """The methods that ``for`` and ``with`` call on a stream, but for ``__next__``."""

    def close(self) -> None:
        raise NotImplementedError

    def __iter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncStream:
    """The methods that ``async for`` and ``async with`` call on a stream, but for ``__anext__``."""

    async def aclose(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        """``aclose`` by the name that SDK streams give it."""
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


class _Live:
    """What sync and async tees share: the source's other attributes stay reachable, as an SDK's
    stream has them."""

    def __init__(self, source: Any, finish: Callable[[Recording], Any] | None) -> None:
        self._source = source
        self._finish = finish
        self._recording = Recording()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # nor before __init__ has run
            raise AttributeError(name)
        value = getattr(self._source, name)
        if callable(value):
            # it may take chunks past the recording, which would then seem to be whole
            self._finish = None
        return value


class Tee(_Live, SyncStream):
    """A live stream: chunks pass to the consumer as they come; *finish* gets the recording once, at
    a clean end."""

    def __init__(self, source: Iterable[Any], finish: Callable[[Recording], object]) -> None:
        super().__init__(source, finish)
        self._chunks = iter(source)

    def __next__(self) -> Any:
        try:
            chunk = next(self._chunks)
        except StopIteration:
            finish, self._finish = self._finish, None
            if finish is not None:
                finish(self._recording)
            raise
        except BaseException:
            self._finish = None
            raise
        if self._finish is not None:
            self._recording.add(chunk)
        return chunk

    def close(self) -> None:
        """Stop early: nothing is stored."""
        self._finish = None
        close = getattr(self._source, "close", None)
        if close is not None:
            close()


class AsyncTee(_Live, AsyncStream):
    """Tee for ``async for``; *finish* is awaited."""

    def __init__(
        self, source: AsyncIterable[Any], finish: Callable[[Recording], Awaitable[object]]
    ) -> None:
        super().__init__(source, finish)
        self._chunks = aiter(source)

    async def __anext__(self) -> Any:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            finish: Callable[[Recording], Awaitable[object]] | None = self._finish
            self._finish = None
            if finish is not None:
                await finish(self._recording)
            raise
        except BaseException:
            self._finish = None
            raise
        if self._finish is not None:
            self._recording.add(chunk)
        return chunk

    async def aclose(self) -> None:
        """Stop early: nothing is stored."""
        self._finish = None
        for name in ("aclose", "close"):  # async generators have the one, SDK streams the other
            close = getattr(self._source, name, None)
            if close is not None:
                await close()
                return


class Replay(SyncStream):
    """A stored stream, chunk by chunk."""

    def __init__(self, chunks: list[Any]) -> None:
        self._chunks = iter(chunks)

    def __next__(self) -> Any:
        return next(self._chunks)

    def close(self) -> None:
        """Yield no more."""
        self._chunks = iter(())


class AsyncReplay(AsyncStream):
    """Replay for ``async for``."""

    def __init__(self, chunks: list[Any]) -> None:
        self._chunks = iter(chunks)

    async def __anext__(self) -> Any:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Yield no more."""
        self._chunks = iter(())
