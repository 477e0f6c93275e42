"""Decorated functions as tools: their rules, their arguments by name, their wrappers."""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from llm_cache_mem.decorators import is_coroutine_function
from llm_cache_mem.keys.callables import Identity, arguments, by_name, name_of
from llm_cache_mem.tools.calls import Calls
from llm_cache_mem.tools.rules import Rule, make_rule
from llm_cache_mem.values.classes import register

__all__ = ["ToolFunction", "cached_rule"]

F = TypeVar("F", bound=Callable[..., Any])


def cached_rule(
    fn: Callable[..., Any], *, version: str = "", depends_on: Any = (), **settings: Any
) -> Rule:
    """The rule of the cached function *fn*: its code, or *version*, is part of the key."""
    rule = make_rule(version=version, entities=depends_on, **settings)
    if not callable(fn):
        raise TypeError(f"@tools.cached goes on a function, not on {type(fn).__name__}")
    _register_result(fn)
    return rule._replace(version="", identity=Identity(fn, version).params)


class ToolFunction(Generic[F]):
    """The function *fn* as the tool *name*, by default its own name, with a *rule*."""

    def __init__(self, fn: F, name: str | None, rule: Rule) -> None:
        self.tool = getattr(fn, "__name__", type(fn).__name__) if name is None else name
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(f"{self.tool} is a generator; a tool returns its result")
        self._fn, self._signature = fn, inspect.signature(fn)
        parameters = self._signature.parameters
        unknown = (rule.ignore | rule.redact | rule.named_after) - parameters.keys()
        if unknown and not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            raise ValueError(
                f"{self.tool} has no argument {', '.join(sorted(unknown))} to ignore, redact or"
                " name an entity after"
            )
        self.name = name_of(fn)
        self.with_defaults = functools.partial(by_name, self._signature)

    def wrapped(self, calls: Calls, rule: Callable[[], Rule]) -> F:
        """*fn* called through *calls*, by the rule of that moment."""
        fn, tool, named = self._fn, self.tool, self._arguments
        wrapper: Any
        if is_coroutine_function(fn):

            async def acall(*args: Any, **kwargs: Any) -> Any:
                return await calls.acall(
                    tool, named(args, kwargs), lambda: fn(*args, **kwargs), rule=rule()
                )

            wrapper = acall
        else:

            def call(*args: Any, **kwargs: Any) -> Any:
                return calls.call(
                    tool, named(args, kwargs), lambda: fn(*args, **kwargs), rule=rule()
                )

            wrapper = call
        # same signature, by construction
        return functools.wraps(fn)(wrapper)  # type: ignore[return-value]

    def _arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The arguments by name; the class in front of a class method's by its name."""
        found = arguments(self._signature, args, kwargs)
        first = next(iter(found), None) if found else None
        if found and first is not None and isinstance(found[first], type):
            found[first] = name_of(found[first])
        return found


def _register_result(fn: Any) -> None:
    """Register the classes that *fn* is annotated to return, so that they can be stored."""
    try:
        pending = [typing.get_type_hints(fn).get("return")]
    except Exception:  # noqa: BLE001  # annotations hold anything
        return
    while pending:
        annotation = pending.pop()
        pending += typing.get_args(annotation)
        if isinstance(annotation, type) and annotation.__module__ != "builtins":
            try:
                register(annotation)
            except TypeError:  # not a class that values are made of
                continue
