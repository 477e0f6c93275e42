"""``@cache.cached``: what a call of a decorated function is as a request, for plain, async and generator functions."""

import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from types import CodeType
from typing import Any, TypeVar

from llm_cache_mem import hashing, keys
from llm_cache_mem.engine import Engine
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.request import Request

__all__ = ["cached"]

F = TypeVar("F", bound=Callable[..., Any])

# These names hold a dot, so that no parameter of a Python function can be called the same.
_FUNCTION, _CLOSURE, _POSITIONAL = "cached.function", "cached.closure", "cached.args"


def cached(engine: Engine, fn: F, version: str, ignore: frozenset[str]) -> F:
    """*fn* behind *engine*; see LLMCache.cached. TypeError if *fn* is not a function with a signature."""
    import inspect  # slow to import, and only needed where something is decorated

    if not callable(fn):
        raise TypeError(f"@cached goes on a function, not on {type(fn).__name__}")
    calls = _Calls(fn, inspect.signature(fn), version, ignore)
    wrapper: Any
    if inspect.isasyncgenfunction(fn):
        wrapper = _async_generator(engine, fn, calls)
    elif inspect.isgeneratorfunction(fn):
        wrapper = _generator(engine, fn, calls)
    elif inspect.iscoroutinefunction(fn):
        wrapper = _coroutine(engine, fn, calls)
    else:
        wrapper = _plain(engine, fn, calls)
    return functools.wraps(fn)(wrapper)  # type: ignore[return-value]  # same signature, by construction


def _plain(engine: Engine, fn: Callable[..., Any], calls: "_Calls") -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        request = calls.request(engine, "value", args, kwargs)
        return fn(*args, **kwargs) if request is None else engine.call(request, lambda: fn(*args, **kwargs))

    return wrapper


def _coroutine(engine: Engine, fn: Callable[..., Any], calls: "_Calls") -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        request = calls.request(engine, "value", args, kwargs)
        return await (fn(*args, **kwargs) if request is None else engine.acall(request, lambda: fn(*args, **kwargs)))

    return wrapper


def _generator(engine: Engine, fn: Callable[..., Any], calls: "_Calls") -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Iterator[Any]:
        request = calls.request(engine, "stream", args, kwargs)
        yield from fn(*args, **kwargs) if request is None else engine.stream(request, lambda: fn(*args, **kwargs))

    return wrapper


def _async_generator(engine: Engine, fn: Callable[..., Any], calls: "_Calls") -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        request = calls.request(engine, "stream", args, kwargs)

        async def begin() -> AsyncIterable[Any]:
            return fn(*args, **kwargs)  # type: ignore[no-any-return]

        stream: Any = await begin() if request is None else await engine.astream(request, begin)
        try:
            async for chunk in stream:
                yield chunk
        finally:
            await stream.aclose()

    return wrapper


class _Calls:
    """Turns arguments into requests: messages are the argument of that name, everything else is params."""

    def __init__(self, fn: Callable[..., Any], signature: Any, version: str, ignore: frozenset[str]) -> None:
        name = f"{getattr(fn, '__module__', '')}:{getattr(fn, '__qualname__', type(fn).__qualname__)}"
        code = getattr(fn, "__code__", None)
        self._identity = [name, version or (fingerprint(code) if code is not None else "")]
        self._closure = _Closure(fn)
        self._signature = signature
        self._ignore = ignore
        parameters = signature.parameters.values()
        unknown = ignore - signature.parameters.keys()
        if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            raise ValueError(f"ignore names no argument of {name}: {', '.join(sorted(unknown))}")

    def request(self, engine: Engine, kind: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request | None:
        """The request that this call is; None if it has no key. Wrong arguments raise the TypeError that *fn* would raise."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        params: dict[str, Any] = {_FUNCTION: self._identity}
        closure = self._closure.values()
        if closure:
            params[_CLOSURE] = closure
        for name, value in bound.arguments.items():
            how = self._signature.parameters[name].kind
            if how is how.VAR_KEYWORD:
                params.update(value)
            else:
                params[_POSITIONAL if how is how.VAR_POSITIONAL else name] = value
        messages = params.pop("messages", None)
        for name in self._ignore:
            params.pop(name, None)
        return engine.request_or_none(messages, params, kind=kind)


class _Closure:
    """The plain values that a function closes over: two closures made by one function differ by them.

    Strings and numbers count as they are at each call. Lists and dicts count as they were when first seen, so that a function
    that collects something in one is not another function each time. Objects, such as a client, do not count.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        cells = getattr(fn, "__closure__", None) or ()
        self._cells = list(zip(fn.__code__.co_freevars, cells, strict=True)) if cells else []
        self._first_seen: dict[str, str | None] = {}

    def values(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, cell in self._cells:
            try:
                value = cell.cell_contents
            except ValueError:  # not yet assigned
                continue
            if value is None or isinstance(value, (str, int, float)):
                found[name] = value
            elif name in self._first_seen:
                found[name] = self._first_seen[name]
            else:
                found[name] = self._first_seen[name] = _digest_or_none(value)
        return found


def _digest_or_none(value: Any) -> str | None:
    try:
        return keys.digest_of(value)
    except RequestNotCacheable:
        return None


def fingerprint(code: CodeType) -> str:
    """A digest of what *code* does, the same in every process of one Python version; edits of it, but not of its place, change it."""
    parts: list[str] = [code.co_code.hex(), *code.co_names, *code.co_varnames, *code.co_freevars]
    parts += [_constant(value) for value in code.co_consts]
    return hashing.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return fingerprint(value)
    if isinstance(value, tuple):
        return f"({','.join(map(_constant, value))})"
    if isinstance(value, frozenset):  # its order depends on the process
        return f"{{{','.join(sorted(map(_constant, value)))}}}"
    return f"{type(value).__name__} {value!r}"
