"""The eight methods that reach a model, through the cache: a hit, a miss, and a stream that becomes
an entry when it ends cleanly."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from llama_index_llm_cache_mem import events
from llama_index_llm_cache_mem.leaves import Args, Kwargs, Leaf, Target
from llama_index_llm_cache_mem.requests import request_of_leaf
from llama_index_llm_cache_mem.streaming import Recording, replay
from llama_index_llm_cache_mem.validation import note_answer
from llama_index_llm_cache_mem.values import decode, decode_whole, encode
from llm_cache_mem import LLMCache, Request
from llm_cache_mem.engine.circumstances import circumstances_of, timeout_of

__all__ = [
    "Collector",
    "ModelCall",
    "acall",
    "acollect",
    "astream",
    "call",
    "collect",
    "stream",
]


# -- Whole answers


def call(target: Target, leaf: Leaf, args: Args, kwargs: Kwargs) -> Any:
    """``llm.chat(...)`` or ``llm.complete(...)``."""
    method = target.method(leaf.name)
    request = request_of_leaf(target, leaf, args, kwargs)
    if request is None:
        return method(*args, **kwargs)
    model = ModelCall(method, args, kwargs)
    response = target.cache.engine.call(
        request,
        model,
        encode=encode,
        decode=decode_whole,
        circumstances=lambda: circumstances_of(getattr(target.inner, leaf.name), kwargs),
        timeout=timeout_of(kwargs, target.inner),
        zero_usage=True,
    )
    note_answer(target.cache, request)
    if not model.called:
        events.emit(target, leaf, args, kwargs, response)
    return response


async def acall(target: Target, leaf: Leaf, args: Args, kwargs: Kwargs) -> Any:
    """``await llm.achat(...)`` or ``await llm.acomplete(...)``."""
    method = target.method(leaf.name)
    request = request_of_leaf(target, leaf, args, kwargs)
    if request is None:
        return await method(*args, **kwargs)
    model = ModelCall(method, args, kwargs)
    response = await target.cache.engine.acall(
        request,
        model,
        encode=encode,
        decode=decode_whole,
        circumstances=lambda: circumstances_of(getattr(target.inner, leaf.name), kwargs),
        timeout=timeout_of(kwargs, target.inner),
        zero_usage=True,
    )
    note_answer(target.cache, request)
    if not model.called:
        await events.aemit(target, leaf, args, kwargs, response)
    return response


class ModelCall:
    """The call of the model, exactly as received; *called* tells whether this caller made it."""

    __slots__ = ("_args", "_kwargs", "_method", "called")

    def __init__(self, method: Callable[..., Any], args: Args, kwargs: Kwargs) -> None:
        self._method, self._args, self._kwargs = method, args, kwargs
        self.called = False

    def __call__(self) -> Any:
        self.called = True
        return self._method(*self._args, **self._kwargs)


# -- Streams


def stream(target: Target, leaf: Leaf, args: Args, kwargs: Kwargs) -> Any:
    """``llm.stream_chat(...)`` or ``llm.stream_complete(...)``; errors of the call itself are
    raised here, as bare."""
    method = target.method(leaf.name)
    request = request_of_leaf(target, leaf, args, kwargs)
    if request is None:
        return method(*args, **kwargs)
    hit = target.cache.engine.lookup(request, decode, zero_usage=True)
    if hit is not None:
        return events.emit_stream(target, leaf, args, kwargs, replay(*hit.value))
    collector = Collector(target.cache, request, Recording())
    source = method(*args, **kwargs)
    return collect(collector, source) if hasattr(source, "__next__") else source


async def astream(target: Target, leaf: Leaf, args: Args, kwargs: Kwargs) -> Any:
    """``await llm.astream_chat(...)`` or ``await llm.astream_complete(...)``."""
    method = target.method(leaf.name)
    request = request_of_leaf(target, leaf, args, kwargs)
    if request is None:
        return await method(*args, **kwargs)
    hit = await target.cache.engine.alookup(request, decode, zero_usage=True)
    if hit is not None:
        return await events.aemit_stream(target, leaf, args, kwargs, replay(*hit.value))
    collector = Collector(target.cache, request, Recording())
    source = await method(*args, **kwargs)
    return acollect(collector, source) if hasattr(source, "__anext__") else source


class Collector:
    """Store a stream that has ended cleanly, unless something was deleted meanwhile."""

    def __init__(self, cache: LLMCache, request: Request, recording: Any) -> None:
        self.cache = cache
        self._request = request
        self._epoch = cache.engine.epoch
        self._began = time.monotonic()
        # it has add(chunk) and entry(), what to store and the response that it stands for
        self._recording = recording

    def add(self, chunk: Any) -> None:
        """Take note of a chunk; one of no known shape spoils the recording, never the stream."""
        if self._recording is not None:
            try:
                self._recording.add(chunk)
            except Exception as exc:  # noqa: BLE001  # see above
                self._recording = None
                self.cache.engine.skip(
                    "value",
                    "a stream was not stored: a chunk could not be read (%s)",
                    type(exc).__name__,
                )

    def store(self) -> None:
        """Store what came, if it is worth storing."""
        entry = self.entry()
        if entry is not None:
            self.cache.engine.store(self._request, **entry)

    async def astore(self) -> None:
        """``store``, in a thread where the store would block the event loop."""
        entry = self.entry()
        if entry is not None:
            await self.cache.engine.astore(self._request, **entry)

    def entry(self) -> dict[str, Any] | None:
        """What to give to ``cache.engine.store``; None if there is nothing to store."""
        if self._recording is None:
            return None
        try:
            entry = self._recording.entry()
            if entry is None:
                self.cache.engine.skip(
                    "value",
                    "a stream was not stored: it was empty, or its text is not what its pieces add"
                    " up to",
                )
                return None
            return {
                "value": entry[0],
                "response": entry[1],
                "seconds": time.monotonic() - self._began,
                "epoch": self._epoch,
            }
        except Exception as exc:  # noqa: BLE001  # the consumer has had its answer
            self.cache.engine.skip(
                "value", "a stream was not stored: it could not be read (%s)", type(exc).__name__
            )
            return None


def collect(collector: Collector, source: Any) -> Iterator[Any]:
    """Pass *source* through."""
    try:
        for chunk in source:
            collector.add(chunk)
            yield chunk
        collector.store()
    finally:
        if hasattr(source, "close"):
            source.close()


async def acollect(collector: Collector, source: Any) -> AsyncIterator[Any]:
    """``collect`` for an async stream."""
    try:
        async for chunk in source:
            collector.add(chunk)
            yield chunk
        await collector.astore()
    finally:
        if hasattr(source, "aclose"):
            await source.aclose()
