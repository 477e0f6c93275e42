"""cached_tool(tool, cache): a tool of the same class that runs once for equal arguments."""

import inspect
from collections.abc import Iterable, Mapping
from copy import copy
from functools import partial
from typing import Any, TypeVar

from llama_index.core.tools import FunctionTool, ToolOutput
from llama_index.core.tools.types import AsyncBaseTool, BaseTool

from llama_index_llm_cache_mem.values import decode_block, encode_block
from llm_cache_mem import LLMCache
from llm_cache_mem.keys.callables import arguments
from llm_cache_mem.keys.entities import Entities
from llm_cache_mem.options import INHERITED, Duration
from llm_cache_mem.tools import ToolCache, wrapping
from llm_cache_mem.values.classes import register_package

__all__ = ["cached_tool"]

T = TypeVar("T", bound=BaseTool)

# Returned by the tools of query engines and retrievers, beside the text.
for _package in ("llama_index.core.base.response.schema", "llama_index.core.schema"):
    register_package(_package)


def cached_tool(
    tool: T,
    cache: ToolCache | LLMCache,
    *,
    ttl_seconds: Duration = INHERITED,
    version: str = "",
    ignore: Iterable[str] = (),
    redact: Iterable[str] = (),
    depends_on: Entities = (),
) -> T:
    """A copy of *tool* that is answered from *cache*, with the same metadata and schema.

    The settings are those of ``ToolCache.allow``. Exceptions and outputs with ``is_error`` are not
    stored. The arguments of a FunctionTool are bound to its signature and defaults applied. A
    Context has no wire form, so a tool that takes one goes uncached, unless *ignore* names that
    argument.

    Raises:
        TypeError: *tool* is not a LlamaIndex tool.
    """
    if not isinstance(tool, BaseTool):
        raise TypeError(
            f"cached_tool() takes a LlamaIndex tool, not {type(tool).__name__}; a function is for"
            " @tools.cached"
        )
    tools, name = wrapping.tool_cache(cache), tool.metadata.get_name()
    wrapping.allow_if_given(
        tools,
        name,
        ttl_seconds=ttl_seconds,
        version=version,
        ignore=ignore,
        redact=redact,
        depends_on=depends_on,
    )
    if isinstance(tool, FunctionTool):
        tools.set_defaults(name, lambda named: _arguments(tool, (), named)[0])
    wrapped: Any = copy(tool)
    # LlamaIndex's own mixin adds spans to these methods, so a hit has one too
    wrapped.__class__ = wrapping.cached_class(
        type(tool),
        ("call", "acall") if isinstance(tool, AsyncBaseTool) else ("__call__",),
        tools,
        plain=_plain,
        call=partial(_call, tools),
    )
    return wrapped  # type: ignore[no-any-return]  # a T, by construction


def _plain(tool: Any, cls: type[Any]) -> Any:
    """*tool* as a *cls*, with the same state."""
    plain = copy(tool)
    plain.__class__ = cls
    return plain


def _call(
    tools: ToolCache, tool: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of ``ToolCache.call`` for a call of *tool*."""
    name = tool.metadata.get_name()
    named, given = _arguments(tool, args, kwargs)
    rule = tools.rule(name, allowed=True)
    keeps_input = (
        rule is not None and not (rule.ignore or rule.redact) and not isinstance(tool, FunctionTool)
    )

    def encode(output: ToolOutput) -> dict[str, Any]:
        kept = {
            "blocks": [encode_block(block) for block in output.blocks],
            "raw_output": output.raw_output,
        }
        return {**kept, "raw_input": output.raw_input} if keeps_input else kept

    def decode(stored: Any) -> ToolOutput:
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
        "encode": encode,
        "decode": decode,
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
