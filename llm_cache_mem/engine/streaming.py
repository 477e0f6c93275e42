"""The streams of an engine: stored ones are replayed, those in progress shared."""

from collections.abc import AsyncIterable, Awaitable, Callable, Hashable, Iterable
from contextvars import Context
from typing import Any

from llm_cache_mem.engine.circumstances import circumstances_of
from llm_cache_mem.engine.shared_streams import open_stream
from llm_cache_mem.engine.sharing import Sharing
from llm_cache_mem.engine.stream_calls import StreamCall
from llm_cache_mem.engine.streams import AsyncReplay, ChunkRecording, Replay
from llm_cache_mem.keys.request import Request

__all__ = ["Streaming"]


class Streaming:
    """Streams of callers that *sharing* serves."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing

    def replay(self, chunks: list[Any]) -> Replay:
        """A stored stream."""
        return Replay(chunks)

    def areplay(self, chunks: list[Any]) -> AsyncReplay:
        """``replay`` for ``async for``."""
        return AsyncReplay(chunks)

    def share(
        self,
        request: Request,
        fn: Callable[[], Iterable[Any]],
        *,
        recording: Callable[[], ChunkRecording] = ChunkRecording,
        decode: Callable[[Any], Iterable[Any]] = list,
        circumstances: Callable[[], Hashable] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """The stream of ``fn()``, a SharedStream, for callers that missed; or what *fn* returned,
        if that is none.

        Args:
            request: What ``Engine.request`` returned.
            fn: Makes the call. What it raises is raised.
            recording: Makes the recording of a stream: how its chunks are stored.
            decode: Makes the chunks of a stored stream.
            circumstances: As in ``Engine.call``.
            timeout: As in ``Engine.call``.
        """
        made = circumstances_of(fn, {}) if circumstances is None else circumstances()
        made = made, self._sharing.keyer.unkeyed(request)
        with self._sharing.passing():
            return open_stream(
                StreamCall(self._sharing, request, fn, recording, decode, made, timeout)
            )

    async def ashare(
        self,
        request: Request,
        fn: Callable[[], Awaitable[AsyncIterable[Any]]],
        *,
        recording: Callable[[], ChunkRecording] = ChunkRecording,
        decode: Callable[[Any], Iterable[Any]] = list,
        circumstances: Callable[[], Hashable] | None = None,
        timeout: float | None = None,
        context: Context | None = None,
    ) -> Any:
        """``share`` for tasks; *context* as in ``Engine.astream``."""
        from llm_cache_mem.engine.async_streams import aopen_stream  # imports asyncio

        made = circumstances_of(fn, {}) if circumstances is None else circumstances()
        made = made, self._sharing.keyer.unkeyed(request)
        call = StreamCall(self._sharing, request, fn, recording, decode, made, timeout, context)
        with self._sharing.passing():
            return await aopen_stream(call)
