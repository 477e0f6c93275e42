"""CachedSession: a real MCP server in this process, through a Client and through a
ClientSession."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import ClientSession
from mcp.client.client import Client
from mcp.server.mcpserver import MCPServer
from mcp.shared.memory import create_client_server_memory_streams
from mcp.types import CallToolResult, ToolAnnotations

from llm_cache_mem import LLMCache
from llm_cache_mem.tools import CachedSession, ToolCache

PURE = ToolAnnotations(readOnlyHint=True, idempotentHint=True)


class Served:
    """An MCP server whose tools write down that they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.server = MCPServer("shop")
        for name, annotations in {
            "pure": PURE,
            "clock": ToolAnnotations(readOnlyHint=True),
            "setting": ToolAnnotations(idempotentHint=True),
            "deadly": ToolAnnotations(readOnlyHint=True, idempotentHint=True, destructiveHint=True),
            "silent": None,
        }.items():
            self.server.tool(name=name, annotations=annotations)(self._tool(name))
        self.server.tool(name="failing", annotations=PURE)(self._fail)

    def _tool(self, name: str) -> Any:
        def tool(what: str) -> dict[str, str]:
            self.ran.append(name)
            return {"found": what}

        return tool

    def _fail(self, what: str) -> str:
        self.ran.append("failing")
        raise ValueError("no such thing")


@pytest.fixture
def served() -> Served:
    return Served()


@asynccontextmanager
async def client(served: Served) -> AsyncIterator[Any]:
    async with Client(served.server) as made:
        yield made


@asynccontextmanager
async def session(served: Served) -> AsyncIterator[Any]:
    import anyio

    server = served.server._lowlevel_server
    async with (
        create_client_server_memory_streams() as ((read, write), (server_read, server_write)),
        anyio.create_task_group() as group,
    ):
        group.start_soon(
            server.run, server_read, server_write, server.create_initialization_options()
        )
        async with ClientSession(read, write) as made:
            await made.initialize()
            yield made
        group.cancel_scope.cancel()


@pytest.fixture(params=[client, session], ids=["Client", "ClientSession"])
def connect(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize(
    ("tool", "listed", "runs"),
    [
        ("pure", False, 1),
        ("clock", False, 3),
        ("clock", True, 1),
        ("setting", False, 3),
        ("deadly", True, 3),
        ("silent", False, 3),
        ("silent", True, 1),
        ("failing", True, 3),
    ],
)
async def test_only_allowed_tools_are_cached(
    served: Served, connect: Any, tool: str, listed: bool, runs: int
) -> None:
    tools = ToolCache(tools=[tool] if listed else [])
    async with connect(served) as real:
        cached = CachedSession(real, tools)
        found = [await cached.call_tool(tool, {"what": "x"}) for _ in range(3)]
    assert len(served.ran) == runs
    assert all(isinstance(each, CallToolResult) for each in found)
    assert found[2] == found[0]
    assert found[0].is_error is (tool == "failing")
    if tool != "failing":
        assert found[2].structured_content == {"found": "x"}


async def test_another_connection_is_answered_from_the_same_store(
    served: Served, connect: Any, tmp_path: Any
) -> None:
    found = []
    for _ in range(2):
        with LLMCache(backend=tmp_path / "c.db") as cache:
            async with connect(served) as real:
                found.append(await CachedSession(real, cache).call_tool("pure", {"what": "x"}))
    assert served.ran == ["pure"]
    assert found[0] == found[1]


async def test_hints_of_a_server_that_is_not_trusted_only_forbid(served: Served) -> None:
    async with client(served) as real:
        cached = CachedSession(real, ToolCache(tools=["silent", "deadly"]), hints="ignore")
        for tool in ("pure", "silent", "deadly"):
            for _ in range(2):
                await cached.call_tool(tool, {"what": "x"})
    assert served.ran == ["pure", "pure", "silent", "deadly", "deadly"]


async def test_tools_of_two_servers_are_two(served: Served) -> None:
    tools = ToolCache()
    for server in ("one", "two", "one"):
        async with client(served) as real:
            await CachedSession(real, tools, server=server).call_tool("pure", {"what": "x"})
    assert len(served.ran) == 2
    assert set(tools.stats().by_tool) == {"one.pure", "two.pure"}
    assert tools.invalidate("one.pure")


async def test_everything_else_is_the_sessions_own(served: Served, connect: Any) -> None:
    async with connect(served) as real:
        cached = CachedSession(real, ToolCache())
        assert {tool.name for tool in (await cached.list_tools()).tools} >= {"pure", "silent"}
        assert cached.server_info == real.server_info
        assert "silent" not in repr(cached)
        result = await cached.call_tool("unheard of", {})
        assert result.is_error
    with pytest.raises(ValueError, match="honour or ignore"):
        CachedSession(real, ToolCache(), hints="believe")  # type: ignore[arg-type]


async def test_server_hints_are_used_and_listing_tools_is_optional(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Annotations:
        def model_dump(self, **settings: Any) -> dict[str, Any]:
            return {"cacheable": True, "ttl_seconds": "for ever", "version": ["x"], "title": "T"}

    class Session:
        """What is not of the package ``mcp`` but behaves like its sessions."""

        def __init__(self, *, lists: bool) -> None:
            self.calls, self.lists = 0, lists

        async def list_tools(self) -> Any:
            if not self.lists:
                raise ConnectionError("method not found")
            tool = type("Tool", (), {"name": "t", "annotations": Annotations()})()
            return type("Listed", (), {"tools": [tool]})()

        async def call_tool(
            self, name: str, arguments: Any = None, **kwargs: Any
        ) -> CallToolResult:
            self.calls += 1
            return CallToolResult(content=[])

    for lists in (True, False):
        session = Session(lists=lists)
        cached = CachedSession(session, ToolCache())
        for _ in range(2):
            await cached.call_tool("t", {})
        assert session.calls == 2
        listed = CachedSession(session, ToolCache(tools=["t"]))
        for _ in range(2):
            await listed.call_tool("t", {})
            await listed.call_tool("t", {}, meta={"tenant": "ann"})
        assert session.calls == 5
    assert "list_tools raised ConnectionError" in caplog.text
