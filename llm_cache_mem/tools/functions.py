"""The decorators: what a call of a decorated function is as the call of a tool."""

import functools
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from llm_cache_mem.decorators import Identity, arguments, by_name, is_coroutine_function, name_of
from llm_cache_mem.tools.rules import Rule, make_rule
from llm_cache_mem.values.classes import register

if TYPE_CHECKING:
    from llm_cache_mem.tools.cache import ToolCache

__all__ = ["cached", "writing"]

F = TypeVar("F", bound=Callable[..., Any])


def cached(
    tools: "ToolCache",
    fn: F,
    name: str | None,
    *,
    version: str = "",
    depends_on: Any = (),
    **said: Any,
) -> F:
    """*fn* as the tool *name* of *tools*; see ToolCache.cached."""
    rule = make_rule(version=version, entities=depends_on, **said)
    if not callable(fn):
        raise TypeError(f"@tools.cached goes on a function, not on {type(fn).__name__}")
    _register_result(fn)
    return _tool(tools, fn, name, rule._replace(version="", identity=Identity(fn, version).params))


def writing(
    tools: "ToolCache", fn: F, name: str | None, *, entities: Any = (), changes: Any = ()
) -> F:
    """*fn* as a tool that changes something; see ToolCache.writing."""
    return _tool(tools, fn, name, make_rule(writes=True, entities=entities, changes=changes))


def _tool(tools: "ToolCache", fn: F, name: str | None, rule: Rule) -> F:
    import inspect

    tool = getattr(fn, "__name__", type(fn).__name__) if name is None else name
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(f"{tool} is a generator; a tool returns its result")
    signature = inspect.signature(fn)
    unknown = (rule.ignore | rule.redact | rule.named_after) - signature.parameters.keys()
    if unknown and not any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()
    ):
        raise ValueError(
            f"{tool} has no argument {', '.join(sorted(unknown))} to ignore, redact or name an"
            " entity after"
        )
    tools._claim(tool, name_of(fn), rule)

    tools.complete(tool, functools.partial(by_name, signature))

    def named(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        found = arguments(signature, args, kwargs)
        first = next(iter(found), None) if found else None
        if (
            found and first is not None and isinstance(found[first], type)
        ):  # the cls of a class method
            found[first] = f"{found[first].__module__}:{found[first].__qualname__}"
        return found

    def now() -> Rule:  # what was said since, of this very function
        return tools._rules[tool]._replace(identity=rule.identity)

    wrapper: Any
    if is_coroutine_function(fn):

        async def acall(*args: Any, **kwargs: Any) -> Any:
            return await tools.acall(
                tool, named(args, kwargs), lambda: fn(*args, **kwargs), rule=now()
            )

        wrapper = acall
    else:

        def call(*args: Any, **kwargs: Any) -> Any:
            return tools.call(tool, named(args, kwargs), lambda: fn(*args, **kwargs), rule=now())

        wrapper = call
    # same signature, by construction
    return functools.wraps(fn)(wrapper)  # type: ignore[return-value]


def _register_result(fn: Any) -> None:
    """Let cached values hold the classes that *fn* is annotated to return; where they cannot be
    told, it is for the user to."""
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
            except TypeError:  # not one that values are made of
                continue
