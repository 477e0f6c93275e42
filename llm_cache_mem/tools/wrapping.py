"""Tools of a framework as cached tools: the parts that the layers for all frameworks share."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.options import INHERITED, Duration
from llm_cache_mem.tools.cache import ToolCache

__all__ = ["allow_if_given", "cached_class", "tool_cache"]

_MARK = "_llm_cache_mem_tool"


def tool_cache(
    cache: ToolCache | LLMCache, tools: Iterable[str] | Mapping[str, Duration] = ()
) -> ToolCache:
    """*cache* as a ToolCache that allows *tools* as well."""
    if not isinstance(cache, ToolCache):
        return ToolCache(cache, tools=tools)
    if isinstance(tools, str):
        raise TypeError("tools must be a collection of names, or a mapping from names to seconds")
    for name in tools:
        cache.allow(name, ttl_seconds=tools[name] if isinstance(tools, Mapping) else INHERITED)
    return cache


def allow_if_given(tools: ToolCache, tool: str, **settings: Any) -> None:
    """Call ``tools.allow(tool, **settings)`` if any of the *settings* is not its default."""
    if any(settings.values()) or settings["ttl_seconds"] is None:
        tools.allow(tool, **settings)


def cached_class(
    cls: type[Any],
    methods: Iterable[str],
    tools: ToolCache,
    *,
    plain: Callable[[Any, Any], Any],
    call: Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Mapping[str, Any]],
    namespace: Mapping[str, Any] | None = None,
) -> type[Any]:
    """A subclass of *cls* with its name, whose *methods* are answered from *tools*.

    If *cls* was made here itself, its cache is replaced.

    Args:
        cls: The class of a framework's tool.
        methods: The names of the methods that run the tool.
        tools: The cache.
        plain: Returns a tool as an instance of another class, with the same state: calls that a
            tool makes on itself are not cached.
        call: Returns the arguments of ``ToolCache.call`` for a tool and the arguments it got.
        namespace: More attributes of the new class.
    """
    base = cls.__mro__[1] if _MARK in cls.__dict__ else cls
    named = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    cached = {name: _cached(getattr(base, name), base, tools, plain, call) for name in methods}
    metaclass: Any = type(base)
    made: type[Any] = metaclass(base.__name__, (base,), {**named, **(namespace or {}), **cached})
    setattr(made, _MARK, True)
    return made


def _cached(method: Any, base: Any, tools: ToolCache, plain: Any, call: Any) -> Any:
    wrapper: Any
    if inspect.iscoroutinefunction(inspect.unwrap(method)):

        async def arun(self: Any, *args: Any, **kwargs: Any) -> Any:
            tool = plain(self, base)
            return await tools.acall(
                run=lambda: method(tool, *args, **kwargs), **call(tool, args, kwargs)
            )

        wrapper = arun
    else:

        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            tool = plain(self, base)
            return tools.call(run=lambda: method(tool, *args, **kwargs), **call(tool, args, kwargs))

        wrapper = run
    # not the attributes of the method, by which frameworks mark those that they have instrumented
    return functools.wraps(method, updated=())(wrapper)
