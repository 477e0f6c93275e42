"""ToolCacheMiddleware: an agent's tools answered from a cache, for the tools of which somebody said that they may be."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import Context, copy_context
from typing import Any

from langchain_core.messages import ToolMessage

from langchain_llm_cache_mem.cache import LLMCacheMem
from langchain_llm_cache_mem.harmless import Harmless
from llm_cache_mem import CacheMissError, LLMCache, Request, StoreError, options
from llm_cache_mem.options import UNSET, Seconds, Unset, to_seconds

try:
    from langchain.agents.middleware import AgentMiddleware
    from langchain.agents.middleware.types import ToolCallRequest
    from langgraph.types import Command
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] not in ("langchain", "langgraph"):  # installed but broken: let that error speak
        raise
    raise ImportError("ToolCacheMiddleware needs langchain: pip install langchain", name=exc.name) from None

__all__ = ["ToolCacheMiddleware"]

Result = ToolMessage | Command[Any]

_STORED = frozenset({"content", "artifact", "additional_kwargs", "response_metadata"})


class _NotForStoring(Exception):
    """The call was made, and what it gave is for its caller alone."""


class ToolCacheMiddleware(AgentMiddleware[Any, Any, Any]):
    """Middleware for ``create_agent``: calls of the tools that it is told of are answered from *cache* where they can be.

    *tools*: their names, or a mapping from names to how long their results live (seconds, a timedelta, or None for ever). Beside it a
    tool's own metadata speaks: ``cacheable`` true or false decides; else ``destructive`` or ``volatile`` forbid, and ``read_only``
    with ``idempotent`` (in MCP's words ``readOnlyHint`` with ``idempotentHint``) allow; ``ttl_seconds`` is how long, ``version`` is part
    of the key.

    Errors, exceptions and Commands are never stored; concurrent identical calls are one. What a tool gets injected (state, store,
    runtime) is not part of the key: where a result depends on it, do not list the tool, or give each user a namespace.
    """

    def __init__(self, cache: LLMCache | LLMCacheMem, tools: Iterable[str] | Mapping[str, Seconds] = ()) -> None:
        super().__init__()
        if isinstance(tools, str):
            raise TypeError("tools must be a collection of names, or a mapping from names to seconds")
        self._cache = cache.cache if isinstance(cache, LLMCacheMem) else cache
        self._lifetimes: dict[str, float | Unset | None] = (
            {name: to_seconds(ttl) for name, ttl in tools.items()} if isinstance(tools, Mapping) else dict.fromkeys(tools, UNSET)
        )
        self._harmless = Harmless(self._cache)

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Result]) -> Result:
        """The stored result under this call's id, or that of the tool."""
        key = self._request(request)
        if key is None:
            return handler(request)
        made: list[Result] = []
        began: list[None] = []
        outside = copy_context()  # what the tool itself calls keeps the lifetime that it had

        def call() -> ToolMessage:
            began.append(None)
            made.append(outside.run(handler, request))
            return _storable(made[-1])

        try:
            with options(ttl_seconds=self._lifetime(request)):
                found = self._cache.call(key, call, dump=_dump, load=lambda value: _load(value, request))
        except (CacheMissError, StoreError):
            raise
        except Exception as exc:
            if began and not isinstance(exc, _NotForStoring):
                raise
            return self._unstored(made[-1]) if made else handler(request)  # what failed was the call of another
        return made[-1] if made and found is made[-1] else _readdressed(found, request)

    async def awrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Result]]) -> Result:
        """As ``wrap_tool_call``."""
        key = self._request(request)
        if key is None:
            return await handler(request)
        made: list[Result] = []
        began: list[None] = []
        outside = copy_context()

        async def call() -> ToolMessage:
            began.append(None)
            made.append(await _run_in(outside, handler, request))
            return _storable(made[-1])

        try:
            with options(ttl_seconds=self._lifetime(request)):
                found = await self._cache.acall(key, call, dump=_dump, load=lambda value: _load(value, request))
        except (CacheMissError, StoreError):
            raise
        except Exception as exc:
            if began and not isinstance(exc, _NotForStoring):
                raise
            return self._unstored(made[-1]) if made else await handler(request)
        return made[-1] if made and found is made[-1] else _readdressed(found, request)

    def _request(self, request: ToolCallRequest) -> Request | None:
        """The request that this call is; None: call the tool."""
        with self._harmless:
            name, metadata = request.tool_call["name"], _metadata(request)
            if not _is_allowed(metadata, listed=name in self._lifetimes):
                return None
            params = {"tool": name, "args": request.tool_call["args"]}
            if metadata.get("version") is not None:
                params["version"] = metadata["version"]
            return self._cache.request_or_none([], params, kind="tool")
        return None

    def _lifetime(self, request: ToolCallRequest) -> "Seconds | Unset":
        listed = self._lifetimes.get(request.tool_call["name"], UNSET)
        with self._harmless:
            own = _metadata(request).get("ttl_seconds", UNSET)
            return listed if isinstance(own, Unset) or not isinstance(listed, Unset) else to_seconds(own)
        return UNSET

    def _unstored(self, result: Result) -> Result:
        kind = "a Command" if isinstance(result, Command) else "an error"
        self._cache.bypass("tool", "a tool's result was not stored: it is %s", kind)
        return result


def _metadata(request: ToolCallRequest) -> Mapping[str, Any]:
    metadata = getattr(request.tool, "metadata", None)
    return metadata if isinstance(metadata, Mapping) else {}


def _is_allowed(metadata: Mapping[str, Any], *, listed: bool) -> bool:
    said = metadata.get("cacheable")
    if said is not None:
        return bool(said)
    if metadata.get("destructive") or metadata.get("volatile") or metadata.get("destructiveHint"):
        return False
    read_only = metadata.get("read_only") and metadata.get("idempotent")
    return bool(listed or read_only or (metadata.get("readOnlyHint") and metadata.get("idempotentHint")))


def _storable(result: Result) -> ToolMessage:
    if not isinstance(result, ToolMessage) or result.status == "error":
        raise _NotForStoring
    return result


def _dump(message: ToolMessage) -> Any:
    """A result that is text stands as it is, as one that plain Python stored does; others with what is beside it."""
    beside = {name: value for name in _STORED if (value := getattr(message, name)) not in (None, {}) and name != "content"}
    return {"content": message.content, **beside} if beside or not isinstance(message.content, str) else message.content


def _load(value: Any, request: ToolCallRequest) -> ToolMessage:
    fields = dict(value) if isinstance(value, dict) and "content" in value and value.keys() <= _STORED else {"content": _text(value)}
    fields["response_metadata"] = {**fields.get("response_metadata", {}), "llm_cache_mem": {"hit": True}}
    return ToolMessage(**fields, name=request.tool_call["name"], tool_call_id=request.tool_call["id"])


def _text(value: Any) -> Any:
    """What a tool returned, as LangGraph writes it for a model."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _readdressed(message: ToolMessage, request: ToolCallRequest) -> ToolMessage:
    """*message*, which may have answered the same call of somebody else, as the answer to this one."""
    call_id = request.tool_call["id"]
    return message if message.tool_call_id == call_id else message.model_copy(update={"tool_call_id": call_id, "id": None})


async def _run_in(context: Context, handler: Callable[[ToolCallRequest], Awaitable[Result]], request: ToolCallRequest) -> Result:
    async def run() -> Result:
        return await handler(request)

    return await asyncio.create_task(run(), context=context)
