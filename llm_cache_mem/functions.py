"""``@cache.cached``: what a call of a decorated function is as a request, for plain, async and generator functions."""

import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from contextvars import Context, copy_context
from types import CodeType, MethodType
from typing import Any, TypeVar

from llm_cache_mem import hashing, keys
from llm_cache_mem.engine import Engine
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.request import Request

__all__ = ["cached"]

F = TypeVar("F", bound=Callable[..., Any])

# These names hold a dot, so that no parameter of a Python function can be called the same.
_FUNCTION, _SCOPE, _POSITIONAL, _KEYWORDS = "cached.function", "cached.scope", "cached.args", "cached.kwargs"


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
    elif inspect.iscoroutinefunction(fn) or (not hasattr(fn, "__code__") and inspect.iscoroutinefunction(type(fn).__call__)):
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
        # Not a generator itself: what options ask for at the call must count, not what they ask for when it is consumed.
        request = calls.request(engine, "stream", args, kwargs)
        return fn(*args, **kwargs) if request is None else engine.stream(request, lambda: fn(*args, **kwargs))

    return wrapper


def _async_generator(engine: Engine, fn: Callable[..., Any], calls: "_Calls") -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        request = calls.request(engine, "stream", args, kwargs)
        return fn(*args, **kwargs) if request is None else through(request, copy_context(), args, kwargs)

    async def through(request: Request, asked: Context, args: Any, kwargs: Any) -> AsyncIterator[Any]:
        async def begin() -> AsyncIterable[Any]:
            return fn(*args, **kwargs)  # type: ignore[no-any-return]

        stream: Any = await engine.astream(request, begin, asked)
        try:
            async for chunk in stream:
                yield chunk
        finally:
            await stream.aclose()

    return wrapper


class _Calls:
    """Turns arguments into requests: messages are the argument of that name, everything else is params."""

    def __init__(self, fn: Callable[..., Any], signature: Any, version: str, ignore: frozenset[str]) -> None:
        self._identity = [_name(fn), version] if version else _identity(fn)
        self._scope = _Scope(fn)
        self._signature = signature
        self._ignore = ignore
        parameters = signature.parameters.values()
        unknown = ignore - signature.parameters.keys()
        if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            raise ValueError(f"ignore names no argument of {_name(fn)}: {', '.join(sorted(unknown))}")

    def request(self, engine: Engine, kind: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request | None:
        """The request that this call is; None if it has no key, or does not fit the signature: what is wrong is for *fn* to say."""
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError:
            return None
        bound.apply_defaults()
        params: dict[str, Any] = {_FUNCTION: self._identity}
        scope = self._scope.values()
        if scope:
            params[_SCOPE] = scope
        for name, value in bound.arguments.items():
            how = self._signature.parameters[name].kind
            if how is how.VAR_KEYWORD:
                params.update(value if self._are_free(value) else {_KEYWORDS: value})
            else:
                params[_POSITIONAL if how is how.VAR_POSITIONAL else name] = value
        messages = params.pop("messages", None)
        for name in self._ignore:
            params.pop(name, None)
        return engine.request_or_none(messages, params, kind=kind)

    def _are_free(self, names: Mapping[str, Any]) -> bool:
        """Whether no keyword of ``**kwargs`` is called like anything else in the request."""
        return not any(name in self._signature.parameters or "." in name or name == "messages" for name in names)


class _Scope:
    """The plain values outside a function that it reads: two closures made by one function differ by them.

    Strings and numbers, of the closure and of the module, count as they are at each call, unless the function itself assigns to
    them. Lists and dicts of the closure count as they were when first seen, so that a function that collects something in one is
    not another function each time. Functions count as what they do. Other objects, such as a client, do not count.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        code = getattr(fn, "__code__", None)
        cells = getattr(fn, "__closure__", None) or ()
        read, assigned = _names_in(code) if code is not None else (set(), set())
        pairs = zip(code.co_freevars, cells, strict=True) if code is not None else ()
        self._cells = [(name, cell) for name, cell in pairs if name not in assigned]
        self._globals = getattr(fn, "__globals__", {})
        self._global_names = sorted(read - assigned)
        self._first_seen: dict[str, tuple[Any, Any]] = {}

    def values(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in self._global_names:
            value = self._globals.get(name, self)
            if value is None or isinstance(value, (str, int, float)):
                found[f"global {name}"] = value
        for name, cell in self._cells:
            try:
                value = cell.cell_contents
            except ValueError:  # not yet assigned
                continue
            found[name] = value if value is None or isinstance(value, (str, int, float)) else self._as_first_seen(name, value)
        return found

    def _as_first_seen(self, name: str, value: Any) -> Any:
        seen = self._first_seen.get(name)
        if seen is None or seen[0] is not value:
            seen = self._first_seen[name] = (value, _identity(value) if callable(value) else _digest_or_none(value))
        return seen[1]


def _digest_or_none(value: Any) -> str | None:
    try:
        return keys.digest_of(value)
    except RequestNotCacheable:
        return None


def _names_in(code: CodeType) -> tuple[set[str], set[str]]:
    """The globals that *code* and the functions in it read, and the names outside of it that they assign to."""
    import dis

    read, assigned = set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(instruction.argval)
        elif instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") or (
            instruction.opname in ("STORE_DEREF", "DELETE_DEREF") and instruction.argval in code.co_freevars
        ):
            assigned.add(instruction.argval)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more_read, more_assigned = _names_in(inner)
            read |= more_read
            assigned |= more_assigned
    return read, assigned


def _name(fn: Any) -> str:
    return f"{getattr(fn, '__module__', '')}:{getattr(fn, '__qualname__', type(fn).__qualname__)}"


def _identity(fn: Any) -> list[Any]:
    """What *fn* does, as far as it can be told. Objects in it stay what they are: where they have no wire form, neither has the request."""
    if isinstance(fn, functools.partial):
        return ["partial", _identity(fn.func), list(fn.args), dict(fn.keywords)]
    if isinstance(fn, (staticmethod, classmethod)):
        return _identity(fn.__func__)
    if isinstance(fn, MethodType):
        return ["method", _identity(fn.__func__), _name(fn.__self__) if isinstance(fn.__self__, type) else fn.__self__]
    code = getattr(fn, "__code__", None)
    if code is None:
        return [_name(fn)] if hasattr(fn, "__qualname__") else ["object", _identity(type(fn).__call__), fn]
    wrapped = getattr(fn, "__wrapped__", None)
    return [_name(fn), fingerprint(code), *([_identity(wrapped)] if wrapped is not None else [])]


def fingerprint(code: CodeType) -> str:
    """A digest of what *code* does, the same in every process of one Python version; edits of it, but not of its place, change it."""
    parts: list[str] = [code.co_code.hex(), code.co_exceptiontable.hex(), *code.co_names, *code.co_varnames, *code.co_freevars]
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
