"""ToolCache: tool results in an LLMCache, for the tools that an application allows."""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import signature
from itertools import product
from typing import Any, Self, TypeVar, overload

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.generations import generation_of_tool
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys.entities import Changed, Entities
from llm_cache_mem.options import INHERITED, Duration, Unset, to_seconds
from llm_cache_mem.tools.calls import Calls, with_ttl_of
from llm_cache_mem.tools.counters import ToolCacheStats
from llm_cache_mem.tools.functions import ToolFunction, cached_rule
from llm_cache_mem.tools.results import FORMS, Results
from llm_cache_mem.tools.rules import Rule, make_rule, rule_for

__all__ = ["ToolCache"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class ToolCache(Calls):
    """Results of tools in *cache*, or in an ``LLMCache(**arguments)`` of its own. Thread-safe.

    Errors, exceptions and results with side effects are never stored; of concurrent identical
    calls one runs. Results live in the namespace of the cache: give each tenant one. In the store,
    each tool and each entity takes one small entry beside the results.

    Args:
        cache: The cache underneath.
        tools: Names of tools that may be cached, or a mapping from names to the lifetime of their
            results (seconds, a timedelta, or None for no limit). ``allow``, ``writes`` and the
            decorators set more.
        **arguments: Those of LLMCache, instead of *cache*.

    Example:
        >>> tools = ToolCache(tools={"get_weather": 600})
        >>> tools.get_or_call("get_weather", {"city": "Bern"}, get_weather)
    """

    def __init__(
        self,
        cache: LLMCache | None = None,
        *,
        tools: Iterable[str] | Mapping[str, Duration] = (),
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
        self._defaults: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {}
        self._versions: dict[str, str] = {}  # of tools whose metadata names one
        for name in tools:
            self.allow(name, ttl_seconds=tools[name] if isinstance(tools, Mapping) else INHERITED)

    @property
    def cache(self) -> LLMCache:
        """The cache underneath."""
        return self._cache

    # -- Rules

    def allow(
        self,
        tool: str,
        *,
        ttl_seconds: Duration = INHERITED,
        version: str = "",
        ignore: Iterable[str] = (),
        redact: Iterable[str] = (),
        depends_on: Entities = (),
    ) -> None:
        """Let *tool* be cached; this replaces any earlier rule for it.

        Args:
            tool: Its name.
            ttl_seconds: The lifetime of its results; by default that of the cache.
            version: Part of the key.
            ignore: Arguments that are not part of the key.
            redact: Arguments that are part of the key as a digest only.
            depends_on: The entities that a result depends on, by name: ``"user:{user_id}"``, which
                the argument of that name fills in (a list: one entity for each item), several of
                these, or a function from the arguments to names.
        """
        self._set_rule(
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
        """Declare that *tool* changes something: it is never cached, and each call of it that
        passes here, also one that fails, invalidates results.

        Args:
            tool: Its name.
            entities: Results that depend on these are invalidated; as *depends_on* of ``allow``. A
                function may take the result as well, which is None if the tool raised.
            tools: Results of these tools are invalidated.
        """
        self._set_rule(tool, make_rule(entities=entities, writes=True, changes=tools))

    def rule(
        self, tool: str, metadata: Mapping[str, Any] | None = None, *, allowed: bool = False
    ) -> Rule | None:
        """How *tool* is cached; None: not at all.

        Args:
            tool: Its name.
            metadata: What the tool declares of itself: ``cacheable``, ``volatile``,
                ``ttl_seconds``, ``version``, and as in MCP, with or without "Hint",
                ``readOnlyHint`` with ``idempotentHint``, which allow, or ``destructiveHint``,
                which forbids in any case.
            allowed: Take a tool that has no rule here as allowed.
        """
        rule = rule_for(metadata or {}, self._rules.get(tool, Rule() if allowed else None))
        if rule is not None and rule.version:
            self._versions[tool] = rule.version
        return rule

    def set_defaults(
        self, tool: str, with_defaults: Callable[[dict[str, Any]], dict[str, Any] | None]
    ) -> None:
        """Have *with_defaults* add the defaults of *tool* to arguments by name, so that calls can
        leave them out; it returns None for arguments that do not fit."""
        self._defaults[tool] = with_defaults

    # -- Calling

    def get_or_call(
        self,
        tool: str,
        args: Mapping[str, Any] | str,
        compute: Callable[..., T],
        *,
        ttl_seconds: Duration = INHERITED,
    ) -> T:
        """The stored result of *tool* for *args*, or that of ``compute(**args)``, which is then
        stored.

        Calling this allows the tool to be cached, unless ``writes`` declares otherwise.

        Args:
            tool: Its name.
            args: The arguments by name, or the JSON text that a model wrote.
            compute: Runs the tool; called without arguments if it takes none of them.
            ttl_seconds: The lifetime of the result; by default that of the tool.
        """
        named = _named(args)
        return self.call(
            tool,
            self._with_defaults(tool, named),
            lambda: _apply(compute, named),
            rule=self._explicit(tool, ttl_seconds),
        )

    async def aget_or_call(
        self,
        tool: str,
        args: Mapping[str, Any] | str,
        compute: Callable[..., Awaitable[T]],
        *,
        ttl_seconds: Duration = INHERITED,
    ) -> T:
        """``get_or_call`` for a coroutine function."""
        named = _named(args)
        return await self.acall(
            tool,
            self._with_defaults(tool, named),
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
        ttl_seconds: Duration = INHERITED,
        version: str = "",
        ignore: Iterable[str] = (),
        redact: Iterable[str] = (),
        depends_on: Entities = (),
    ) -> Callable[[F], F]: ...
    def cached(
        self, fn: F | None = None, /, *, name: str | None = None, **settings: Any
    ) -> F | Callable[[F], F]:
        """Decorate a function or coroutine function as the tool *name*, by default its own name:
        equal arguments run it once.

        Arguments are bound to the signature and defaults applied. The settings are those of
        ``allow``. As for ``LLMCache.cached``, the code of the function, or *version* in its place,
        is part of the key. A ``self`` without a wire form makes calls go uncached;
        ``ignore=["self"]`` declares that all instances give the same results.

        Example:
            >>> @tools.cached(ttl_seconds=600, depends_on="user:{user_id}")
            ... def orders(user_id: int) -> list[dict]: ...
        """

        def decorate(function: F) -> F:
            return self._decorate(function, name, cached_rule(function, **settings))

        return decorate if fn is None else decorate(fn)

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
        """Decorate a function or coroutine function that changes something; see ``writes``."""
        rule = make_rule(writes=True, entities=entities, changes=tools)
        if fn is None:
            return lambda function: self._decorate(function, name, rule)
        return self._decorate(fn, name, rule)

    # -- Invalidation

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
        """Invalidate the result of one call (*tool* and *args*), all results of a tool, all that
        depend on an *entity*, or without arguments those of all tools.

        This takes effect immediately in every process that shares the store. Results of calls
        under way are invalidated too; that of a single call in this process only. Invalid results
        leave the store as they expire or are evicted. For a tool known here as a function or as a
        framework's tool, *args* may leave out defaults.

        Returns:
            Whether there was, or may have been, something to invalidate.

        Raises:
            StoreError: The store failed.
            RequestNotCacheable: Nothing can be stored for these arguments.
        """
        if entity is not None:
            if tool is not None or args is not None or not isinstance(entity, str):
                raise TypeError("give a tool, a tool and its arguments, or the name of one entity")
            return self._results.generations.end(entity)
        if tool is None:
            if args is not None:
                raise TypeError("arguments of which tool?")
            return self._results.generations.end_all() > 0
        _check_name(tool)
        if args is None:
            return self._results.generations.end(generation_of_tool(tool))
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

    # -- Housekeeping

    def stats(self) -> ToolCacheStats:
        """The counters of each tool since this object was made; ``cache.stats()`` includes them."""
        return self._results.by_tool()

    def close(self) -> None:
        """Close the store, if this object opened it. Later calls go uncached."""
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
        return self  # frameworks copy tools, which share one cache

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a ToolCache cannot be pickled, because its rules may hold functions: make one in"
            " each process, on the same store"
        )

    # -- Inside

    def _set_rule(self, tool: str, rule: Rule) -> None:
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
        self._set_rule(tool, rule)
        self.set_defaults(tool, function.with_defaults)
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

    def _with_defaults(self, tool: str, named: Any) -> Any:
        """*named* with the defaults of *tool*, if they are known here."""
        add = self._defaults.get(tool)
        return (add(named) or named) if add is not None and isinstance(named, dict) else named

    def _forget(self, tool: str, named: Any) -> bool:
        found, rule, full = False, self._rules.get(tool, Rule()), self._with_defaults(tool, named)
        rule = rule._replace(version=rule.version or self._versions.get(tool, ""))
        with with_ttl_of(rule):
            for args, form in product(
                [full] if full == named else [named, full], FORMS
            ):  # as a model wrote them, and with defaults
                try:
                    request = self._results.request_of(tool, args, rule, form)
                except RequestNotCacheable:
                    if args is full:
                        raise
                    continue
                found |= self._results.engine.delete(request)
        return found


def _check_name(tool: Any) -> None:
    if not isinstance(tool, str) or not tool:
        raise TypeError(f"a tool is named by a str, not {tool!r}")


def _named(args: Any) -> Any:
    """*args* as a dict, parsed from JSON if it is text; anything else is returned as it is, and
    makes the call go uncached."""
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
            return compute(**named)  # whose error says what is wrong
        return compute()
    except ValueError:  # a builtin without a signature
        pass
    return compute(**named)
