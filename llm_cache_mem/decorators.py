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
from types import MethodType
from typing import Any, TypeAlias, TypeVar

from llm_cache_mem.engine.circumstances import circumstances_of
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.engine.user_requests import aget_or_call, get_or_call
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys.arguments import exact
from llm_cache_mem.keys.callables import Identity, arguments, name_of
from llm_cache_mem.keys.dependencies import Dependencies
from llm_cache_mem.keys.entities import Entities, namer_of
from llm_cache_mem.keys.request import Request, parameter_names
from llm_cache_mem.options import INHERITED, check_names, options

__all__ = [
    "cached",
    "decorate",
    "is_coroutine_function",
    "takes_messages",
]

F = TypeVar("F", bound=Callable[..., Any])
_Entities: TypeAlias = tuple[Callable[..., list[str]], frozenset[str]]


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
