"""ToolCacheMiddleware: tools of an agent answered from a cache, for the tools that are allowed."""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from langchain_core.messages import ToolMessage

from langchain_llm_cache_mem.cache import LLMCacheMem
from langchain_llm_cache_mem.cached_tool import injected, metadata_of, tool_cache
from llm_cache_mem import LLMCache
from llm_cache_mem.options import Duration
from llm_cache_mem.tools import Rule, ToolCache

try:
    from langchain.agents.middleware import AgentMiddleware
    from langchain.agents.middleware.types import ToolCallRequest
    from langgraph.types import Command
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] not in (
        "langchain",
        "langgraph",
    ):  # installed but broken: let that error speak
        raise
    raise ImportError(
        "ToolCacheMiddleware needs langchain: pip install langchain", name=exc.name
    ) from None

__all__ = ["ToolCacheMiddleware"]

Result = ToolMessage | Command[Any]

_STORED = frozenset({"content", "artifact", "additional_kwargs", "response_metadata"})


class ToolCacheMiddleware(AgentMiddleware[Any, Any, Any]):
    """Middleware for ``create_agent`` that answers calls of allowed tools from *cache*.

    The rules of a ToolCache apply. A tool's own metadata and tags count too: ``cacheable`` true or
    false decides; else ``volatile`` forbids, and ``read_only`` with ``idempotent`` (in MCP
    ``readOnlyHint`` with ``idempotentHint``) allow; ``destructive`` forbids in any case;
    ``ttl_seconds`` is the lifetime of results, ``version`` part of the key.

    Errors, exceptions and Commands are never stored; of concurrent identical calls one runs. A tool
    that gets state, a store, the runtime or the config injected goes uncached, unless
    ``ToolCache.allow(..., ignore=[...])`` names those arguments: its results may depend on them.
    Results that differ by user need a namespace for each user.

    Args:
        cache: The cache, or the ToolCache with its rules.
        tools: Names of tools that may be cached, or a mapping from names to the lifetime of their
            results (seconds, a timedelta, or None for no limit).
    """

    def __init__(
        self,
        cache: ToolCache | LLMCache | LLMCacheMem,
        tools: Iterable[str] | Mapping[str, Duration] = (),
    ) -> None:
        super().__init__()
        self._tools = tool_cache(cache, tools)
        self._fail_open = self._tools.cache.engine.fail_open

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Result]
    ) -> Result:
        """The stored result under this call's id, or that of the tool."""
        call = request.tool_call
        found = self._tools.call(
            call["name"], call["args"], lambda: handler(request), **self._call_arguments(request)
        )
        return _readdressed(found, request)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Result]]
    ) -> Result:
        """As ``wrap_tool_call``."""
        call = request.tool_call
        found = await self._tools.acall(
            call["name"], call["args"], lambda: handler(request), **self._call_arguments(request)
        )
        return _readdressed(found, request)

    def _call_arguments(self, request: ToolCallRequest) -> dict[str, Any]:
        return {
            "rule": self._rule(request),
            "form": "tool-message",
            "encode": _encode,
            "decode": lambda value: _decode(value, request),
        }

    def _rule(self, request: ToolCallRequest) -> Rule | None:
        with self._fail_open:
            rule = self._tools.rule(request.tool_call["name"], metadata_of(request.tool))
            if rule is None or rule.writes:
                return rule
            if unseen := injected(request.tool) - rule.ignore:
                self._tools.cache.engine.skip(
                    "injected",
                    "a tool's result was not stored: it may depend on %s",
                    ", ".join(sorted(unseen)),
                )
                return None
            return rule
        return None


def _encode(message: ToolMessage) -> Any:
    """The stored value: the text of a result alone, or its content with its other fields."""
    beside = {
        name: value
        for name in _STORED
        if (value := getattr(message, name)) not in (None, {}) and name != "content"
    }
    return (
        {"content": message.content, **beside}
        if beside or not isinstance(message.content, str)
        else message.content
    )


def _decode(value: Any, request: ToolCallRequest) -> ToolMessage:
    fields = (
        dict(value)
        if isinstance(value, dict) and "content" in value and value.keys() <= _STORED
        else {"content": _text(value)}
    )
    fields["response_metadata"] = {
        **fields.get("response_metadata", {}),
        "llm_cache_mem": {"hit": True},
    }
    return ToolMessage(
        **fields, name=request.tool_call["name"], tool_call_id=request.tool_call["id"]
    )


def _text(value: Any) -> Any:
    """The result of a tool as LangGraph writes it for a model."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _readdressed(result: Result, request: ToolCallRequest) -> Result:
    """*result*, which may come from an equal call, as the answer to this one."""
    call_id = request.tool_call["id"]
    if not isinstance(result, ToolMessage) or result.tool_call_id == call_id:
        return result
    return result.model_copy(update={"tool_call_id": call_id, "id": None})
