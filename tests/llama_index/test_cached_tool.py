"""cached_tool: a LlamaIndex tool of the same class that runs once for the same arguments, alone and
in agents."""

import asyncio
from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest
from llama_index.core import Document, SummaryIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import (
    ChatMessage,
    ImageBlock,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms.mock import MockFunctionCallingLLM, MockLLM
from llama_index.core.tools import FunctionTool, QueryEngineTool, ToolMetadata, ToolOutput
from llama_index.core.tools.calling import acall_tool, call_tool
from llama_index.core.tools.types import BaseTool
from llama_index.core.workflow import Context
from llama_index_llm_cache_mem import cached_tool

from llm_cache_mem import LLMCache
from llm_cache_mem.tools import ToolCache

pytestmark = [
    pytest.mark.usefixtures("current_loop"),
    pytest.mark.filterwarnings(
        "ignore::pydantic.PydanticDeprecationWarning"
    ),  # workflows look at every attribute of an agent
    pytest.mark.filterwarnings("ignore:is_running called:DeprecationWarning"),  # ReActAgent
]

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


def add(a: int, b: int = 2) -> dict[str, int]:
    """Add two numbers."""
    ran.append((a, b))
    return {"sum": a + b}


async def aadd(a: int, b: int = 2) -> dict[str, int]:
    return add(a, b)


MADE = {
    "sync": lambda: FunctionTool.from_defaults(add),
    "async": lambda: FunctionTool.from_defaults(async_fn=aadd, name="add", description="Adds."),
    "both": lambda: FunctionTool.from_defaults(add, async_fn=aadd),
}


class Oldest(BaseTool):
    """A tool that can only be called."""

    @property
    def metadata(self) -> ToolMetadata:
        return ToolMetadata("Shouts.", "shout")

    def __call__(self, input: Any) -> ToolOutput:
        ran.append(input)
        return ToolOutput(
            "shout", content=input.upper(), raw_input={"input": input}, raw_output=input.upper()
        )


def use(tool: Any, asynchronous: bool, *args: Any, **kwargs: Any) -> ToolOutput:
    return asyncio.run(tool.acall(*args, **kwargs)) if asynchronous else tool(*args, **kwargs)


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_it_is_the_same_tool(made: Callable[[], FunctionTool]) -> None:
    original = made()
    tool = cached_tool(original, ToolCache())
    assert type(tool).__mro__[1] is FunctionTool
    assert tool.metadata is original.metadata
    assert tool.metadata.to_openai_tool() == original.metadata.to_openai_tool()
    assert tool.real_fn is original.real_fn


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_equal_arguments_run_it_once(
    cache: LLMCache, made: Callable[[], FunctionTool], asynchronous: bool
) -> None:
    tool = cached_tool(made(), cache)
    first = use(tool, asynchronous, a=1)
    found = [
        use(tool, asynchronous, a=1, b=2),
        use(tool, asynchronous, 1, 2),
        use(tool, not asynchronous, b=2, a=1),
    ]
    assert ran == [(1, 2)]
    for output in found:
        assert isinstance(output, ToolOutput)
        assert (output.content, output.raw_output, output.tool_name, output.is_error) == (
            "{'sum': 3}",
            {"sum": 3},
            "add",
            False,
        )
    assert first.content == "{'sum': 3}"
    assert found[0].raw_input == {"args": (), "kwargs": {"a": 1, "b": 2}}
    found[0].raw_output["sum"] = 4
    assert use(tool, asynchronous, a=1).raw_output == {"sum": 3}


def test_partial_parameters_and_field_defaults_count() -> None:
    def scale(value: int, factor: int = Field(default=3), unit: str = "m") -> str:
        ran.append(factor)
        return f"{value * factor} {unit}"

    tools = ToolCache()
    metres, feet = (
        cached_tool(FunctionTool.from_defaults(scale, partial_params={"unit": unit}), tools)
        for unit in ("m", "ft")
    )
    found = [metres(value=2), metres(value=2, factor=3), feet(value=2), feet(value=2)]
    assert [each.content for each in found] == ["6 m", "6 m", "6 ft", "6 ft"]
    assert len(ran) == 2


def test_a_model_write_invalidates_one_call() -> None:
    def scale(value: int, factor: int = 3) -> int:
        ran.append(value)
        return value * factor

    tools = ToolCache()
    made = cached_tool(FunctionTool.from_defaults(scale), tools)
    for _ in range(2):
        made(value=2)
    assert len(ran) == 1
    assert tools.invalidate("scale", '{"value": 2}')
    made(value=2)
    assert len(ran) == 2


def test_blocks_come_back() -> None:
    def look(what: str) -> Any:
        ran.append(what)
        return [TextBlock(text=what), ImageBlock(image=b"\x89PNG", image_mimetype="image/png")]

    tool = cached_tool(FunctionTool.from_defaults(look), ToolCache())
    first, second = tool(what="x"), tool(what="x")
    assert ran == ["x"]
    assert second.blocks == first.blocks


def test_a_tool_that_can_only_be_called() -> None:
    tool = cached_tool(Oldest(), ToolCache())
    outputs = [tool("x"), tool("x"), call_tool(tool, {"input": "x"})]
    assert [each.content for each in outputs] == ["X"] * 3
    assert outputs[1].raw_input == {"input": "x"}
    assert ran == ["x"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_query_engine_with_its_sources(asynchronous: bool) -> None:
    engine = SummaryIndex.from_documents(
        [Document(text="Air was written by Bach.")]
    ).as_query_engine(llm=MockLLM())
    tools = ToolCache()
    tool = cached_tool(
        QueryEngineTool.from_defaults(engine, name="songs", description="Songs."), tools
    )
    first, second = (use(tool, asynchronous, input="Who?") for _ in range(2))
    assert tools.stats().by_tool["songs"].hits == 1
    assert (second.content, second.raw_input) == (first.content, {"input": "Who?"})
    assert [node.text for node in second.raw_output.source_nodes] == ["Air was written by Bach."]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_failures_are_not_stored(asynchronous: bool) -> None:
    def fail(a: int) -> str:
        ran.append(a)
        raise ValueError("no such number")

    tool = cached_tool(FunctionTool.from_defaults(fail), ToolCache())
    for _ in range(2):
        output = (
            asyncio.run(acall_tool(tool, {"a": 1})) if asynchronous else call_tool(tool, {"a": 1})
        )
        assert output.is_error
    assert ran == [1, 1]


def test_outputs_that_are_errors_are_not_stored() -> None:
    def callback(result: Any) -> ToolOutput:
        return ToolOutput("add", content="no", raw_input={}, raw_output=None, is_error=True)

    tools = ToolCache()
    tool = cached_tool(FunctionTool.from_defaults(add, callback=callback), tools)
    assert [tool(a=1).is_error, tool(a=1).is_error] == [True, True]
    assert tools.cache.stats().skipped == {"tool error": 2}


class Scripted(MockFunctionCallingLLM):
    """Asks for its tool once, and then says what came of it."""

    @cached_property  # which is no setting
    def calls(self) -> list[str]:
        return []

    def _get_response_generator(self) -> Callable[..., Any]:
        def answer(messages: Any, tools: Any = (), **kwargs: Any) -> ChatMessage:
            self.calls.append("call")
            results = [message.content for message in messages if message.role == MessageRole.TOOL]
            if results:
                return ChatMessage(role="assistant", content=f"It is {results[-1]}.")
            block = ToolCallBlock(
                tool_call_id=f"call-{len(self.calls)}",
                tool_name=tools[0].metadata.name,
                tool_kwargs={"a": 1},
            )
            return ChatMessage(role="assistant", blocks=[block])

        return answer


def ask(make: Callable[[], Any], times: int = 3) -> list[str]:
    async def go() -> str:
        return str(await make().run(user_msg="What is 1 + 2?"))

    return [asyncio.run(go()) for _ in range(times)]


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_a_function_agent_run_three_times_runs_its_tool_once(
    cache: LLMCache, made: Callable[[], FunctionTool]
) -> None:
    llm, tool = Scripted(is_chat_model=True), cached_tool(made(), cache)
    assert ask(lambda: FunctionAgent(tools=[tool], llm=llm)) == ["It is {'sum': 3}."] * 3
    assert len(llm.calls) == 6
    assert ran == [(1, 2)]


def test_an_agent_workflow(cache: LLMCache) -> None:
    tool = cached_tool(FunctionTool.from_defaults(add), cache)
    assert (
        ask(
            lambda: AgentWorkflow.from_tools_or_functions([tool], llm=Scripted(is_chat_model=True)),
            2,
        )
        == ["It is {'sum': 3}."] * 2
    )
    assert ran == [(1, 2)]


def test_a_react_agent_run_three_times_runs_its_tool_once(
    cache: LLMCache, make_parrot: Any
) -> None:
    class Thinker(make_parrot):  # type: ignore[misc]
        def _ask(self, prompt: str) -> str:
            self.calls.append("call")
            if "Observation: {'sum': 3}" in prompt:
                return "Thought: I know.\nAnswer: It is 3."
            return 'Thought: I need a tool.\nAction: add\nAction Input: {"a": 1, "b": 2}'

    tool = cached_tool(FunctionTool.from_defaults(add), cache)
    assert all(
        "It is 3." in answer for answer in ask(lambda: ReActAgent(tools=[tool], llm=Thinker()))
    )
    assert ran == [(1, 2)]


def test_a_decorated_function_is_a_tool() -> None:
    tools = ToolCache()
    plain = tools.cached(add)
    assert (
        ask(lambda: FunctionAgent(tools=[plain], llm=Scripted(is_chat_model=True)))
        == ["It is {'sum': 3}."] * 3
    )
    assert ran == [(1, 2)]


def test_a_tool_with_a_context_goes_uncached() -> None:
    async def aware(ctx: Context, a: int) -> str:
        ran.append(a)
        return f"saw {a}"

    for ignore, runs in (((), 3), (("ctx",), 4)):
        tool = cached_tool(FunctionTool.from_defaults(async_fn=aware), ToolCache(), ignore=ignore)
        assert (
            ask(lambda tool=tool: FunctionAgent(tools=[tool], llm=Scripted(is_chat_model=True)))
            == ["It is saw 1."] * 3
        )  # type: ignore[misc]
        assert len(ran) == runs


def test_settings_copies_and_wrong_uses() -> None:
    tools = ToolCache()
    tool = cached_tool(FunctionTool.from_defaults(add), tools, depends_on="number:{a}")
    again = cached_tool(tool, tools)
    tool(a=1), again(a=1)
    assert len(ran) == 1
    assert tools.invalidate(entity="number:1")
    again(a=1)
    assert len(ran) == 2
    with pytest.raises(TypeError, match="LlamaIndex tool"):
        cached_tool(add, tools)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="LLMCache"):
        cached_tool(tool, "memory")  # type: ignore[arg-type]
