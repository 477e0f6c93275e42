"""ToolCache: tool results behind an LLMCache, for the tools of which somebody said that they may be
cached."""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import signature
from itertools import product
from typing import Any, Self, TypeVar, overload

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.options import UNSET, Seconds, Unset, to_seconds
from llm_cache_mem.tools.calls import Calls, with_ttl_of
from llm_cache_mem.tools.counters import ToolCacheStats
from llm_cache_mem.tools.functions import ToolFunction, cached_rule
from llm_cache_mem.tools.results import FORMS, Results
from llm_cache_mem.tools.rules import Changed, Entities, Rule, make_rule, verdict

__all__ = ["ToolCache"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class ToolCache(Calls):
    """Tool results in *cache*, or in an ``LLMCache(**arguments)`` of its own. Thread-safe.

    *tools*: names of tools that may be cached, or a mapping from names to how long their results
      live (seconds, a timedelta, or
    None for ever). ``allow``, ``writes`` and the decorators say more. Errors, exceptions and
    results with side effects are never stored; of concurrent identical calls one runs. Results live
    in the namespace of the cache: give each tenant one. In the store each tool and each entity
    takes one small entry beside the results.
    """

    def __init__(
        self,
        cache: LLMCache | None = None,
        *,
        tools: Iterable[str] | Mapping[str, Seconds] = (),
        **arguments: Any,
    ) -> None:
        if cache is not None and arguments:
            raise TypeError("give either a cache or the arguments to make one")
        if cache is not None and not isinstance(cache, LLMCache):
            raise TypeError(f"cache must be an LLMCache, not {type(cache).__name__}")
        if isinstance(tools, str):
            raise TypeError(
                "tools must be a collection of names, or a mapping from names to seconds"
            )
        self._cache = LLMCache(**arguments) if cache is None else cache
        self._owns = cache is None
        super().__init__(Results(self._cache))
        self._rules: dict[str, Rule] = {}
        self._functions: dict[str, str] = {}
        self._wholes: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {}
        self._versions: dict[str, str] = {}  # of tools that tell their own
        for name in tools:
            self.allow(name, ttl_seconds=tools[name] if isinstance(tools, Mapping) else UNSET)

    @property
    def cache(self) -> LLMCache:
        """The cache underneath."""
        return self._cache

    # -- What is said of tools

    def allow(
        self,
        tool: str,
        *,
        ttl_seconds: "Seconds | Unset" = UNSET,
        version: str = "",
        ignore: Iterable[str] = (),
        redact: Iterable[str] = (),
        depends_on: Entities = (),
    ) -> None:
        """Let *tool* be cached, whatever was said of it before.

        *ttl_seconds*: how long its results live; by default as the cache says. *version*: part of
          the key. *ignore*: arguments that
        are not part of the request. *redact*: arguments of which only a digest is. *depends_on*:
        what entities a result tells of, by name: ``"user:{user_id}"``, which the argument of that
        name fills in (a list: one entity for each item), several of these, or a function from the
        arguments to names.
        """
        self._say(
            tool,
            make_rule(
                ttl_seconds=ttl_seconds,
                version=version,
                ignore=ignore,
                redact=redact,
                entities=depends_on,
            ),
        )

    def writes(self, tool: str, *, entities: Changed = (), tools: Iterable[str] = ()) -> None:
        """Say that *tool* changes something: it is never cached, and after each call of it that
        passes here, failed ones too, the results that depend on *entities* and those of *tools* are
        invalid.

        *entities* are written as in ``allow``; a function may take the result as well, which is
          None where the tool raised.
        """
        self._say(tool, make_rule(entities=entities, writes=True, changes=tools))

    def rule(
        self, tool: str, said: Mapping[str, Any] | None = None, *, asked: bool = False
    ) -> Rule | None:
        """How *tool* is cached, by what was said here and, with *said*, by its own metadata; None:
        not at all.

        Of itself a tool may say ``cacheable``, ``volatile``, ``ttl_seconds``, ``version``, and in
        MCP's words or without "Hint" ``readOnlyHint`` with ``idempotentHint``, which allow, or
        ``destructiveHint``, which forbids whatever else is said. *asked*: somebody asks for this
        very tool to be cached, as if it were listed.
        """
        rule = verdict(said or {}, self._rules.get(tool, Rule() if asked else None))
        if rule is not None and rule.version:
            self._versions[tool] = rule.version
        return rule

    def complete(self, tool: str, whole: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
        """Let *whole* add to arguments by name what *tool* has by default (None: they do not fit),
        so that calls are named in short."""
        self._wholes[tool] = whole

    # -- Calling

    def get_or_call(
        self,
        tool: str,
        args: Mapping[str, Any] | str,
        compute: Callable[..., T],
        *,
        ttl_seconds: "Seconds | Unset" = UNSET,
    ) -> T:
        """The stored result of *tool* for *args*, or that of ``compute(**args)``, which is then
        stored.

        A *compute* that takes none of the arguments is called without. *args* may be the JSON text
        that a model wrote. To call this is to say that the tool may be cached, unless ``writes``
        says otherwise.
        """
        named = _named(args)
        return self.call(
            tool,
            self._whole(tool, named),
            lambda: _apply(compute, named),
            rule=self._explicit(tool, ttl_seconds),
        )

    async def aget_or_call(
        self,
        tool: str,
        args: Mapping[str, Any] | str,
        compute: Callable[..., Awaitable[T]],
        *,
        ttl_seconds: "Seconds | Unset" = UNSET,
    ) -> T:
        """``get_or_call`` for a coroutine function."""
        named = _named(args)
        return await self.acall(
            tool,
            self._whole(tool, named),
            lambda: _apply(compute, named),
            rule=self._explicit(tool, ttl_seconds),
        )

    @overload
    def cached(self, fn: F, /) -> F: ...
    @overload
    def cached(
        self,
        /,
        *,
        name: str | None = None,
        ttl_seconds: "Seconds | Unset" = UNSET,
        version: str = "",
        ignore: Iterable[str] = (),
        redact: Iterable[str] = (),
        depends_on: Entities = (),
    ) -> Callable[[F], F]: ...
    def cached(
        self, fn: F | None = None, /, *, name: str | None = None, **said: Any
    ) -> F | Callable[[F], F]:
        """Decorate a function or coroutine function, which is the tool *name* (by default its own),
        so that equal arguments run it once.

        Arguments are bound to the signature and defaults applied. The rest is as in ``allow``, and
        as for ``LLMCache.cached`` the code of the function, or *version* in its place, is part of
        the key. A ``self`` without a wire form makes calls go uncached; ``ignore=["self"]`` says
        that all instances give the same results.
        """
        if fn is None:
            return lambda function: self._decorate(function, name, cached_rule(function, **said))
        return self._decorate(fn, name, cached_rule(fn, **said))

    @overload
    def writing(self, fn: F, /) -> F: ...
    @overload
    def writing(
        self, /, *, name: str | None = None, entities: Changed = (), tools: Iterable[str] = ()
    ) -> Callable[[F], F]: ...
    def writing(
        self,
        fn: F | None = None,
        /,
        *,
        name: str | None = None,
        entities: Changed = (),
        tools: Iterable[str] = (),
    ) -> F | Callable[[F], F]:
        """Decorate a function or coroutine function that changes something, as ``writes`` says it
        of a tool."""
        rule = make_rule(writes=True, entities=entities, changes=tools)
        if fn is None:
            return lambda function: self._decorate(function, name, rule)
        return self._decorate(fn, name, rule)

    # -- What is no longer so

    @overload
    def invalidate(self, tool: str, args: Mapping[str, Any] | str) -> bool: ...
    @overload
    def invalidate(self, tool: str | None = None, /) -> bool: ...
    @overload
    def invalidate(self, *, entity: str) -> bool: ...
    def invalidate(
        self,
        tool: str | None = None,
        args: Mapping[str, Any] | str | None = None,
        *,
        entity: str | None = None,
    ) -> bool:
        """Let nobody be given again what is stored for a call (*tool* and *args*), for a tool, for
        whatever depends on an *entity*, or without any of these for all tools. Whether there was,
        or may have been, something. Of a tool that is known here as a function or a framework's
        tool, *args* may leave out what it has by default.

        It holds at once for every process that shares the store. A call under way will not be
        stored either; for a single call this is so in this process only. What became invalid makes
        room as it gets old, by *max_size* and *ttl_seconds*. StoreError if the store fails,
        RequestNotCacheable for arguments for which nothing can be stored.
        """
        if entity is not None:
            if tool is not None or args is not None or not isinstance(entity, str):
                raise TypeError("give a tool, a tool and its arguments, or the name of one entity")
            return self._results.generations.end(("entity", entity))
        if tool is None:
            if args is not None:
                raise TypeError("arguments of which tool?")
            return self._results.generations.end_all() > 0
        _check_name(tool)
        if args is None:
            return self._results.generations.end(("tool", tool))
        return self._forget(tool, _named(args))

    async def ainvalidate(
        self,
        tool: str | None = None,
        args: Mapping[str, Any] | str | None = None,
        *,
        entity: str | None = None,
    ) -> bool:
        """As ``invalidate``, in a thread where that would wait."""
        return await self._results.engine.off_loop(
            lambda: self.invalidate(tool, args, entity=entity)  # type: ignore[call-overload]
        )

    # -- Looking after it

    def stats(self) -> ToolCacheStats:
        """The counters of each tool since this object was made; ``cache.stats()`` has them among
        all others."""
        return self._results.by_tool()

    def close(self) -> None:
        """Let go of the store, if this object opened it. Calls go on, uncached."""
        if self._owns:
            self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ToolCache({self._cache!r}, tools={sorted(self._rules)})"

    def _repr_html_(self) -> str:
        return self.stats()._repr_html_()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # frameworks copy tools, and mean the same cache

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a ToolCache cannot be pickled, as its rules may hold functions: make one in each"
            " process, on the same store"
        )

    # -- Inside

    def _say(self, tool: str, rule: Rule) -> None:
        _check_name(tool)
        before = self._rules.get(tool)
        self._rules[tool] = (
            rule
            if before is None or rule.identity is not None
            else rule._replace(identity=before.identity)
        )

    def _decorate(self, fn: F, name: str | None, rule: Rule) -> F:
        """*fn* as the tool *name*; ValueError if another function has that name."""
        function = ToolFunction(fn, name, rule)
        tool = function.tool
        if self._functions.setdefault(tool, function.name) != function.name:
            raise ValueError(f"two functions are the tool {tool!r}: give one of them a name=")
        self._say(tool, rule)
        self.complete(tool, function.complete)
        # the rule of the moment, which allow() may have changed, for this very function
        return function.wrapped(self, lambda: self._rules[tool]._replace(identity=rule.identity))

    def _explicit(self, tool: str, ttl_seconds: Any) -> Rule:
        _check_name(tool)
        rule = self._rules.get(tool, Rule())
        return (
            rule
            if isinstance(ttl_seconds, Unset)
            else rule._replace(ttl_seconds=to_seconds(ttl_seconds))
        )

    def _whole(self, tool: str, named: Any) -> Any:
        """*named* with what *tool* has by default, as far as that is known here."""
        whole = self._wholes.get(tool)
        return (whole(named) or named) if whole is not None and isinstance(named, dict) else named

    def _forget(self, tool: str, named: Any) -> bool:
        found, rule, whole = False, self._rules.get(tool, Rule()), self._whole(tool, named)
        rule = rule._replace(version=rule.version or self._versions.get(tool, ""))
        with with_ttl_of(rule):
            for args, form in product(
                [whole] if whole == named else [named, whole], FORMS
            ):  # as a model wrote them, and as they are bound
                try:
                    request = self._results.request_of(tool, args, rule, form, make=False)
                except RequestNotCacheable:
                    if args is whole:
                        raise
                    continue
                found |= request is not None and self._results.engine.delete(request)
        return found


def _check_name(tool: Any) -> None:
    if not isinstance(tool, str) or not tool:
        raise TypeError(f"a tool is named by a str, not {tool!r}")


def _named(args: Any) -> Any:
    """*args* as a dict, parsed if it is the text of one; what is neither stays, and makes the call
    go uncached."""
    if isinstance(args, str):
        try:
            args = json.loads(args)
        except (ValueError, RecursionError):
            return args
    return dict(args) if isinstance(args, Mapping) else args


def _apply(compute: Callable[..., T], named: Any) -> T:
    if not isinstance(named, dict):
        return compute()
    try:
        signature(compute).bind(**named)
    except TypeError:
        try:
            signature(compute).bind()
        except TypeError:
            return compute(**named)  # which says what is wrong
        return compute()
    except ValueError:  # a builtin that tells nothing of itself
        pass
    return compute(**named)
