"""What outside the key can make a call fail: only callers that share it share an exception."""

from collections.abc import Callable, Hashable, Mapping
from contextvars import copy_context
from functools import partial
from types import ModuleType
from typing import Any, Final

from llm_cache_mem.keys.clients import gets_credential, is_of_sdk
from llm_cache_mem.keys.identity import settings_of

__all__ = ["callee_of", "circumstances_of", "timeout_of"]

_TIMEOUTS = ("timeout", "request_timeout", "default_request_timeout")
_PLAIN = (str, int, float, bool, type(None))
_DEPTH: Final = 3
"""How many functions deep to look."""
_OURS: Final = "llm_cache_mem"
_TRACING: Final = frozenset(
    {
        *("current_context", "active_span_id", "active_instrument_tags"),  # the span of a call
        *("current_async_library_cvar", "decimal_context"),  # of anyio and of decimal
    }
)
"""Context variables that make no call fail."""
_HOLDERS: Final = frozenset(
    {
        *("_client", "client", "async_client", "root_client", "root_async_client", "_aclient"),
        *("_client_wrapper", "httpx_client", "sdk_configuration"),
    }
)
"""Where clients, and models of frameworks, have the clients that they send with."""


def circumstances_of(fn: Callable[..., Any], outside: Mapping[str, Any]) -> Hashable:
    """What tells a call of *fn* with the arguments *outside* the key from another of the same key.

    Plain values count as what they are, other objects as themselves. A function may read its
    credentials from the context, so the context variables of its caller count; the methods of
    known SDKs and frameworks read none. Where a client gets its credential by a function, or an
    object cannot be looked at, no two calls are alike. It is compared while calls are under way,
    and never stored or shown.
    """
    try:
        callee, used = _seen(fn)
        if any(map(_hides_credential, (*used, *outside.values()))) or any(
            gets_credential(name, value) for name, value in outside.items()
        ):
            return object()
        owner = getattr(fn, "__self__", None)
        context = () if owner is not None and is_of_sdk(owner) else _context()
        marks = sorted((name, _mark(value)) for name, value in outside.items())
        return callee, tuple(marks), context
    except Exception:  # noqa: BLE001  # of a foreign object, such as a proxy without its target
        return object()


def callee_of(fn: Any) -> Hashable:
    """What *fn* calls: two lambdas of one line with the same client in them are one callee."""
    return _seen(fn)[0]


def _seen(fn: Any) -> tuple[Hashable, list[Any]]:
    """What *fn* calls, and the objects that it uses for that, as far as they can be seen: those
    that it was made with or that its code names, and those of the functions among them."""
    functions = {id(fn): 0}
    to_see, used = [(fn, _DEPTH)], []
    marks: list[Hashable] = []
    for function, depth in to_see:  # which grows meanwhile, so that the nearest are seen first
        if depth == 0:
            marks.append(id(function))
            continue
        kind, values = _parts(function)
        used += values
        held: list[Hashable] = []
        for value in values:
            if _is_function(value) and id(value) not in functions:
                functions[id(value)] = len(to_see)
                to_see.append((value, depth - (not isinstance(function, partial))))
            number = functions.get(id(value))
            held.append(_mark(value) if number is None else ("function", number))
        marks.append((kind, tuple(held)))
    return tuple(marks), used


def _parts(fn: Any) -> tuple[Hashable, list[Any]]:
    """What *fn* is, and the values in it: those that it is bound to, closes over or was given as
    arguments, its attributes, if it has any, as one, and those that its code names."""
    if isinstance(fn, partial):
        return tuple(fn.keywords), [fn.func, *fn.args, *fn.keywords.values()]
    owner, code = getattr(fn, "__self__", None), getattr(fn, "__code__", None)
    bound = [] if owner is None else [owner]
    if code is None:
        return (id(fn) if owner is None else (id(owner), getattr(fn, "__name__", ""))), bound
    cells = map(_content, fn.__closure__ or ())
    defaults = *(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()
    attributes = [vars(fn)] if vars(fn) else []
    named = map(fn.__globals__.get, code.co_names)
    settings = [value for value in named if not isinstance(value, (int, float))]  # nor counts
    return (code, id(fn.__globals__)), [*bound, *cells, *defaults, *attributes, *settings]


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _hides_credential(value: Any, depth: int = 3) -> bool:
    """Whether *value* is a client, or a model with one, whose credential cannot be seen: a function
    returns it, or it is put into requests by a part of the HTTP client."""
    if isinstance(value, type | ModuleType):
        return False
    for name, item in settings_of(value):
        if gets_credential(name, item):
            return True
        if name in _HOLDERS and depth and _hides_credential(item, depth - 1):
            return True
    return False


def _context() -> Hashable:
    return frozenset(
        (var.name, id(var), _mark(value))
        for var, value in copy_context().items()
        if _OURS not in var.name and var.name.partition("-")[0] not in _TRACING
    )


def timeout_of(params: Mapping[str, Any], model: Any = None) -> float | None:
    """The seconds that a caller is ready to wait, from its ``timeout``: a number, or an
    ``httpx.Timeout``, of which the time to read counts. None for no limit, or none that is known.

    Without one, that of a framework's *model* counts, once for each time that the model would try.
    """
    for name in _TIMEOUTS:
        if (seconds := _seconds(params.get(name))) is not None:
            return seconds
    for name in _TIMEOUTS if model is not None else ():
        if (seconds := _seconds(getattr(model, name, None))) is not None:
            retries = getattr(model, "max_retries", None)
            return seconds * (1 + (retries if type(retries) is int and retries > 0 else 0))
    return None


def _seconds(timeout: Any) -> float | None:
    if isinstance(timeout, tuple) and timeout:  # to connect and to read
        timeout = timeout[-1]
    try:
        timeout = getattr(timeout, "read", timeout)
    except Exception:  # noqa: BLE001  # of a foreign object
        return None
    usable = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and timeout >= 0
    return float(timeout) if usable else None


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _mark(value: Any) -> Hashable:
    """*value* if it is plain, else the object itself by its identity, which holds while its caller
    waits."""
    if type(value) in _PLAIN:
        return type(value).__name__, repr(value)
    return "id", id(value)
