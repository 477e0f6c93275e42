"""Streams of a wrapped model: replayed where they are stored, else shared by identical requests and
stored when they have ended cleanly."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, closing
from functools import partial
from typing import Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.outputs import Generation

from langchain_llm_cache_mem.agreement import answer_in
from langchain_llm_cache_mem.binding import Binding, binding_of, with_manager
from langchain_llm_cache_mem.generations import dump, dump_stream, load, mark_hits, tell_run
from llm_cache_mem import Request
from llm_cache_mem.engine.circumstances import circumstances_of, timeout_of
from llm_cache_mem.engine.streams import ChunkRecording

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

    def call(manager: CallbackManagerForLLMRun | None = run_manager) -> Iterator[Any]:
        limiter = model.rate_limiter if isinstance(model, BaseChatModel) else None
        if limiter is not None:
            limiter.acquire(blocking=True)
        for chunk in model._stream(prompt, stop, **with_manager(manager, kwargs)):
            yield mark(chunk)

    request = binding.request(model, prompt, stop, kwargs, run_manager)
    mark = _Mark(binding, request)
    if request is None:
        yield from call()
        return
    recording = partial(_Recording, binding, request)
    hit = binding.lookup(request, binding.load_stream)
    if hit is None:
        shared = binding.cache.engine.share_stream(
            request,
            call,
            recording=recording,
            decode=binding.load_stream,
            circumstances=lambda: circumstances_of(wrapped._stream, kwargs),
            timeout=timeout_of(kwargs, model),
        )
        with closing(shared):
            for chunk in shared:
                tell_run(run_manager, [chunk])
                if shared.coalesced and run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
        return
    verifier = binding.cache.engine.verifier_for(request)
    if verifier is not None:
        verifier.verify_stream(request, hit.entry, lambda: call(None), recording, answer_in)
    yield from _replay(hit.value, run_manager)


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

    async def call(
        manager: AsyncCallbackManagerForLLMRun | None = run_manager,
    ) -> AsyncGenerator[Any, None]:
        limiter = model.rate_limiter if isinstance(model, BaseChatModel) else None
        if limiter is not None:
            await limiter.aacquire(blocking=True)
        source = model._astream(prompt, stop, **with_manager(manager, kwargs))
        async with _closing(source) as chunks:
            async for chunk in chunks:
                yield mark(chunk)

    async def begin(
        manager: AsyncCallbackManagerForLLMRun | None = run_manager,
    ) -> AsyncGenerator[Any, None]:
        return call(manager)

    request = binding.request(model, prompt, stop, kwargs, run_manager)
    mark = _Mark(binding, request)
    if request is None:
        async with aclosing(call()) as chunks:
            async for chunk in chunks:
                yield chunk
        return
    recording = partial(_Recording, binding, request)
    hit = await binding.alookup(request, binding.load_stream)
    if hit is None:
        shared = await binding.cache.engine.ashare_stream(
            request,
            begin,
            recording=recording,
            decode=binding.load_stream,
            circumstances=lambda: circumstances_of(wrapped._astream, kwargs),
            timeout=timeout_of(kwargs, model),
        )
        async with aclosing(shared):
            async for chunk in shared:
                tell_run(run_manager, [chunk])
                if shared.coalesced and run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
        return
    verifier = binding.cache.engine.verifier_for(request)
    if verifier is not None:
        verifier.averify_stream(request, hit.entry, lambda: begin(None), recording, answer_in)
    async for chunk in _areplay(hit.value, run_manager):
        yield chunk


def _replay(chunks: list[Any], run_manager: CallbackManagerForLLMRun | None) -> Iterator[Any]:
    """The chunks of a hit, which LangChain hears of as of those of a call."""
    tell_run(run_manager, chunks)
    for chunk in chunks:
        if run_manager is not None:
            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk


async def _areplay(
    chunks: list[Any], run_manager: AsyncCallbackManagerForLLMRun | None
) -> AsyncIterator[Any]:
    tell_run(run_manager, chunks)
    for chunk in chunks:
        if run_manager is not None:
            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk


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


class _Mark:
    """Marks the first chunk of a stream with which an installed HTTP layer has answered."""

    def __init__(self, binding: Binding, request: Request | None) -> None:
        self._binding = binding
        self._request = request

    def __call__(self, chunk: T) -> T:
        request, self._request = self._request, None
        if request is not None:
            below = self._binding.cache.engine.layers.peek(request.key)
            if below is not None and below.is_hit:
                mark_hits([chunk], keep_usage=self._binding.usage == "keep", stream=True)
        return chunk


class _Recording(ChunkRecording):
    """The chunks of a stream, stored as generations are."""

    def __init__(self, binding: Binding, request: Request) -> None:
        super().__init__()
        self._binding = binding
        self._params = request.params
        self._count = 0

    def encode(self, chunk: Generation) -> Any:
        self._count += 1
        return {"first": self._count == 1, "chunk": dump([chunk], self._params)[0]}

    def decode(self, stored: Any) -> Any:
        return self._binding.load_chunk(stored["chunk"], first=stored["first"])

    def entry(self) -> tuple[Any, Any]:
        chunks = [stored["chunk"] for stored in self.chunks()]
        return dump_stream(chunks), load(chunks)
