"""cached_tool(tool, cache): the same tool, of the same class, which runs once for the same
arguments."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from typing import Any, TypeVar

from llama_index.core.tools import FunctionTool, ToolOutput
from llama_index.core.tools.types import AsyncBaseTool, BaseTool

from llama_index_llm_cache_mem.values import decode_block, encode_block
from llm_cache_mem import LLMCache
from llm_cache_mem.decorators import arguments
from llm_cache_mem.options import UNSET, Seconds, Unset
from llm_cache_mem.tools import ToolCache
from llm_cache_mem.tools.rules import Entities
from llm_cache_mem.values.classes import register_package

__all__ = ["cached_tool"]

T = TypeVar("T", bound=BaseTool)

_MARK = "_lcm_cached_tool"

# What the tools of query engines and retrievers return beside the text.
for _package in ("llama_index.core.base.response.schema", "llama_index.core.schema"):
    register_package(_package)


def cached_tool(
    tool: T,
    cache: ToolCache | LLMCache,
    *,
    ttl_seconds: "Seconds | Unset" = UNSET,
    version: str = "",
    ignore: Iterable[str] = (),
    redact: Iterable[str] = (),
    depends_on: Entities = (),
) -> T:
    """A copy of *tool* that answers from *cache*: the same metadata and schema, called or awaited,
    alone and in agents.

    The settings are those of ``ToolCache.allow``. Exceptions and outputs with ``is_error`` are not
    stored. Of a FunctionTool the arguments are bound to its signature and defaults applied. A
    Context has no wire form, so a tool that takes one goes uncached, unless *ignore* names that
    argument. TypeError for what is no tool.
    """
    if not isinstance(tool, BaseTool):
        raise TypeError(
            f"cached_tool() takes a LlamaIndex tool, not {type(tool).__name__}; a function is for"
            " @tools.cached"
        )
    tools = cache if isinstance(cache, ToolCache) else ToolCache(cache)
    told: dict[str, Any] = {
        "ttl_seconds": ttl_seconds,
        "version": version,
        "ignore": ignore,
        "redact": redact,
        "depends_on": depends_on,
    }
    if any(told.values()) or ttl_seconds is None:
        tools.allow(tool.metadata.get_name(), **told)
    if isinstance(tool, FunctionTool):
        tools.complete(tool.metadata.get_name(), lambda named: _arguments(tool, (), named)[0])
    cls = type(tool)
    if _MARK in cls.__dict__:  # cached already: its cache is replaced
        cls = cls.__mro__[1]
    names = ("call", "acall") if isinstance(tool, AsyncBaseTool) else ("__call__",)
    methods = {name: _method(cls, name, tools) for name in names}
    named = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        _MARK: True,
    }
    made: Any = copy(tool)
    metaclass: Any = type(cls)
    made.__class__ = metaclass(cls.__name__, (cls,), {**named, **methods})
    return made  # type: ignore[no-any-return]  # a T, by construction


def _method(cls: type[Any], name: str, tools: ToolCache) -> Callable[..., Any]:
    """The method that LlamaIndex calls, to which its own mixin adds the span, on a hit too."""
    original = getattr(cls, name)
    found: Any
    if name == "acall":

        async def amethod(self: Any, *args: Any, **kwargs: Any) -> Any:
            plain = _plain(self, cls)
            return await tools.acall(
                run=lambda: original(plain, *args, **kwargs), **_call(plain, args, kwargs, tools)
            )

        found = amethod
    else:

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            plain = _plain(self, cls)
            return tools.call(
                run=lambda: original(plain, *args, **kwargs), **_call(plain, args, kwargs, tools)
            )

        found = method
    found.__name__, found.__qualname__, found.__doc__ = (
        name,
        f"{cls.__qualname__}.{name}",
        original.__doc__,
    )
    return found  # type: ignore[no-any-return]


def _plain(tool: Any, cls: type[Any]) -> Any:
    """*tool* as if it were not cached: what it calls on itself is not answered from the cache
    halfway."""
    plain = copy(tool)
    plain.__class__ = cls
    return plain


def _call(
    tool: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], tools: ToolCache
) -> dict[str, Any]:
    """What ToolCache.call is to know of a call."""
    name = tool.metadata.get_name()
    named, given = _arguments(tool, args, kwargs)
    rule = tools.rule(name, asked=True)
    keeps_input = (
        rule is not None and not (rule.ignore or rule.redact) and not isinstance(tool, FunctionTool)
    )

    def dump(output: ToolOutput) -> dict[str, Any]:
        kept = {
            "blocks": [encode_block(block) for block in output.blocks],
            "raw_output": output.raw_output,
        }
        return {**kept, "raw_input": output.raw_input} if keeps_input else kept

    def load(stored: Any) -> ToolOutput:
        blocks = [decode_block(block) for block in stored["blocks"]]
        return ToolOutput(
            name,
            blocks=blocks,
            raw_input=stored.get("raw_input", given),
            raw_output=stored["raw_output"],
        )

    return {
        "tool": name,
        "args": named,
        "rule": rule,
        "form": "tool-output",
        "dump": dump,
        "load": load,
    }


def _arguments(
    tool: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The arguments by name, which are the call, and as LlamaIndex reports them in
    ToolOutput.raw_input."""
    if not isinstance(tool, FunctionTool):
        return ({"args": list(args), **kwargs} if args else dict(kwargs)), {
            "args": args,
            "kwargs": dict(kwargs),
        }
    everything = {**getattr(tool, "_field_defaults", {}), **tool.partial_params, **kwargs}
    given = {name: value for name, value in everything.items() if name != tool.ctx_param_name}
    return arguments(inspect.signature(tool.real_fn), args, everything), {
        "args": args,
        "kwargs": given,
    }
