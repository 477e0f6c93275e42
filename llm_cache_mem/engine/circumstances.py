"""What outside the key can make a call fail: only callers that share it share an exception."""

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

__all__ = ["callee_of", "circumstances_of", "timeout_of"]

_TIMEOUTS = ("timeout", "request_timeout", "default_request_timeout")
_PLAIN = (str, int, float, bool, type(None))


def circumstances_of(fn: Callable[..., Any], outside: Mapping[str, Any]) -> Hashable:
    """What tells a call of *fn* with the arguments *outside* the key from another of the same key.

    Plain values count as what they are, other objects as themselves. It is compared while calls
    are under way, and never stored or shown.
    """
    return callee_of(fn), tuple(sorted((name, _mark(value)) for name, value in outside.items()))


def callee_of(fn: Any) -> Hashable:
    """What *fn* calls: two lambdas of one line with the same client in them are one callee."""
    if isinstance(fn, partial):
        keywords = tuple(sorted((name, _mark(value)) for name, value in fn.keywords.items()))
        return callee_of(fn.func), tuple(map(_mark, fn.args)), keywords
    bound = getattr(fn, "__self__", None)
    if bound is not None:
        return id(bound), getattr(fn, "__name__", "")
    code = getattr(fn, "__code__", None)
    if code is None:
        return id(fn)
    cells = tuple(_cell(cell) for cell in fn.__closure__ or ())
    defaults = tuple(map(_mark, fn.__defaults__ or ()))
    return code, id(fn.__globals__), cells, defaults


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
    timeout = getattr(timeout, "read", timeout)
    usable = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and timeout >= 0
    return float(timeout) if usable else None


def _cell(cell: Any) -> Hashable:
    try:
        value = cell.cell_contents
    except ValueError:  # not assigned yet
        return None
    return callee_of(value) if callable(value) and not isinstance(value, type) else _mark(value)


def _mark(value: Any) -> Hashable:
    """*value* if it is plain, else the object itself by its identity, which holds while its caller
    waits."""
    if type(value) in _PLAIN:
        return type(value).__name__, repr(value)
    return "id", id(value)
