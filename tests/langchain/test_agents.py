"""Agents and graphs: models behind the cache, and tools behind ToolCacheMiddleware."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from langchain.agents import create_agent
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, tool
from langchain_doubles import Counting, Streaming
from langchain_llm_cache_mem import LLMCacheMem, cached
from langchain_llm_cache_mem.tools import ToolCacheMiddleware
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from llm_cache_mem import LLMCache, options


class Caller(Counting):
    """Calls the tool ``lookup`` for what it is asked, then tells what came of it."""

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self._calls.append(messages)
        if isinstance(messages[-1], ToolMessage):
            answer = AIMessage(f"it is {messages[-1].text}")
        else:
            call = {
                "name": "lookup",
                "args": {"what": messages[-1].text},
                "id": f"call_{self.calls}",
            }
            answer = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=answer)])


class Tools:
    """The tool ``lookup``, and how often it ran."""

    def __init__(
        self, result: Callable[[str], Any] = lambda what: f"<{what}>", **settings: Any
    ) -> None:
        self.runs = 0

        @tool("lookup", **settings)
        def lookup(what: str) -> Any:
            """Look something up."""
            self.runs += 1
            return result(what)

        self.lookup: BaseTool = lookup


def ask(agent: Any, what: str = "x", *, asynchronous: bool = False) -> list[Any]:
    state = {"messages": [HumanMessage(what)]}
    return (asyncio.run(agent.ainvoke(state)) if asynchronous else agent.invoke(state))["messages"]


# -- Models


@pytest.mark.parametrize("way", ["global cache", "cached"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_agent_run_three_times_asks_its_model_as_often_as_once(
    cache: LLMCacheMem, way: str, asynchronous: bool
) -> None:
    model = Caller()
    if way == "cached":
        model = cached(model, cache)
    else:
        set_llm_cache(cache)
    agent = create_agent(model, [Tools().lookup])
    calls = []
    for _ in range(3):
        assert ask(agent, asynchronous=asynchronous)[-1].text == "it is <x>"
        calls.append(model.calls)
    assert calls == [2, 2, 2]


@pytest.mark.parametrize("way", ["global cache", "cached"])
def test_a_graph_keeps_both_of_two_equal_turns(cache: LLMCacheMem, way: str) -> None:
    model = Streaming()
    if way == "cached":
        model = cached(model, cache)
    else:
        set_llm_cache(cache)

    def chat(state: MessagesState) -> Any:
        return {"messages": [model.invoke([SystemMessage("s"), state["messages"][-1]])]}

    graph = StateGraph(MessagesState).add_node("chat", chat).add_edge(START, "chat").compile()
    state: Any = {"messages": []}
    for _ in range(2):
        state = graph.invoke({"messages": [*state["messages"], HumanMessage("hello")]})
    assert [message.type for message in state["messages"]] == ["human", "ai", "human", "ai"]
    assert model.calls == 1
    streamed = list(
        graph.stream(
            {"messages": [*state["messages"], HumanMessage("hello")]}, stream_mode="messages"
        )
    )
    assert "".join(message.text for message, _ in streamed).strip() == "hello #1"


# -- Tools


def middle(cache: LLMCacheMem, own: Tools, **settings: Any) -> Any:
    return create_agent(Caller(), [own.lookup], middleware=[ToolCacheMiddleware(cache, **settings)])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_listed_tool_runs_once(cache: LLMCacheMem, asynchronous: bool) -> None:
    tools = Tools()
    agent = middle(cache, tools, tools=["lookup"])
    results = [ask(agent, asynchronous=asynchronous)[2] for _ in range(3)]
    assert tools.runs == 1
    assert [(result.content, result.name, result.status) for result in results] == [
        ("<x>", "lookup", "success")
    ] * 3
    assert [result.tool_call_id for result in results] == ["call_1", "call_3", "call_5"]
    assert "llm_cache_mem" not in results[0].response_metadata
    assert results[1].response_metadata["llm_cache_mem"] == {"hit": True}
    ask(agent, "y", asynchronous=asynchronous)
    assert tools.runs == 2


def test_sync_and_async_agents_share(cache: LLMCacheMem) -> None:
    tools = Tools()
    agent = middle(cache, tools, tools=["lookup"])
    ask(agent)
    ask(agent, asynchronous=True)
    assert tools.runs == 1


@pytest.mark.parametrize(
    ("metadata", "listed", "runs"),
    [
        (None, False, 2),
        (None, True, 1),
        ({"cacheable": True}, False, 1),
        ({"cacheable": False}, True, 2),
        ({"destructive": True}, True, 2),
        ({"volatile": True}, True, 2),
        ({"read_only": True}, False, 2),
        ({"read_only": True, "idempotent": True}, False, 1),
        ({"readOnlyHint": True, "idempotentHint": True}, False, 1),
        ({"cacheable": True, "volatile": True}, False, 1),
        ({"cacheable": True, "destructive": True}, True, 2),
        ({"readOnlyHint": True, "idempotentHint": True, "destructiveHint": True}, True, 2),
    ],
)
def test_only_where_it_was_requested(metadata: Any, listed: bool, runs: int) -> None:
    tools = Tools()
    tools.lookup.metadata = metadata
    agent = middle(LLMCacheMem(), tools, tools=["lookup"] if listed else [])
    ask(agent)
    ask(agent)
    assert tools.runs == runs


def test_another_version_of_a_tool_is_another_tool(cache: LLMCacheMem) -> None:
    tools = Tools()
    for version in ("1", "2", "2"):
        tools.lookup.metadata = {"version": version}
        ask(middle(cache, tools, tools=["lookup"]))
    assert tools.runs == 2


@pytest.mark.parametrize("where", ["list", "metadata"])
def test_each_tool_has_a_lifetime_of_its_own(clock: Any, where: str) -> None:
    inner = LLMCacheMem(clock=clock)
    model = Counting(cache=inner)
    tools = Tools(lambda what: model.invoke(what).text)
    cache = LLMCacheMem(clock=clock)
    tools.lookup.metadata = {"ttl_seconds": 10} if where == "metadata" else None
    agent = middle(cache, tools, tools={"lookup": 10} if where == "list" else ["lookup"])
    for advance, runs in ((0, 1), (9, 1), (2, 2)):
        clock.advance(advance)
        ask(agent)
        assert tools.runs == runs
    assert model.calls == 1  # what the tool asked lives for an hour, as its own cache says


def test_an_artifact_and_blocks_come_back(cache: LLMCacheMem) -> None:
    tools = Tools(
        lambda what: ([{"type": "text", "text": "<x>"}], {"rows": [1, 2]}),
        response_format="content_and_artifact",
    )
    agent = middle(cache, tools, tools=["lookup"])
    first, second = (ask(agent)[2] for _ in range(2))
    assert (
        (second.content, second.artifact)
        == (first.content, first.artifact)
        == ([{"type": "text", "text": "<x>"}], {"rows": [1, 2]})
    )


def failing(what: str) -> Any:
    raise ValueError("no such thing")


def commanding(what: str) -> Any:
    return Command(update={"messages": [ToolMessage("done", tool_call_id="call_1")]})


@pytest.mark.parametrize("asynchronous", [False, True])
def test_errors_that_are_answers_are_not_stored(cache: LLMCacheMem, asynchronous: bool) -> None:
    tools = Tools(failing)
    tools.lookup.handle_tool_error = True
    handler_calls = 0
    middleware = ToolCacheMiddleware(cache, ["lookup"])

    def answer(request: Any) -> ToolMessage:
        nonlocal handler_calls
        handler_calls += 1
        return ToolMessage("no such thing", tool_call_id=request.tool_call["id"], status="error")

    async def aanswer(request: Any) -> ToolMessage:
        return answer(request)

    for _ in range(2):
        request: Any = Request(tools.lookup)
        found = (
            asyncio.run(middleware.awrap_tool_call(request, aanswer))
            if asynchronous
            else middleware.wrap_tool_call(request, answer)
        )
        assert found.status == "error"
    assert handler_calls == 2
    assert cache.stats().skipped == {"tool error": 2}


class Request:
    """What middleware is given for one call of a tool."""

    def __init__(self, tool: BaseTool | None, call_id: str = "call_1") -> None:
        self.tool = tool
        self.tool_call = {"name": "lookup", "args": {"what": "x"}, "id": call_id}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_commands_are_not_stored(cache: LLMCacheMem, asynchronous: bool) -> None:
    middleware = ToolCacheMiddleware(cache, ["lookup"])
    command = commanding("x")

    async def awaited(request: Any) -> Any:
        return command

    for _ in range(2):
        request: Any = Request(None)
        if asynchronous:
            assert asyncio.run(middleware.awrap_tool_call(request, awaited)) is command
        else:
            assert middleware.wrap_tool_call(request, lambda request: command) is command
    assert cache.stats().stored == 0
    assert cache.stats().skipped == {"side effect": 2}


def test_exceptions_are_not_stored_and_are_raised(cache: LLMCacheMem) -> None:
    tools = Tools(failing)
    agent = middle(cache, tools, tools=["lookup"])
    for runs in (1, 2):
        with pytest.raises(ValueError, match="no such thing"):
            ask(agent)
        assert tools.runs == runs


async def test_concurrent_calls_are_one_each_under_its_own_id(cache: LLMCacheMem) -> None:
    middleware, runs = ToolCacheMiddleware(cache, ["lookup"]), 0

    async def handler(request: Any) -> ToolMessage:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.01)
        return ToolMessage("<x>", tool_call_id=request.tool_call["id"])

    requests: list[Any] = [Request(None, f"call_{i}") for i in range(10)]
    found = await asyncio.gather(
        *(middleware.awrap_tool_call(request, handler) for request in requests)
    )
    assert runs == 1
    assert [message.tool_call_id for message in found] == [f"call_{i}" for i in range(10)]


async def test_the_failure_of_one_is_not_that_of_others(cache: LLMCacheMem) -> None:
    middleware, runs = ToolCacheMiddleware(cache, ["lookup"]), 0

    async def handler(request: Any) -> ToolMessage:
        nonlocal runs
        runs += 1
        mine = runs
        await asyncio.sleep(0.01)
        if mine == 1:
            raise ValueError("no such thing")
        return ToolMessage("<x>", tool_call_id=request.tool_call["id"])

    requests: list[Any] = [Request(None, f"call_{i}") for i in range(5)]
    found = await asyncio.gather(
        *(middleware.awrap_tool_call(request, handler) for request in requests),
        return_exceptions=True,
    )
    assert [isinstance(message, ValueError) for message in found].count(True) == 1


def test_a_namespace_keeps_users_apart(cache: LLMCacheMem) -> None:
    tools = Tools()
    agent = middle(cache, tools, tools=["lookup"])
    for user in ("ann", "bob", "ann"):
        with options(namespace=user):
            ask(agent)
    assert tools.runs == 2


def test_arguments_without_a_key_run_the_tool(cache: LLMCacheMem) -> None:
    middleware = ToolCacheMiddleware(cache, ["lookup"])
    request: Any = Request(None)
    request.tool_call["args"] = {"what": object()}
    answer = ToolMessage("<x>", tool_call_id="call_1")
    assert middleware.wrap_tool_call(request, lambda request: answer) is answer


@pytest.mark.parametrize("tools", ["lookup", {"lookup": -1}, {"lookup": "10"}])
def test_wrong_arguments(tools: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        ToolCacheMiddleware(LLMCache(), tools)


# -- Event loops


@contextmanager
def no_blocking() -> Iterator[BlockBuster]:
    with blockbuster_ctx() as found:
        yield found


async def test_nothing_blocks_the_event_loop(
    make_cache: Callable[..., LLMCacheMem], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    cache = make_cache()
    model, tools = cached(Streaming(), cache), Tools()
    agent = create_agent(
        cached(Caller(), cache), [tools.lookup], middleware=[ToolCacheMiddleware(cache, ["lookup"])]
    )
    await agent.ainvoke({"messages": [HumanMessage("warm up")]})  # LangChain's own first imports
    with no_blocking():
        plain = Counting(cache=cache)
        for _ in range(2):
            await plain.ainvoke("hi")
            await model.ainvoke("hi")
            assert [chunk async for chunk in model.astream("ho")]
            await agent.ainvoke({"messages": [HumanMessage("x")]})
        await cache.aclear()
    assert cache.stats().hits >= 4
