"""The eight methods that reach a model, through the cache: a hit, a miss, and a stream in progress
that identical calls share."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from functools import partial
from itertools import chain
from typing import Any

from llama_index_llm_cache_mem import events
from llama_index_llm_cache_mem.leaves import Args, Kwargs, Leaf, Target
from llama_index_llm_cache_mem.requests import other_request, request_of_leaf
from llama_index_llm_cache_mem.streaming import (
    Recording,
    answer_in,
    as_chunks,
    read_chunks,
    read_whole,
)
from llama_index_llm_cache_mem.usage import zero_usage
from llama_index_llm_cache_mem.validation import note_answer
from llama_index_llm_cache_mem.values import decode, decode_tree, encode
from llm_cache_mem import Request
from llm_cache_mem.engine.circumstances import circumstances_of, timeout_of
from llm_cache_mem.engine.reader import Hit, Other
from llm_cache_mem.values.classes import named_in
from llm_cache_mem.values.entry import Entry

__all__ = ["ModelCall", "acall", "ashare", "astream", "call", "share", "stream"]


class _Reading:
    """What a call of *leaf* makes of a stored answer to *request*: a hit in the form of the
    leaf."""

    def __init__(
        self, target: Target, leaf: Leaf, request: Request, args: Args, kwargs: Kwargs
    ) -> None:
        self._zero = target.usage == "zero"
        self._params = request.params
        self._target = target
        self._arguments = args, kwargs
        other = other_request(target, leaf, request)
        self.other = Other(
            other,
            self._whole_as_stream if leaf.streams else self._stream_as_whole,
            partial(self.verify, other, leaf.other()),
        )

    def verify_some(self, request: Request, leaf: Leaf, hit: Hit) -> None:
        """Verify *hit* if it is one of those to verify."""
        if self._target.cache.engine.verifier_for(request) is None:
            return
        if hit.other is None:
            self.verify(request, leaf, hit.entry)
        else:
            hit.other.verify(hit.entry)

    def verify(self, request: Request, leaf: Leaf, entry: Entry) -> None:
        """Have *leaf* called again, to verify *entry*, which is its answer to *request*."""
        verifier = self._target.cache.engine.verifier
        if verifier is None:
            return
        again = ModelCall(self._target.method(leaf.name), *self._arguments)
        if leaf.streams:
            offer = verifier.averify_stream if leaf.is_async else verifier.verify_stream
            offer(request, entry, again, self.recording, answer_in)
        else:
            call_again = verifier.averify_call if leaf.is_async else verifier.verify_call
            call_again(request, entry, again, encode)

    def recording(self) -> Recording:
        """The recording of a stream in progress."""
        return Recording(self.chunk)

    def hit(self, response: Any) -> Any:
        """*response* with the usage that a hit reports."""
        return zero_usage(response) if self._zero and response is not None else response

    def whole(self, stored: Any) -> Any:
        """The answer in one piece."""
        return self.hit(decode(stored))

    def chunk(self, tree: Any) -> Any:
        """One chunk of a stream in progress."""
        with named_in(self._params):
            return self.hit(decode_tree(tree))

    def chunks(self, stored: Any) -> list[Any]:
        """The chunks of a stream."""
        with named_in(self._params):
            return [self.hit(chunk) for chunk in read_chunks(stored)]

    def _stream_as_whole(self, stored: Any) -> Any:
        with named_in(self._params):
            return self.hit(read_whole(stored))

    def _whole_as_stream(self, stored: Any) -> list[Any] | None:
        chunks = as_chunks(decode(stored))
        return None if chunks is None else [self.hit(chunk) for chunk in chunks]


# -- Whole answers


def call(target: Target, leaf: Leaf, args: Args, kwargs: Kwargs) -> Any:
    """``llm.chat(...)`` or ``llm.complete(...)``."""
    method = target.method(leaf.name)
    request = request_of_leaf(target, leaf, args, kwargs)
    if request is None:
        return method(*args, **kwargs)
    model, reading = ModelCall(method, args, kwargs), _Reading(target, leaf, request, args, kwargs)
    response = target.cache.engine.call(
        request,
        model,
        encode=encode,
        decode=reading.whole,
        circumstances=lambda: circumstances_of(getattr(target.inner, leaf.name), kwargs),
        timeout=timeout_of(kwargs, target.inner),
        other=reading.other,
        zero_usage=target.usage == "zero",
        again=ModelCall(method, args, kwargs),
    )
    note_answer(target.cache, request, reading.other.request)
    if not model.called:
        events.emit(target, leaf, args, kwargs, response)
    return response


async def acall(target: Target, leaf: Leaf, args: Args, kwargs: Kwargs) -> Any:
    """``await llm.achat(...)`` or ``await llm.acomplete(...)``."""
    method = target.method(leaf.name)
    request = request_of_leaf(target, leaf, args, kwargs)
    if request is None:
        return await method(*args, **kwargs)
    model, reading = ModelCall(method, args, kwargs), _Reading(target, leaf, request, args, kwargs)
    response = await target.cache.engine.acall(
        request,
        model,
        encode=encode,
        decode=reading.whole,
        circumstances=lambda: circumstances_of(getattr(target.inner, leaf.name), kwargs),
        timeout=timeout_of(kwargs, target.inner),
        other=reading.other,
        zero_usage=target.usage == "zero",
        again=ModelCall(method, args, kwargs),
    )
    note_answer(target.cache, request, reading.other.request)
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
    engine, reading = target.cache.engine, _Reading(target, leaf, request, args, kwargs)
    hit = engine.lookup(request, reading.chunks, reading.other, zero_usage=target.usage == "zero")
    if hit is not None:
        reading.verify_some(request, leaf, hit)
        return events.emit_stream(target, leaf, args, kwargs, hit.value)
    shared = engine.share_stream(
        request,
        ModelCall(method, args, kwargs),
        recording=reading.recording,
        decode=reading.chunks,
        circumstances=lambda: circumstances_of(getattr(target.inner, leaf.name), kwargs),
        timeout=timeout_of(kwargs, target.inner),
    )
    return share(shared, lambda chunks: events.emit_stream(target, leaf, args, kwargs, chunks))


async def astream(target: Target, leaf: Leaf, args: Args, kwargs: Kwargs) -> Any:
    """``await llm.astream_chat(...)`` or ``await llm.astream_complete(...)``."""
    method = target.method(leaf.name)
    request = request_of_leaf(target, leaf, args, kwargs)
    if request is None:
        return await method(*args, **kwargs)
    engine, reading = target.cache.engine, _Reading(target, leaf, request, args, kwargs)
    hit = await engine.alookup(
        request, reading.chunks, reading.other, zero_usage=target.usage == "zero"
    )
    if hit is not None:
        reading.verify_some(request, leaf, hit)
        return await events.aemit_stream(target, leaf, args, kwargs, hit.value)
    shared = await engine.ashare_stream(
        request,
        ModelCall(method, args, kwargs),
        recording=reading.recording,
        decode=reading.chunks,
        circumstances=lambda: circumstances_of(getattr(target.inner, leaf.name), kwargs),
        timeout=timeout_of(kwargs, target.inner),
    )
    return ashare(shared, lambda chunks: events.aemit_stream(target, leaf, args, kwargs, chunks))


def share(shared: Any, as_hit: Callable[[Iterator[Any]], Iterator[Any]]) -> Any:
    """The chunks of *shared*, with the events that *as_hit* adds if another caller's call gives
    them: a call of its own sends its own. What is no stream is returned as it is."""

    def chunks() -> Iterator[Any]:
        with closing(shared):
            for first in shared:  # only now it is sure whose call it is
                rest = chain((first,), shared)
                yield from as_hit(rest) if shared.coalesced else rest

    return chunks() if hasattr(shared, "coalesced") else shared


def ashare(shared: Any, as_hit: Callable[[AsyncIterator[Any]], Any]) -> Any:
    """``share`` for an async stream; *as_hit* is awaited."""

    async def from_first(first: Any) -> AsyncIterator[Any]:
        yield first
        async for chunk in shared:
            yield chunk

    async def chunks() -> AsyncIterator[Any]:
        async with aclosing(shared):
            async for first in shared:
                rest = from_first(first)
                async for chunk in await as_hit(rest) if shared.coalesced else rest:
                    yield chunk

    return chunks() if hasattr(shared, "coalesced") else shared
