"""Streams of a wrapped model: replayed where they are stored, and stored when they have passed
through to a clean end."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.outputs import Generation

from langchain_llm_cache_mem.binding import Binding, binding_of, with_manager
from langchain_llm_cache_mem.generations import dump, dump_stream, load
from llm_cache_mem import Request, ValueNotCacheable
from llm_cache_mem.engine.streams import Recording
from llm_cache_mem.errors import LLMCacheError

__all__ = ["astream", "stream"]

T = TypeVar("T")


def stream(
    wrapped: Any,
    prompt: Any,
    stop: list[str] | None,
    run_manager: CallbackManagerForLLMRun | None,
    kwargs: Mapping[str, Any],
) -> Iterator[Any]:
    """The chunks of *wrapped* for *prompt*, a str or messages. Chat models have a rate limiter,
    which is asked before calls only."""
    binding = binding_of(wrapped)
    model = binding.direct(wrapped)
    request = binding.request(model, prompt, stop, kwargs)
    hit = binding.lookup(request, binding.load_stream)
    if hit is not None:
        for chunk in hit:
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
        return
    limiter = model.rate_limiter if isinstance(model, BaseChatModel) else None
    if limiter is not None:
        limiter.acquire(blocking=True)
    record = _Record(binding, request)
    with binding.watching(model):
        for chunk in model._stream(prompt, stop, **with_manager(run_manager, kwargs)):
            record.add(chunk)
            yield chunk
    record.keep()


async def astream(
    wrapped: Any,
    prompt: Any,
    stop: list[str] | None,
    run_manager: AsyncCallbackManagerForLLMRun | None,
    kwargs: Mapping[str, Any],
) -> AsyncGenerator[Any, None]:
    """``stream`` for ``async for``."""
    binding = binding_of(wrapped)
    model = binding.direct(wrapped)
    request = binding.request(model, prompt, stop, kwargs)
    hit = await binding.alookup(request, binding.load_stream)
    if hit is not None:
        for chunk in hit:
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
        return
    limiter = model.rate_limiter if isinstance(model, BaseChatModel) else None
    if limiter is not None:
        await limiter.aacquire(blocking=True)
    record = _Record(binding, request)
    source = model._astream(prompt, stop, **with_manager(run_manager, kwargs))
    with binding.watching(model):
        async with _closing(source) as chunks:
            async for chunk in chunks:
                record.add(chunk)
                yield chunk
    await record.akeep()


@asynccontextmanager
async def _closing(stream: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """*stream*, closed at the end where it can be: at once, and not when the garbage collector
    comes by."""
    try:
        yield stream
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


class _Record:
    """A stream as it passes through, to be stored when it has ended. Without a *request* it does
    nothing."""

    def __init__(self, binding: Binding, request: Request | None) -> None:
        self._link = binding
        self._request = request
        self._recording = Recording()
        self._began, self._epoch = monotonic(), binding.cache.engine.epoch

    def add(self, chunk: Generation) -> None:
        """Note *chunk* as it is now, before its consumer can change it."""
        if self._request is not None and self._recording.fault is None:
            try:
                self._recording.add(dump([chunk], self._request.params)[0])
            except Exception as exc:  # noqa: BLE001  # the stream goes on
                self._recording.fault = (
                    exc
                    if isinstance(exc, LLMCacheError)
                    else ValueNotCacheable("stream", type(exc).__name__)
                )

    def keep(self) -> None:
        """Store the stream, which ended cleanly, if it is worth keeping."""
        with self._link.fail_open:
            chunks, seconds = self._chunks(), monotonic() - self._began
            if self._request is not None:
                self._link.cache.engine.store(
                    self._request,
                    dump_stream(chunks),
                    response=load(chunks),
                    seconds=seconds,
                    epoch=self._epoch,
                )

    async def akeep(self) -> None:
        """As ``keep``, in a thread where that would wait for a disk."""
        with self._link.fail_open:
            chunks, seconds = self._chunks(), monotonic() - self._began
            if self._request is not None:
                await self._link.cache.engine.astore(
                    self._request,
                    dump_stream(chunks),
                    response=load(chunks),
                    seconds=seconds,
                    epoch=self._epoch,
                )

    def _chunks(self) -> list[Any]:
        if self._recording.fault is not None:
            raise self._recording.fault
        return self._recording.chunks()
