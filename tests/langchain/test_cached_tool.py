"""cached_tool: a tool of the same class that runs once for the same arguments, alone, in ToolNode
and in agents."""

import asyncio
import json
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import (
    BaseTool,
    InjectedToolArg,
    InjectedToolCallId,
    StructuredTool,
    Tool,
    ToolException,
    tool,
)
from langchain_llm_cache_mem import LLMCacheMem, cached_tool
from langchain_llm_cache_mem.tools import ToolCacheMiddleware
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.types import Command
from pydantic import BaseModel, ConfigDict, Field

from llm_cache_mem.tools import ToolCache

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@tool
def population(city: str, year: int = 2024) -> dict[str, Any]:
    """How many people live in a city."""
    ran.append((city, year))
    return {"city": city, "people": [1, 2]}


population.tags, population.metadata = ["geo"], {"team": "maps"}


class Weather(BaseTool):
    """A tool as a class with both ways to run."""

    name: str = "weather"
    description: str = "The weather."

    def _run(self, city: str) -> str:
        ran.append(city)
        return f"sun in {city}"

    async def _arun(self, city: str) -> str:
        ran.append(city)
        return f"sun in {city}"


class Arguments(BaseModel):
    city: str = Field(description="where")
    limit: int = Field(default=3, ge=1)


def listing(city: str, limit: int) -> tuple[str, list[str]]:
    ran.append((city, limit))
    return f"{limit} places", [city] * limit


async def alisting(city: str, limit: int) -> tuple[str, list[str]]:
    return listing(city, limit)


places = StructuredTool.from_function(
    listing,
    name="places",
    description="Places.",
    args_schema=Arguments,
    coroutine=alisting,
    response_format="content_and_artifact",
)
shout = Tool.from_function(
    lambda text: ran.append(text) or text.upper(), name="shout", description="Shouts."
)


def call(name: str, args: dict[str, Any], id: str = "call_1") -> Any:
    return {"type": "tool_call", "name": name, "args": args, "id": id}


def use(one: Any, what: Any, asynchronous: bool = False) -> Any:
    return asyncio.run(one.ainvoke(what)) if asynchronous else one.invoke(what)


@pytest.mark.parametrize(
    "original", [population, Weather(), places, shout], ids=lambda one: one.name
)
def test_it_is_the_same_tool(original: BaseTool) -> None:
    made = cached_tool(original, ToolCache())
    assert isinstance(made, type(original))
    assert (made.name, made.description, made.args, made.tags, made.metadata) == (
        original.name,
        original.description,
        original.args,
        original.tags,
        original.metadata,
    )
    assert made.args_schema is original.args_schema
    assert made.response_format == original.response_format


@pytest.mark.parametrize(
    ("original", "inputs"),
    [
        (population, [{"city": "Rome"}, {"year": 2024, "city": "Rome"}]),
        (Weather(), [{"city": "Rome"}]),
        (places, [{"city": "Rome"}, {"city": "Rome", "limit": 3}]),
        (shout, ["rome"]),
    ],
    ids=["function", "class", "schema and artifact", "string"],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_equal_arguments_run_it_once(
    original: BaseTool, inputs: list[Any], asynchronous: bool, cache: LLMCacheMem
) -> None:
    made = cached_tool(original, cache)
    expected = use(original, inputs[0])
    ran.clear()
    assert [use(made, each, asynchronous) for each in [*inputs, *inputs]] == [expected] * 2 * len(
        inputs
    )
    assert len(ran) == 1
    assert use(made, inputs[0], not asynchronous) == expected
    assert len(ran) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_message_has_the_callers_own_id_and_artifact(asynchronous: bool) -> None:
    made = cached_tool(places, ToolCache())
    found = [
        use(made, call("places", {"city": "Rome"}, id), asynchronous) for id in ("call_1", "call_2")
    ]
    assert [(each.tool_call_id, each.content, each.artifact) for each in found] == [
        ("call_1", "3 places", ["Rome"] * 3),
        ("call_2", "3 places", ["Rome"] * 3),
    ]
    assert len(ran) == 1


def test_it_shares_with_plain_python() -> None:
    tools = ToolCache()
    tools.get_or_call(
        "population", {"city": "Rome", "year": 2024}, lambda: {"city": "Rome", "people": [3]}
    )
    assert cached_tool(population, tools).invoke({"city": "Rome"}) == {
        "city": "Rome",
        "people": [3],
    }
    assert ran == []


@pytest.mark.parametrize("metadata", [None, {"version": "2"}])
def test_a_model_write_invalidates_one_call(metadata: Any) -> None:
    tools = ToolCache()
    made = cached_tool(population.model_copy(update={"metadata": metadata}), tools)
    for _ in range(2):
        made.invoke({"city": "Rome"})
    assert len(ran) == 1
    assert tools.invalidate("population", '{"city": "Rome"}')
    made.invoke({"city": "Rome"})
    assert len(ran) == 2


def test_a_model_write_invalidates_one_middleware_call() -> None:
    tools, mine = (
        ToolCache(),
        population.model_copy(update={"metadata": {"cacheable": True, "version": "2"}}),
    )
    agent: Any = create_agent(
        Caller(tool_name="population"), [mine], middleware=[ToolCacheMiddleware(tools)]
    )
    for _ in range(2):
        agent.invoke({"messages": [HumanMessage('{"city": "Rome"}')]})
    assert len(ran) == 1
    assert tools.invalidate("population", {"city": "Rome"})
    agent.invoke({"messages": [HumanMessage('{"city": "Rome"}')]})
    assert len(ran) == 2


def test_its_errors_are_langchains_and_not_stored() -> None:
    @tool
    def fragile(city: str) -> str:
        """Fails."""
        ran.append(city)
        raise ToolException("no such city")

    made = cached_tool(fragile, ToolCache())
    with pytest.raises(ToolException, match="no such city"):
        made.invoke({"city": "x"})
    made.handle_tool_error = True
    message = made.invoke(call("fragile", {"city": "x"}))
    assert (message.status, message.content) == ("error", "no such city")
    assert len(ran) == 2
    with pytest.raises(ValueError, match="city"):
        made.invoke({})


def test_commands_and_whole_messages_are_not_stored() -> None:
    @tool
    def command(city: str, id: Annotated[str, InjectedToolCallId]) -> Any:
        """Changes the state."""
        ran.append(city)
        return Command(update={"messages": [ToolMessage("done", tool_call_id=id)]})

    @tool
    def message(city: str, id: Annotated[str, InjectedToolCallId]) -> Any:
        """Writes its message itself."""
        ran.append(city)
        return ToolMessage("done", tool_call_id=id)

    tools = ToolCache()
    for original in (command, message):
        made = cached_tool(original, tools)
        for id in ("1", "2"):
            made.invoke(call(original.name, {"city": "x"}, id))
    assert len(ran) == 4
    assert tools.cache.stats().skipped == {"side effect": 2, "tool message": 2}


def test_the_id_of_the_call_is_not_part_of_it_and_a_users_is() -> None:
    @tool
    def mine(
        city: str, id: Annotated[str, InjectedToolCallId], user: Annotated[str, InjectedToolArg]
    ) -> str:
        """Knows its user."""
        ran.append(user)
        return f"{user} in {city}"

    made = cached_tool(mine, ToolCache())
    found = [
        made.invoke(call("mine", {"city": "Rome", "user": user}, id)).content
        for user, id in (("ann", "1"), ("bob", "2"), ("ann", "3"))
    ]
    assert found == ["ann in Rome", "bob in Rome", "ann in Rome"]
    assert ran == ["ann", "bob"]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    city: str


@pytest.mark.parametrize(
    "schema",
    [Open, {"title": "open", "type": "object", "properties": {"city": {"type": "string"}}}],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_arguments_beyond_the_schema_are_part_of_the_call(schema: Any, asynchronous: bool) -> None:
    def found(**named: Any) -> str:
        ran.append(named)
        return json.dumps(named, sort_keys=True)

    original = StructuredTool.from_function(
        found, name="open", description="Takes more than it says.", args_schema=schema
    )
    made = cached_tool(original, ToolCache())
    asked = [
        {"city": "Rome", "limit": 1},
        {"city": "Rome", "limit": 2},
        {"city": "Rome", "limit": 1},
    ]
    assert [json.loads(use(made, each, asynchronous)) for each in asked] == asked
    assert len(ran) == 2


@tool
def configured(city: str, config: RunnableConfig) -> str:
    """Tells by its config on whose behalf it runs."""
    ran.append(city)
    return f"{config['configurable']['user']} in {city}"


class Configured(BaseTool):
    """The same as a class, and under another name."""

    name: str = "configured"
    description: str = "Tells by its config on whose behalf it runs."

    def _run(self, city: str, settings: RunnableConfig) -> str:
        ran.append(city)
        return f"{settings['configurable']['user']} in {city}"


@pytest.mark.parametrize(
    ("original", "hidden"), [(configured, "config"), (Configured(), "settings")]
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_tool_with_injected_config_goes_uncached(
    original: BaseTool, hidden: str, asynchronous: bool
) -> None:
    def asked_by(made: BaseTool, user: str) -> Any:
        config: RunnableConfig = {"configurable": {"user": user}}
        given = {"city": "Rome"}
        return (
            asyncio.run(made.ainvoke(given, config)) if asynchronous else made.invoke(given, config)
        )

    made = cached_tool(original, ToolCache())
    assert [asked_by(made, user) for user in ("ann", "bob")] == ["ann in Rome", "bob in Rome"]
    made = cached_tool(original, ToolCache(), ignore=[hidden])
    assert [asked_by(made, user) for user in ("ann", "bob")] == ["ann in Rome"] * 2


def test_middleware_tools_with_config_go_uncached() -> None:
    tools = ToolCache(tools=["configured"])
    agent: Any = create_agent(
        Caller(tool_name="configured"), [configured], middleware=[ToolCacheMiddleware(tools)]
    )

    def asked_by(user: str) -> str:
        return agent.invoke(
            {"messages": [HumanMessage('{"city": "Rome"}')]}, {"configurable": {"user": user}}
        )["messages"][-1].text  # type: ignore[no-any-return]

    assert [asked_by(user) for user in ("ann", "bob")] == ["it is ann in Rome", "it is bob in Rome"]
    tools.allow("configured", ignore=["config"])
    assert [asked_by(user) for user in ("ann", "bob")] == ["it is ann in Rome"] * 2


@tool
def aware(city: str, runtime: ToolRuntime) -> str:
    """Sees the runtime."""
    ran.append(city)
    return f"{city} {len(runtime.state['messages'])}"


@tool
def stateful(city: str, messages: Annotated[list[Any], InjectedState("messages")]) -> str:
    """Sees the state."""
    ran.append(city)
    return city


class Caller(BaseChatModel):
    """Calls one tool for what it is asked, then tells what came of it."""

    tool_name: str
    calls: int = 0

    @property
    def _llm_type(self) -> str:
        return "caller"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.calls += 1
        if isinstance(messages[-1], ToolMessage):
            answer = AIMessage(f"it is {messages[-1].text}")
        else:
            answer = AIMessage(
                "",
                tool_calls=[
                    call(self.tool_name, json.loads(messages[-1].text), f"call_{self.calls}")
                ],
            )
        return ChatResult(generations=[ChatGeneration(message=answer)])


def in_agent(original: BaseTool, made: BaseTool, asynchronous: bool) -> list[Any]:
    agent: Any = create_agent(Caller(tool_name=original.name), [made])
    return [
        use(agent, {"messages": [HumanMessage('{"city": "Rome"}')]}, asynchronous)["messages"]
        for _ in range(3)
    ]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_agent_run_three_times_runs_its_tool_once(
    cache: LLMCacheMem, asynchronous: bool
) -> None:
    runs = in_agent(population, cached_tool(population, cache), asynchronous)
    assert [messages[-1].text for messages in runs] == [
        'it is {"city": "Rome", "people": [1, 2]}'
    ] * 3
    assert [messages[2].tool_call_id for messages in runs] == [
        messages[1].tool_calls[0]["id"] for messages in runs
    ]
    assert len({messages[2].tool_call_id for messages in runs}) == 3
    assert ran == [("Rome", 2024)]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_in_a_tool_node(cache: LLMCacheMem, asynchronous: bool) -> None:
    node = ToolNode([cached_tool(population, cache), cached_tool(places, cache)])
    graph: Any = (
        StateGraph(MessagesState).add_node("tools", node).add_edge(START, "tools").compile()
    )
    for turn in range(3):
        calls = [
            call("population", {"city": "Rome"}, f"{turn}a"),
            call("places", {"city": "Rome"}, f"{turn}b"),
        ]
        messages = use(graph, {"messages": [AIMessage("", tool_calls=calls)]}, asynchronous)[
            "messages"
        ]
        assert [(each.tool_call_id, each.status) for each in messages[1:]] == [
            (f"{turn}a", "success"),
            (f"{turn}b", "success"),
        ]
    assert len(ran) == 2


@pytest.mark.parametrize(("original", "hidden"), [(aware, "runtime"), (stateful, "messages")])
def test_a_tool_with_injected_state_goes_uncached(original: BaseTool, hidden: str) -> None:
    in_agent(original, cached_tool(original, ToolCache()), False)
    assert len(ran) == 3
    in_agent(original, cached_tool(original, ToolCache(), ignore=[hidden]), False)
    assert len(ran) == 4
    tools = ToolCache(tools=[original.name])
    agent: Any = create_agent(
        Caller(tool_name=original.name), [original], middleware=[ToolCacheMiddleware(tools)]
    )
    for _ in range(2):
        agent.invoke({"messages": [HumanMessage('{"city": "Rome"}')]})
    assert len(ran) == 6
    tools.allow(original.name, ignore=[hidden])
    for _ in range(2):
        agent.invoke({"messages": [HumanMessage('{"city": "Rome"}')]})
    assert len(ran) == 7


def test_a_write_tool_in_an_agent_invalidates_its_entities() -> None:
    @tool
    def rename(city: str) -> str:
        """Renames a city."""
        return "done"

    tools = ToolCache()
    tools.allow("population", depends_on="city:{city}")
    tools.writes("rename", entities="city:{city}")
    made = cached_tool(population, tools)
    agent: Any = create_agent(
        Caller(tool_name="rename"), [rename], middleware=[ToolCacheMiddleware(tools)]
    )
    for city in ("Rome", "Oslo"):
        made.invoke({"city": city})
    agent.invoke({"messages": [HumanMessage('{"city": "Rome"}')]})
    for city in ("Rome", "Oslo"):
        made.invoke({"city": city})
    assert ran == [("Rome", 2024), ("Oslo", 2024), ("Rome", 2024)]


def test_settings_and_copies() -> None:
    tools = ToolCache()
    made = cached_tool(population, tools, ttl_seconds=60, depends_on="city:{city}")
    again = cached_tool(made.model_copy(), tools)
    made.invoke({"city": "Rome"})
    again.invoke({"city": "Rome"})
    assert len(ran) == 1
    assert tools.invalidate(entity="city:Rome")
    again.invoke({"city": "Rome"})
    assert len(ran) == 2


def test_uncacheable_requests_are_reported() -> None:
    with pytest.raises(TypeError, match="LangChain tool"):
        cached_tool(len, ToolCache())  # type: ignore[type-var]
    with pytest.raises(TypeError, match="LLMCache"):
        cached_tool(population, "memory")  # type: ignore[arg-type]
    for said in (
        {"metadata": {"destructive": True}},
        {"metadata": {"cacheable": False}},
        {"tags": ["destructiveHint"]},
    ):
        with pytest.raises(ValueError, match="forbids caching it"):
            cached_tool(population.model_copy(update=said), ToolCache())
