"""The events that LlamaIndex sends for a call, sent for a hit: once, tagged, and with no usage to
bill.

LlamaIndex's own decorators send them, around a function that has the answer already, so that every
version sends what it sends for a call of the model.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from copy import copy
from functools import lru_cache
from typing import Any, Final

from llama_index.core.callbacks import TokenCountingHandler
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import (
    Dispatcher,
    active_instrument_tags,
    instrument_tags,
)
from llama_index_instrumentation.event_handlers import NullEventHandler
from llama_index_instrumentation.span_handlers import NullSpanHandler

from llama_index_llm_cache_mem.leaves import Leaf, Target

__all__ = ["HIT_TAG", "aemit", "aemit_stream", "emit", "emit_stream", "in_span"]

HIT_TAG: Final = "llm_cache.hit"


def emit(target: Target, leaf: Leaf, args: Any, kwargs: Any, response: Any) -> None:
    """Send the events of a hit of ``chat`` or ``complete``."""
    if _has_listeners(target.inner, leaf.name):
        with _tagged():
            _answering(target, leaf, response)(*args, **kwargs)


async def aemit(target: Target, leaf: Leaf, args: Any, kwargs: Any, response: Any) -> None:
    """``emit`` for ``achat`` and ``acomplete``."""
    if _has_listeners(target.inner, leaf.name):
        with _tagged():
            await _answering(target, leaf, response)(*args, **kwargs)


def emit_stream(
    target: Target, leaf: Leaf, args: Any, kwargs: Any, chunks: Iterable[Any]
) -> Iterator[Any]:
    """*chunks* as a stream, with the events of each chunk as it comes."""
    if not _has_listeners(target.inner, leaf.name):
        return (chunk for chunk in chunks)
    shown: list[Any] = []
    with _tagged():
        events = _answering(target, leaf, _pops(shown))(*args, **kwargs)
    return _stepwise(chunks, shown, events)


async def aemit_stream(
    target: Target,
    leaf: Leaf,
    args: Any,
    kwargs: Any,
    chunks: Iterable[Any] | AsyncIterable[Any],
) -> AsyncIterator[Any]:
    """``emit_stream`` for an async stream."""
    source = chunks if isinstance(chunks, AsyncIterable) else _asynchronous(chunks)
    if not _has_listeners(target.inner, leaf.name):
        return aiter(source)
    shown: list[Any] = []
    with _tagged():
        events = await _answering(target, leaf, _asynchronous(_pops(shown)))(*args, **kwargs)
    return _astepwise(source, shown, events)


def _pops(shown: list[Any]) -> Iterator[Any]:
    """What is put into *shown*, until there is nothing in it when the next is asked for."""
    while shown:
        yield shown.pop()


def _stepwise(chunks: Iterable[Any], shown: list[Any], events: Any) -> Iterator[Any]:
    """*chunks* for the caller, while *events* sends the events of the copies in *shown*."""
    try:
        for chunk in chunks:
            shown.append(chunk.model_copy())
            with _tagged():
                next(events, None)
            yield chunk
        with _tagged():
            next(events, None)
    finally:
        with _tagged():
            events.close()


async def _astepwise(
    chunks: AsyncIterable[Any], shown: list[Any], events: Any
) -> AsyncIterator[Any]:
    try:
        async for chunk in chunks:
            shown.append(chunk.model_copy())
            with _tagged():
                await anext(events, None)
            yield chunk
        with _tagged():
            await anext(events, None)
    finally:
        with _tagged():
            await events.aclose()


async def _asynchronous(chunks: Iterable[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk


def _tagged() -> AbstractContextManager[None]:
    return instrument_tags({**active_instrument_tags.get(), HIT_TAG: True})


# -- Listeners


def _has_listeners(llm: Any, method: str) -> bool:
    """Whether events, callbacks or spans of this call reach a handler; sending them to none would
    take longer than the hit itself."""
    manager = getattr(llm, "callback_manager", None)
    if getattr(manager, "handlers", None):
        return True
    return _has_handlers(_EVENTS) or _has_handlers(
        get_dispatcher(_module_of(llm.__class__, method))
    )


def _has_handlers(dispatcher: Dispatcher) -> bool:
    while True:
        for handler in dispatcher.event_handlers:
            if type(handler) is not NullEventHandler:
                return True
        for span_handler in dispatcher.span_handlers:
            if type(span_handler) is not NullSpanHandler:
                return True
        if not dispatcher.propagate:
            return False
        dispatcher = dispatcher.parent


_EVENTS: Final = get_dispatcher("llama_index.core.llms.callbacks")


@lru_cache(maxsize=4096)
def _module_of(cls: type, method: str) -> str:
    """The module of the class that defines *method*: its dispatcher sends the spans."""
    return next(
        (base.__module__ for base in cls.__mro__ if method in base.__dict__), cls.__module__
    )


# -- Events


class _Answered:
    """What the decorators need of an LLM: its name and its listeners. No limiter to wait for, no
    tokens to count."""

    rate_limiter = None

    def __init__(self, llm: Any, answer: Any) -> None:
        self._llm = llm
        self.answer = answer
        self.callback_manager = _without_counters(llm.callback_manager)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)


def _without_counters(manager: Any) -> Any:
    handlers = getattr(manager, "handlers", None) or []
    kept = [handler for handler in handlers if not isinstance(handler, TokenCountingHandler)]
    if len(kept) == len(handlers):
        return manager
    manager = copy(manager)
    manager.handlers = kept
    return manager


def _answer() -> Callable[..., Any]:
    def answer(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.answer

    return answer


def _aanswer() -> Callable[..., Any]:
    async def answer(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.answer

    return answer


_DECORATED: Final = {  # a decorator takes each function once, hence one for each
    ("messages", False): llm_chat_callback()(_answer()),
    ("messages", True): llm_chat_callback()(_aanswer()),
    ("prompt", False): llm_completion_callback()(_answer()),
    ("prompt", True): llm_completion_callback()(_aanswer()),
}


def _answering(target: Target, leaf: Leaf, answer: Any) -> Callable[..., Any]:
    """The method *leaf* of the LLM with LlamaIndex's span and events, and *answer* for its body."""
    if not leaf.streams:
        answer = answer.model_copy()  # some versions change what they show
    llm = target.llm
    spanned = _spanned(
        _module_of(target.inner.__class__, leaf.name), leaf.name, leaf.argument, leaf.is_async
    )
    bound: Callable[..., Any] = spanned.__get__(llm, type(llm))

    def method(*args: Any, **kwargs: Any) -> Any:
        token = _answers.set(answer)
        try:
            return bound(*args, **kwargs)
        finally:
            _answers.reset(token)

    async def amethod(*args: Any, **kwargs: Any) -> Any:
        token = _answers.set(answer)
        try:
            return await bound(*args, **kwargs)
        finally:
            _answers.reset(token)

    return amethod if leaf.is_async else method


_answers: ContextVar[Any] = ContextVar("llama_index_llm_cache_mem.answer")


@lru_cache(maxsize=1024)  # the decorator takes as long to apply as the hit itself
def _spanned(module: str, name: str, argument: str, is_async: bool) -> Any:
    """A method that sends the events of a call in a span of *module*'s dispatcher; span handlers
    see the usual signature."""
    decorated = _DECORATED[argument, is_async]

    def chat(self: Any, messages: Any, **kwargs: Any) -> Any:
        return decorated(_Answered(self, _answers.get()), messages, **kwargs)

    async def achat(self: Any, messages: Any, **kwargs: Any) -> Any:
        return await decorated(_Answered(self, _answers.get()), messages, **kwargs)

    def complete(self: Any, prompt: Any, formatted: bool = False, **kwargs: Any) -> Any:
        return decorated(
            _Answered(self, _answers.get()),
            prompt,
            **({"formatted": True, **kwargs} if formatted else kwargs),
        )

    async def acomplete(self: Any, prompt: Any, formatted: bool = False, **kwargs: Any) -> Any:
        return await decorated(
            _Answered(self, _answers.get()),
            prompt,
            **({"formatted": True, **kwargs} if formatted else kwargs),
        )

    bodies: dict[tuple[str, bool], Any] = {
        ("messages", False): chat,
        ("messages", True): achat,
        ("prompt", False): complete,
        ("prompt", True): acomplete,
    }
    return _put_in_span(module, name, bodies[argument, is_async])


def _put_in_span(module: str, name: str, body: Any) -> Any:
    body.__name__ = body.__qualname__ = name
    return get_dispatcher(module).span(body)


def in_span(target: Target, cls: Any, name: str, body: Callable[..., Any]) -> Callable[..., Any]:
    """*body*, a function of (self, ...), as a method of the LLM inside the span that LlamaIndex
    puts around that of *cls*."""
    spanned = _put_in_span(_module_of(cls, name), name, body).__get__(target.llm, type(target.llm))

    def method(*args: Any, **kwargs: Any) -> Any:
        with _tagged():
            return spanned(*args, **kwargs)

    return method
