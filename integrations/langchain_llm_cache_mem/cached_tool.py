"""cached_tool(tool, cache): a tool of the same class that runs once for equal arguments.

A subclass of the tool's class overrides only the methods in which LangChain runs it, with arguments
validated and defaults applied; callbacks, errors, artifacts and the message with the caller's own
id remain LangChain's.
"""

import copy
import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, Tool

from langchain_llm_cache_mem.binding import sharing_state
from langchain_llm_cache_mem.cache import LLMCacheMem
from llm_cache_mem import LLMCache
from llm_cache_mem.keys.entities import Entities
from llm_cache_mem.options import INHERITED, Duration
from llm_cache_mem.tools import ToolCache, wrapping
from llm_cache_mem.tools.results import skip_reason

__all__ = ["cached_tool", "injected", "metadata_of", "tool_cache"]

T = TypeVar("T", bound=BaseTool)

_NO_ARGUMENTS = frozenset({"run_manager", "callbacks", "config"})


def cached_tool(
    tool: T,
    cache: ToolCache | LLMCache | LLMCacheMem,
    *,
    ttl_seconds: Duration = INHERITED,
    version: str = "",
    ignore: Iterable[str] = (),
    redact: Iterable[str] = (),
    depends_on: Entities = (),
) -> T:
    """A copy of *tool* that is answered from *cache*, with the same name, description and schema.

    The settings are those of ``ToolCache.allow``. Exceptions, errors, Commands and whole
    ToolMessages are not stored. The id of the call is not part of the key. An injected state,
    store, runtime or RunnableConfig has no wire form, so calls that get one go uncached, unless
    *ignore* names it.

    Raises:
        TypeError: *tool* is not a BaseTool.
        ValueError: The tool's metadata declares it destructive or not cacheable.
    """
    if not isinstance(tool, BaseTool):
        raise TypeError(
            f"cached_tool() takes a LangChain tool, not {type(tool).__name__}; a function is for"
            " @tools.cached"
        )
    tools = tool_cache(cache)
    wrapping.allow_if_given(
        tools,
        tool.name,
        ttl_seconds=ttl_seconds,
        version=version,
        ignore=ignore,
        redact=redact,
        depends_on=depends_on,
    )
    if tools.rule(tool.name, metadata_of(tool), allowed=True) is None:
        raise ValueError(f"the metadata of the tool {tool.name!r} forbids caching it")
    tools.set_defaults(tool.name, functools.partial(_with_defaults, tool))
    wrapped: Any = copy.copy(tool)
    made = wrapping.cached_class(
        type(tool),
        _run_methods(type(tool)),
        tools,
        plain=sharing_state,
        call=functools.partial(_call, tools),
        namespace={"model_config": {"defer_build": True}},
    )
    object.__setattr__(wrapped, "__class__", made)
    return wrapped  # type: ignore[no-any-return]  # a T, by construction


def tool_cache(
    cache: ToolCache | LLMCache | LLMCacheMem, tools: Iterable[str] | Mapping[str, Duration] = ()
) -> ToolCache:
    """*cache* as a ToolCache that allows *tools* as well."""
    return wrapping.tool_cache(cache.cache if isinstance(cache, LLMCacheMem) else cache, tools)


def metadata_of(tool: Any) -> Mapping[str, Any]:
    """What a tool declares of itself: its metadata, and each of its tags as true."""
    tags, metadata = getattr(tool, "tags", None), getattr(tool, "metadata", None)
    return {
        **dict.fromkeys(tags or (), True),
        **(metadata if isinstance(metadata, Mapping) else {}),
    }


def injected(tool: Any) -> frozenset[str]:
    """The arguments of *tool* that its caller injects and the model does not see, such as a
    RunnableConfig, without the id of the call."""
    if not isinstance(tool, BaseTool):
        return frozenset()
    hidden = {name for name in _fields(tool) if name not in tool.args} | set(
        getattr(tool, "_injected_args_keys", ())
    )
    return frozenset(hidden - _call_ids(tool)) | _configured(tool)


# -- Inside

_LANGCHAINS_OWN = frozenset(
    (cls.__dict__[name].__module__, name)
    for cls in (BaseTool, StructuredTool, Tool)
    for name in ("_run", "_arun")
)


def _with_defaults(tool: BaseTool, named: Mapping[str, Any]) -> dict[str, Any]:
    """*named* with the defaults of the schema."""
    fields = {
        name: field
        for name, field in _fields(tool).items()
        if name in tool.args and not field.is_required()
    }
    return {
        **{name: field.get_default(call_default_factory=True) for name, field in fields.items()},
        **named,
    }


def _fields(tool: BaseTool) -> Mapping[str, Any]:
    schema = tool.args_schema
    return {} if schema is None or isinstance(schema, dict) else getattr(schema, "model_fields", {})


def _call_ids(tool: BaseTool) -> set[str]:
    """The arguments in which *tool* gets the id of the call."""
    fields = _fields(tool).items()
    return {
        "tool_call_id",
        *(
            name
            for name, field in fields
            if any(_is_call_id(each) for each in getattr(field, "metadata", ()))
        ),
    }


def _is_call_id(annotation: Any) -> bool:
    return isinstance(annotation, InjectedToolCallId) or annotation is InjectedToolCallId


def _configured(tool: BaseTool) -> frozenset[str]:
    """The arguments in which the functions of *tool* get the RunnableConfig, which may name the
    user."""
    runs = [getattr(tool, "func", None), getattr(tool, "coroutine", None)]
    for method in map(inspect.unwrap, (type(tool)._run, type(tool)._arun)):
        if (
            method.__module__,
            method.__name__,
        ) not in _LANGCHAINS_OWN:  # these only pass it on
            runs.append(method)
    return frozenset(
        name
        for run in runs
        if run is not None
        for name, hint in _hints(run)
        if hint is RunnableConfig
    )


def _hints(run: Any) -> Iterable[tuple[str, Any]]:
    try:
        return get_type_hints(run.func if isinstance(run, functools.partial) else run).items()
    # annotations hold anything, and LangChain looks for the config in them in the same way
    except Exception:  # noqa: BLE001
        return ()


def _run_methods(cls: type[BaseTool]) -> list[str]:
    """The methods that run a tool; without its own ``_arun`` it runs ``_run`` in a thread."""
    return ["_run"] if cls._arun is BaseTool._arun else ["_run", "_arun"]


def _call(
    tools: ToolCache, tool: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The arguments of ``ToolCache.call`` for a call of *tool*."""
    named = {name: value for name, value in kwargs.items() if not _is_no_argument(tool, name)}
    named |= {name: kwargs.get(name, kwargs.get("config")) for name in _configured(tool)}
    if args:  # of a tool that takes a bare string
        named |= (
            {next(iter(tool.args), "input"): args[0]}
            if len(args) == 1 and len(tool.args) == 1
            else {"args": list(args)}
        )
    rule = tools.rule(tool.name, metadata_of(tool), allowed=True)
    return {"tool": tool.name, "args": named, "rule": rule, "skip": _skip}


def _is_no_argument(tool: Any, name: str) -> bool:
    """Whether LangChain adds *name* to the arguments that the model wrote, which need not all be in
    the schema."""
    return name not in tool.args and (name in _NO_ARGUMENTS or name in _call_ids(tool))


def _skip(result: Any) -> str | None:
    """As ``skip_reason``; nor is a whole message stored, which is addressed to the call that it
    answers. LangChain makes a new one of anything else that a tool returns."""
    return skip_reason(result) or ("tool message" if hasattr(result, "tool_call_id") else None)
