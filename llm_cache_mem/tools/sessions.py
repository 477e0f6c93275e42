"""CachedSession: an MCP session whose tools are answered from a cache, if their hints or the
application allow it."""

import logging
from collections.abc import Mapping
from typing import Any, Literal

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.tools.cache import ToolCache
from llm_cache_mem.tools.rules import HINTS

__all__ = ["CachedSession"]

_log = logging.getLogger(__name__)


class CachedSession:
    """The MCP *session* (a ClientSession or a Client of the package ``mcp``) with its ``call_tool``
    behind *cache*.

    A tool is cached if *cache* allows it, or if its server gives it both ``readOnlyHint`` and
    ``idempotentHint``; never if it gives ``destructiveHint``. Results with ``isError`` are not
    stored. Everything else is passed on to the session. Users whom the server tells apart by a
    token need a namespace each.

    Args:
        session: The session to call.
        cache: The cache, or the ToolCache with its rules.
        server: Put in front of the names of tools in the cache (``server.tool``), to keep the tools
            of several servers apart; "" leaves the bare name.
        hints: ``ignore`` for servers that are not trusted: then only *cache* allows tools.
    """

    def __init__(
        self,
        session: Any,
        cache: ToolCache | LLMCache,
        *,
        server: str = "",
        hints: Literal["honour", "ignore"] = "honour",
    ) -> None:
        if hints not in ("honour", "ignore"):
            raise ValueError(f"hints must be honour or ignore, not {hints!r}")
        self._session = session
        self._tools = cache if isinstance(cache, ToolCache) else ToolCache(cache)
        self._server = server
        self._trusts = hints == "honour"
        self._hints: dict[str, Mapping[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def __repr__(self) -> str:
        return f"CachedSession({type(self._session).__name__}, {self._tools!r})"

    async def list_tools(self, *args: Any, **kwargs: Any) -> Any:
        """The tools of the session; their hints apply from now on."""
        listed = await self._session.list_tools(*args, **kwargs)
        for tool in listed.tools:
            self._hints[tool.name] = _hints(tool)
        return listed

    async def call_tool(
        self, name: str, arguments: dict[str, Any] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """The stored result, or that of the session. A call with ``meta``, or one that continues
        another, goes uncached."""

        async def run() -> Any:
            return await self._session.call_tool(name, arguments, *args, **kwargs)

        tool = f"{self._server}.{name}" if self._server else name
        special = any(kwargs.get(more) for more in ("meta", "input_responses", "request_state"))
        rule = None if special else self._tools.rule(tool, await self._hints_of(name))
        return await self._tools.acall(
            tool, arguments or {}, run, rule=rule, form="tool-mcp", encode=_encode, decode=_decode
        )

    async def _hints_of(self, name: str) -> Mapping[str, Any]:
        if name not in self._hints:
            try:
                await self._list_all_tools()
            # the call itself will show whether the tool can be called
            except Exception as exc:  # noqa: BLE001
                _log.warning(
                    "the hints of an MCP server's tools are unknown: list_tools raised %s",
                    type(exc).__name__,
                )
        hints = self._hints.setdefault(name, {})
        return (
            hints
            if self._trusts
            else {key: value for key, value in hints.items() if key == "destructiveHint"}
        )

    async def _list_all_tools(self) -> None:
        cursor = None
        while True:
            listed = await (self.list_tools(cursor=cursor) if cursor else self.list_tools())
            cursor = getattr(listed, "next_cursor", None) or getattr(listed, "nextCursor", None)
            if not cursor:
                return


def _hints(tool: Any) -> Mapping[str, Any]:
    annotations = tool.annotations
    given = {} if annotations is None else annotations.model_dump(by_alias=True, exclude_none=True)
    return {name: given[name] for name in HINTS if name in given}


def _encode(result: Any) -> Any:
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


def _decode(value: Any) -> Any:
    from mcp.types import CallToolResult

    return CallToolResult.model_validate(value)
