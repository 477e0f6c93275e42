"""``@cache.cached``: what a call of a decorated function is as a request, for plain, async and
generator functions."""

import functools
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
)
from contextvars import Context, copy_context
from hashlib import sha256
from types import CodeType, MethodType
from typing import Any, TypeAlias, TypeVar

from llm_cache_mem._util.modules import module_name
from llm_cache_mem.engine.circumstances import circumstances_of
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.engine.user_requests import aget_or_call, get_or_call
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.arguments import exact
from llm_cache_mem.keys.dependencies import Dependencies
from llm_cache_mem.keys.entities import Entities, namer_of
from llm_cache_mem.keys.request import FUNCTION, SCOPE, Request, parameter_names
from llm_cache_mem.options import INHERITED, check_names, options

__all__ = [
    "Identity",
    "arguments",
    "by_name",
    "cached",
    "decorate",
    "fingerprint",
    "is_coroutine_function",
    "name_of",
    "takes_messages",
]

F = TypeVar("F", bound=Callable[..., Any])
_Entities: TypeAlias = tuple[Callable[..., list[str]], frozenset[str]]

_POSITIONAL, _KEYWORDS = (
    "cached.args",
    "cached.kwargs",
)  # they hold a dot, so that no parameter of a function can be called the same


def takes_messages(fn: Any) -> bool:
    """Whether *fn* is a bound method with a parameter ``messages``, as SDKs have them."""
    if not isinstance(fn, MethodType) or isinstance(fn.__self__, type):
        return False
    import inspect  # slow to import, and only needed where something is decorated

    try:
        return "messages" in inspect.signature(fn).parameters
    except (TypeError, ValueError):
        return False


def decorate(
    engine: Engine,
    fn: F | None,
    version: str,
    ignore: Iterable[str],
    depends_on: Entities,
    asked: Mapping[str, Any],
) -> F | Callable[[F], F]:
    """See ``LLMCache.cached``; *asked* are its options."""
    names = parameter_names(ignore)
    entities = None if depends_on == () else namer_of(depends_on)
    given = {name: value for name, value in asked.items() if value is not INHERITED}
    around = options(**given) if given else None
    if fn is None:
        return lambda function: cached(engine, function, version, names, around, entities)
    if not given and entities is None and takes_messages(fn):
        return _of_method(engine, fn)
    return cached(engine, fn, version, names, around, entities)


def _of_method(engine: Engine, method: F) -> F:
    """``get_or_call`` with *method*, or ``aget_or_call`` if it is async, called as *method* is."""
    import inspect

    if is_coroutine_function(inspect.unwrap(method)):

        @functools.wraps(method)
        async def acall(*, messages: Any, **params: Any) -> Any:
            return await aget_or_call(engine, messages, method, params)

        return acall  # type: ignore[return-value]  # it is called as *method* is

    @functools.wraps(method)
    def call(*, messages: Any, **params: Any) -> Any:
        return get_or_call(engine, messages, method, params)

    return call  # type: ignore[return-value]  # as above


def cached(
    engine: Engine,
    fn: F,
    version: str,
    ignore: frozenset[str],
    around: options | None = None,
    entities: _Entities | None = None,
) -> F:
    """*fn* behind *engine*, each call inside of the options *around*; see LLMCache.cached.
    *entities* is what ``namer_of`` returns.

    TypeError if *fn* is not a function with a signature.
    """
    import inspect  # slow to import, and only needed where something is decorated

    if not callable(fn):
        raise TypeError(f"@cached goes on a function, not on {type(fn).__name__}")
    calls = _Calls(fn, inspect.signature(fn), version, ignore, entities)
    wrapper: Any
    if inspect.isasyncgenfunction(fn):
        wrapper = _async_generator(engine, fn, calls)
    elif inspect.isgeneratorfunction(fn):
        wrapper = _generator(engine, fn, calls)
    elif is_coroutine_function(fn):
        wrapper = _coroutine(engine, fn, calls)
    else:
        wrapper = _plain(engine, fn, calls)
    if around is not None:
        wrapper = around(wrapper)
    # same signature, by construction
    return functools.wraps(fn)(wrapper)  # type: ignore[return-value]


def is_coroutine_function(fn: Any) -> bool:
    """Whether calling *fn*, a function or an object, gives a coroutine."""
    import inspect

    return inspect.iscoroutinefunction(fn) or (
        not hasattr(fn, "__code__") and inspect.iscoroutinefunction(type(fn).__call__)
    )


def _plain(engine: Engine, fn: Callable[..., Any], calls: "_Calls") -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        request = calls.request(engine, "value", args, kwargs)
        return (
            fn(*args, **kwargs)
            if request is None
            else engine.call(
                request,
                lambda: fn(*args, **kwargs),
                circumstances=lambda: calls.circumstances(args, kwargs),
            )
        )

    return wrapper


def _coroutine(engine: Engine, fn: Callable[..., Any], calls: "_Calls") -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        request = calls.request(engine, "value", args, kwargs)
        return await (
            fn(*args, **kwargs)
            if request is None
            else engine.acall(
                request,
                lambda: fn(*args, **kwargs),
                circumstances=lambda: calls.circumstances(args, kwargs),
            )
        )

    return wrapper


def _generator(engine: Engine, fn: Callable[..., Any], calls: "_Calls") -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Iterator[Any]:
        # Not a generator itself: what options ask for at the call must count, not what they ask for
        # when it is consumed.
        request = calls.request(engine, "stream", args, kwargs)
        return (
            fn(*args, **kwargs)
            if request is None
            else engine.stream(
                request,
                lambda: fn(*args, **kwargs),
                circumstances=lambda: calls.circumstances(args, kwargs),
            )
        )

    return wrapper


def _async_generator(engine: Engine, fn: Callable[..., Any], calls: "_Calls") -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        request = calls.request(engine, "stream", args, kwargs)
        return (
            fn(*args, **kwargs)
            if request is None
            else through(request, copy_context(), args, kwargs)
        )

    async def through(
        request: Request, asked: Context, args: Any, kwargs: Any
    ) -> AsyncIterator[Any]:
        async def begin() -> AsyncIterable[Any]:
            return fn(*args, **kwargs)  # type: ignore[no-any-return]

        stream: Any = await engine.astream(
            request, begin, asked, circumstances=lambda: calls.circumstances(args, kwargs)
        )
        try:
            async for chunk in stream:
                yield chunk
        finally:
            await stream.aclose()

    return wrapper


class Identity:
    """Which function is called: its name and code or, instead of the code, *version*; and the plain
    values outside that it reads."""

    def __init__(self, fn: Callable[..., Any], version: str) -> None:
        self._itself = [name_of(fn), version] if version else _identity(fn)
        self._scope = _Scope(fn)

    def params(self) -> dict[str, Any]:
        """The function's part of a request made now; it may hold objects without a wire
        form."""
        params: dict[str, Any] = {FUNCTION: self._itself}
        scope = self._scope.values()
        if scope:
            params[SCOPE] = scope
        return params


def arguments(
    signature: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The arguments of a call by name, defaults applied; None if they do not fit: what is wrong is
    for the function to say."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        how = signature.parameters[name].kind
        if how is how.VAR_KEYWORD:
            # no keyword of **kwargs may be called like anything else in the request
            free = not any(
                key in signature.parameters or "." in key or key == "messages" for key in value
            )
            named.update(value if free else {_KEYWORDS: value})
        else:
            named[_POSITIONAL if how is how.VAR_POSITIONAL else name] = value
    return named


def by_name(signature: Any, named: Mapping[str, Any]) -> dict[str, Any] | None:
    """``arguments`` of a call that is written as names only, those of positional-only parameters
    too."""
    first = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.POSITIONAL_ONLY and name in named
    ]
    rest = {name: value for name, value in named.items() if name not in first}
    return arguments(signature, tuple(named[name] for name in first), rest)


class _Calls:
    """Turns arguments into requests: messages are the argument of that name, everything else is
    params."""

    def __init__(
        self,
        fn: Callable[..., Any],
        signature: Any,
        version: str,
        ignore: frozenset[str],
        entities: _Entities | None,
    ) -> None:
        self._fn = fn
        self._identity = Identity(fn, version)
        self._signature = signature
        self._ignore = ignore
        self._names_of = None if entities is None else entities[0]
        named_after = frozenset() if entities is None else entities[1]
        if any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values()):
            return
        for what, names in (("ignore", ignore), ("depends_on", named_after)):
            if unknown := names - signature.parameters.keys():
                raise ValueError(
                    f"{what} names no argument of {name_of(fn)}: {', '.join(sorted(unknown))}"
                )

    def request(
        self, engine: Engine, kind: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Request | None:
        """The request that this call is; None if it has no key or does not fit the signature."""
        named = arguments(self._signature, args, kwargs)
        if named is None:
            return None
        params = self._identity.params() | {name: exact(value) for name, value in named.items()}
        messages = params.pop("messages", None)
        for name in self._ignore:
            params.pop(name, None)
        request = engine.request(exact(messages), params, kind=kind)
        return request if self._names_of is None else self._depending(engine, request, named)

    def _depending(
        self, engine: Engine, request: Request | None, named: Mapping[str, Any]
    ) -> Request | None:
        """*request* with the names of what it depends on; None where *named* has no names."""
        if request is None or self._names_of is None:
            return request
        try:
            names = check_names(self._names_of(named))
        except Exception as exc:  # a function of the user's must not break the call
            if engine.is_replay:
                raise
            known = isinstance(exc, RequestNotCacheable)
            why = exc if known else f"depends_on raised {type(exc).__name__}"
            engine.skip("request" if known else "depends_on", "a call goes uncached: %s", why)
            return None
        if request.depends_on is not None:
            names += request.depends_on.names
        return request._replace(depends_on=Dependencies(names)) if names else request

    def circumstances(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable:
        """What outside the request can make this call fail: the arguments that are ignored."""
        named = arguments(self._signature, args, kwargs) or {}
        return circumstances_of(
            self._fn, {name: named[name] for name in self._ignore if name in named}
        )


class _Scope:
    """The plain values outside a function that it reads: two closures made by one function differ
    by them.

    Strings and numbers, of the closure and of the module, count as they are at each call, unless
    the function itself assigns to them. Lists and dicts of the closure count as they were when
    first seen, so that a function that collects something in one is not another function each time.
    Functions count as what they do. Other objects, such as a client, do not count.
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
            found[name] = (
                value
                if value is None or isinstance(value, (str, int, float))
                else self._as_first_seen(name, value)
            )
        return found

    def _as_first_seen(self, name: str, value: Any) -> Any:
        seen = self._first_seen.get(name)
        if seen is None or seen[0] is not value:
            seen = self._first_seen[name] = (
                value,
                _identity(value) if callable(value) else _digest_or_none(value),
            )
        return seen[1]


def _digest_or_none(value: Any) -> str | None:
    try:
        return digest.digest_of(value)
    except RequestNotCacheable:
        return None


def _names_in(code: CodeType) -> tuple[set[str], set[str]]:
    """The globals that *code* and the functions in it read, and the names outside of it that they
    assign to."""
    import dis

    read, assigned = set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(instruction.argval)
        elif instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") or (
            instruction.opname in ("STORE_DEREF", "DELETE_DEREF")
            and instruction.argval in code.co_freevars
        ):
            assigned.add(instruction.argval)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more_read, more_assigned = _names_in(inner)
            read |= more_read
            assigned |= more_assigned
    return read, assigned


def name_of(fn: Any) -> str:
    """``module:qualname`` of a function, or of the class of what is called like one."""
    return f"{module_name(fn)}:{getattr(fn, '__qualname__', type(fn).__qualname__)}"


def _identity(fn: Any) -> list[Any]:
    """What *fn* does, as far as it can be told. Objects in it stay what they are: where they have
    no wire form, neither has the request."""
    if isinstance(fn, functools.partial):
        return ["partial", _identity(fn.func), list(fn.args), dict(fn.keywords)]
    if isinstance(fn, (staticmethod, classmethod)):
        return _identity(fn.__func__)
    if isinstance(fn, MethodType):
        return [
            "method",
            _identity(fn.__func__),
            name_of(fn.__self__) if isinstance(fn.__self__, type) else fn.__self__,
        ]
    code = getattr(fn, "__code__", None)
    if code is None:
        return (
            [name_of(fn)]
            if hasattr(fn, "__qualname__")
            else ["object", _identity(type(fn).__call__), fn]
        )
    wrapped = getattr(fn, "__wrapped__", None)
    return [name_of(fn), fingerprint(code), *([_identity(wrapped)] if wrapped is not None else [])]


def fingerprint(code: CodeType) -> str:
    """A digest of what *code* does, the same in every process of one Python version; edits of it,
    but not of its place, change it."""
    parts: list[str] = [
        code.co_code.hex(),
        code.co_exceptiontable.hex(),
        *code.co_names,
        *code.co_varnames,
        *code.co_freevars,
    ]
    parts += [_constant(value) for value in code.co_consts]
    return sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return fingerprint(value)
    if isinstance(value, tuple):
        return f"({','.join(map(_constant, value))})"
    if isinstance(value, frozenset):  # its order depends on the process
        return f"{{{','.join(sorted(map(_constant, value)))}}}"
    return f"{type(value).__name__} {value!r}"
