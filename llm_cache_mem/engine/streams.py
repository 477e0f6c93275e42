"""What streams are to their consumers, live or stored, and the recording of their chunks."""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from copy import deepcopy
from typing import Any, Final, Self

from llm_cache_mem.errors import LLMCacheError, ValueNotCacheable
from llm_cache_mem.values.payload import Payload

__all__ = [
    "AsyncReplay",
    "AsyncStream",
    "AsyncTee",
    "ChunkRecording",
    "NotShareable",
    "Replay",
    "SyncStream",
    "Tee",
]

MAX_STREAM_BYTES: Final = 16 * 1024 * 1024


class NotShareable(Exception):
    """A chunk that has no storable form cannot be given to a second caller."""


class ChunkRecording:
    """The chunks of one stream as they pass. Not thread-safe.

    What is stored of a chunk is what ``encode`` makes of it, and other callers get what ``decode``
    makes of that; here, and unless a framework has its own, the chunk itself.
    """

    full = False

    def __init__(self) -> None:
        self._payloads: list[Payload] = []
        self._size = 0
        self._empty = True
        self.fault: LLMCacheError | None = None
        """Why the stream cannot be stored; None if it can."""

    @property
    def unusable(self) -> bool:
        """Whether no other caller should join the stream."""
        return self.fault is not None

    def add(self, chunk: Any) -> Any:
        """Record *chunk*, and return a form of it that no change of *chunk* reaches; None if there
        is none."""
        first, self._empty = self._empty, False
        if self.fault is None:
            try:
                form, size = self.record(chunk)
                self._size += size
                if self._size > MAX_STREAM_BYTES:
                    raise ValueNotCacheable("stream", "it is too large")
                return form
            except Exception as exc:  # noqa: BLE001  # of any foreign chunk; the stream goes on
                self.fault = (
                    exc
                    if isinstance(exc, LLMCacheError)
                    else ValueNotCacheable("stream", type(exc).__name__)
                )
                self._payloads.clear()
        if first:
            return None
        try:
            return deepcopy(chunk)
        except Exception:  # noqa: BLE001  # as above
            return chunk

    def record(self, chunk: Any) -> tuple[Any, int]:
        """Record *chunk*; what ``add`` returns, and the bytes that it takes."""
        payload = Payload.of(self.encode(chunk))
        self._payloads.append(payload)
        return payload, payload.size

    def copy(self, form: Any) -> Any:
        """A chunk for one more caller, from what ``add`` returned."""
        if form is None:
            raise NotShareable
        return self.decode(form.decode()) if isinstance(form, Payload) else deepcopy(form)

    def finish(self, *, at_end: bool) -> bool:
        """Whether the stream is whole: only its end tells."""
        return at_end and self.fault is None

    def entry(self) -> tuple[Any, Any]:
        """What to store, and what admission and accounting read of it. Raises *fault*."""
        chunks = self.chunks()
        return chunks, chunks

    def chunks(self) -> list[Any]:
        """What ``encode`` made of the chunks. Raises *fault*."""
        if self.fault is not None:
            raise self.fault
        return [payload.decode() for payload in self._payloads]

    def encode(self, chunk: Any) -> Any:
        """What is stored of *chunk*."""
        return chunk

    def decode(self, stored: Any) -> Any:
        """A chunk made of what is stored of it."""
        return stored


class SyncStream:
    """The methods that ``for`` and ``with`` call on a stream, but for ``__next__``."""

    def close(self) -> None:
        raise NotImplementedError

    def __iter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
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

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


class _Live:
    """What sync and async tees share: the source's other attributes stay reachable, as an SDK's
    stream has them."""

    def __init__(
        self,
        source: Any,
        finish: Callable[[ChunkRecording], Any] | None,
        recording: ChunkRecording | None = None,
    ) -> None:
        self._source = source
        self._finish = finish
        self._recording = ChunkRecording() if recording is None else recording

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

    def __init__(self, source: Iterable[Any], finish: Callable[[ChunkRecording], object]) -> None:
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
        self,
        source: AsyncIterable[Any],
        finish: Callable[[ChunkRecording], Awaitable[object]],
        recording: ChunkRecording | None = None,
    ) -> None:
        super().__init__(source, finish, recording)
        self._chunks = aiter(source)

    async def __anext__(self) -> Any:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            finish: Callable[[ChunkRecording], Awaitable[object]] | None = self._finish
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

    def rest(self) -> list[Any]:
        """All chunks that are still to come, at once."""
        return list(self._chunks)

    async def aclose(self) -> None:
        """Yield no more."""
        self._chunks = iter(())
