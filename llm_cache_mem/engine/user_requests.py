"""Requests as the methods of LLMCache take them: messages and params, and a function to call."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from llm_cache_mem.engine.choices import NO_CHOICES, choices_for
from llm_cache_mem.engine.circumstances import timeout_of
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.errors import NamespaceMissing
from llm_cache_mem.keys.names import as_sent
from llm_cache_mem.keys.request import Request
from llm_cache_mem.options import OPTION_NAMES, hint_at_options

__all__ = ["aget_or_call", "delete", "get_or_call", "value_request"]

_NOT_ASYNC: Final = (
    "aget_or_call takes a function that returns an awaitable, or with stream=True an async iterator"
    " (get_or_call: any other)"
)


def value_request(engine: Engine, messages: Any, params: Mapping[str, Any]) -> Request | None:
    """The request of a value to get or put; None, counted as skipped, only where the cache requires
    a namespace and has none."""
    if not OPTION_NAMES.isdisjoint(params):
        hint_at_options(params)
    try:
        return engine.keyer.request(messages, params, "value")
    except NamespaceMissing as exc:
        if engine.is_replay:
            raise
        engine.skip(exc.skipped_as, "a call goes past the cache: %s", exc)
        return None


def get_or_call(
    engine: Engine, messages: Any, fn: Callable[..., Any], params: dict[str, Any]
) -> Any:
    """See ``LLMCache.get_or_call``."""
    if not OPTION_NAMES.isdisjoint(params):
        hint_at_options(params)
    streaming = bool(params.get("stream"))
    request = engine.request_of(fn, messages, params, "stream" if streaming else "value")
    choices = NO_CHOICES
    if "n" in params and request is not None and not streaming:
        choices = choices_for(engine, request, fn, messages, params)

    def call() -> Any:
        made = fn(messages=messages, **choices.params(params))
        return choices.join(made) if choices else made

    if request is None:
        return call()
    make: Any = engine.stream if streaming else engine.call
    more: Any = {"other": choices.other, "report": choices.codec.report} if choices else {}
    return make(
        request,
        call,
        circumstances=lambda: engine.circumstances(fn, request, params),
        timeout=timeout_of(params),
        **more,
    )


async def aget_or_call(
    engine: Engine, messages: Any, fn: Callable[..., Any], params: dict[str, Any]
) -> Any:
    """See ``LLMCache.aget_or_call``."""
    if not OPTION_NAMES.isdisjoint(params):
        hint_at_options(params)
    streaming = bool(params.get("stream"))
    request = engine.request_of(fn, messages, params, "stream" if streaming else "value")
    choices = NO_CHOICES
    if "n" in params and (found := request) is not None and not streaming:
        choices = await engine.off_loop(lambda: choices_for(engine, found, fn, messages, params))

    async def call() -> Any:
        made = fn(messages=messages, **choices.params(params))
        if streaming and hasattr(made, "__aiter__") and not hasattr(made, "__await__"):
            return made
        if not hasattr(made, "__await__"):
            raise TypeError(f"{_NOT_ASYNC}, not {type(made).__name__}")
        return choices.join(await made) if choices else await made

    if request is None:
        return await call()
    make: Any = engine.astream if streaming else engine.acall
    more: Any = {"other": choices.other, "report": choices.codec.report} if choices else {}
    return await make(
        request,
        call,
        circumstances=lambda: engine.circumstances(fn, request, params),
        timeout=timeout_of(params),
        **more,
    )


def delete(engine: Engine, messages: Any, params: Mapping[str, Any]) -> bool:
    """See ``LLMCache.delete``."""
    keyer, found = engine.keyer, False
    forms = ((params, False), (params, True), (as_sent(params), False))
    for kind in ("value", "stream"):
        made = [keyer.request(messages, sent, kind, exact=exact) for sent, exact in forms]
        for request in {one.key: one for one in made}.values():
            found |= engine.delete(request)
    return found
