"""What people build with LlamaIndex: run twice, the second run makes no call."""

import asyncio
import functools
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate, SummaryIndex, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ToolCallBlock
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program.function_program import FunctionCallingProgram
from llama_index.core.tools import FunctionTool
from llama_index_llm_cache_mem import CachedLLM, set_llm_cache

pytestmark = [
    pytest.mark.usefixtures("current_loop"),
    pytest.mark.filterwarnings(
        "ignore::pydantic.PydanticDeprecationWarning"
    ),  # workflows look at every attribute of an agent
    pytest.mark.filterwarnings("ignore:is_running called:DeprecationWarning"),  # ReActAgent
]


class Song(BaseModel):
    title: str
    seconds: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def scripted(messages: Any, tools: Any = (), **kwargs: Any) -> ChatMessage:
    """Asks for each tool once, and then says what came of it."""
    results = [message.content for message in messages if message.role == MessageRole.TOOL]
    if not tools or results:
        return ChatMessage(
            role="assistant", content=f"It is {', '.join(map(str, results)) or 'so'}."
        )
    arguments = {
        "add": {"a": 1, "b": 2},
        "Song": {"title": "Air", "seconds": 300},
        "handoff": {"to_agent": "second", "reason": "r"},
    }
    name = tools[0].metadata.name
    return ChatMessage(
        role="assistant",
        blocks=[
            ToolCallBlock(tool_call_id=f"call-{name}", tool_name=name, tool_kwargs=arguments[name])
        ],
    )


class Scripted(MockFunctionCallingLLM):
    """A function-calling model that follows the script and counts its calls."""

    @cached_property  # which is no setting
    def calls(self) -> list[str]:
        return []

    def _get_response_generator(self) -> Callable[..., Any]:
        self.calls.append("call")
        return scripted


@pytest.fixture(params=["wrapped", "process-wide"])
def model(request, cache) -> Iterator[tuple[Scripted, Any]]:
    """The model that counts, and the LLM that is used."""
    scripted_llm = Scripted(is_chat_model=True)
    if request.param == "wrapped":
        yield scripted_llm, CachedLLM(scripted_llm, cache)
    else:
        with set_llm_cache(cache):
            yield scripted_llm, scripted_llm


def twice(model: Any, run: Callable[[Any], Any]) -> Any:
    """Run it twice; the second time nothing is called, and the same comes out."""
    counting, llm = model
    first = run(llm)
    calls = len(counting.calls)
    assert calls > 0
    second = run(llm)
    assert len(counting.calls) == calls
    assert str(second) == str(first)
    return first


@functools.cache  # nodes have random ids, and those that score the same come in their order
def index(kind: Any = VectorStoreIndex) -> Any:
    documents = [Document(text="Air was written by Bach."), Document(text="It lasts five minutes.")]
    return kind.from_documents(documents, embed_model=MockEmbedding(embed_dim=8))


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize"])
def test_query_engine(model, mode):
    twice(
        model,
        lambda llm: index().as_query_engine(llm=llm, response_mode=mode).query("Who wrote Air?"),
    )


def test_streaming_query_engine(model):
    twice(
        model,
        lambda llm: "".join(
            index().as_query_engine(llm=llm, streaming=True).query("Who?").response_gen
        ),
    )


def test_async_query_engine(model):
    twice(
        model,
        lambda llm: asyncio.run(
            index(SummaryIndex).as_query_engine(llm=llm).aquery("Who wrote Air?")
        ),
    )


@pytest.mark.parametrize(
    "mode", ["context", "condense_plus_context", "condense_question", "simple"]
)
def test_chat_engine(model, mode):
    def run(llm: Any) -> str:
        memory = ChatMemoryBuffer.from_defaults(
            token_limit=3000
        )  # the default one leaves a database open
        engine = index().as_chat_engine(chat_mode=mode, llm=llm, memory=memory)
        return f"{engine.chat('Who wrote Air?')} {engine.chat('And how long is it?')}"

    twice(model, run)


def test_streaming_chat_engine(model):
    def run(llm: Any) -> str:
        memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
        return "".join(
            SimpleChatEngine.from_defaults(llm=llm, memory=memory)
            .stream_chat("Who wrote Air?")
            .response_gen
        )

    twice(model, run)


@pytest.mark.parametrize("streaming", [True, False])
def test_function_agent(model, streaming):
    def run(llm: Any) -> Any:
        async def go() -> Any:
            return await FunctionAgent(
                tools=[FunctionTool.from_defaults(add)], llm=llm, streaming=streaming
            ).run("What is 1 + 2?")

        return asyncio.run(go())

    assert str(twice(model, run)) == "It is 3."
    assert len(model[0].calls) == 2


def test_agent_workflow(model):
    def run(llm: Any) -> Any:
        async def go() -> Any:
            first = FunctionAgent(
                name="first", description="adds", tools=[FunctionTool.from_defaults(add)], llm=llm
            )
            second = FunctionAgent(name="second", description="waits", tools=[], llm=llm)
            return await AgentWorkflow(agents=[first, second], root_agent="first").run(
                user_msg="What is 1 + 2?"
            )

        return asyncio.run(go())

    assert "3" in str(twice(model, run))


def test_react_agent(cache, make_parrot):
    class Thinker(make_parrot):
        def _ask(self, prompt: str) -> str:
            self.calls.append("call")
            if "Observation: 3" in prompt:
                return "Thought: I know.\nAnswer: It is 3."
            return 'Thought: I need a tool.\nAction: add\nAction Input: {"a": 1, "b": 2}'

    thinker = Thinker()

    def run(llm: Any) -> Any:
        async def go() -> Any:
            return await ReActAgent(tools=[FunctionTool.from_defaults(add)], llm=llm).run(
                "What is 1 + 2?"
            )

        return asyncio.run(go())

    assert "3" in str(twice((thinker, CachedLLM(thinker, cache)), run))


def test_chat_with_tools_and_predict_and_call(model):
    tool = FunctionTool.from_defaults(add)

    def calls(llm: Any) -> Any:
        response = llm.chat_with_tools([tool], user_msg="1 + 2?")
        return [
            (call.tool_id, call.tool_name, call.tool_kwargs)
            for call in llm.get_tool_calls_from_response(response)
        ]

    assert twice(model, calls) == [("call-add", "add", {"a": 1, "b": 2})]
    assert (
        str(twice_more(model, lambda llm: llm.predict_and_call([tool], user_msg="1 + 2?"))) == "3"
    )


def twice_more(model: Any, run: Callable[[Any], Any]) -> Any:
    """As twice, for what the first test has put into the cache already."""
    calls = len(model[0].calls)
    answer = run(model[1])
    assert len(model[0].calls) == calls
    return answer


PROMPT = PromptTemplate("A song by {composer}.")


@pytest.mark.parametrize(
    "run",
    [
        lambda llm: llm.predict(PROMPT, composer="Bach"),
        lambda llm: "".join(llm.stream(PROMPT, composer="Bach")),
        lambda llm: asyncio.run(llm.apredict(PROMPT, composer="Bach")),
        lambda llm: llm.structured_predict(Song, PROMPT, composer="Bach"),
        lambda llm: asyncio.run(llm.astructured_predict(Song, PROMPT, composer="Bach")),
        lambda llm: [*llm.stream_structured_predict(Song, PROMPT, composer="Bach")][-1],
        lambda llm: llm.as_structured_llm(Song).complete("A song").raw,
        lambda llm: llm.as_structured_llm(Song).chat([ChatMessage(content="A song")]).raw,
        lambda llm: FunctionCallingProgram.from_defaults(Song, prompt=PROMPT, llm=llm)(
            composer="Bach"
        ),
    ],
    ids=[
        "predict",
        "stream",
        "apredict",
        "structured",
        "astructured",
        "stream structured",
        "as structured",
        "as structured chat",
        "program",
    ],
)
def test_methods_above_the_leaves(model, run):
    answer = twice(model, run)
    if isinstance(answer, Song):
        assert answer == Song(title="Air", seconds=300)


def test_structured_output_of_a_plain_model(cache, make_parrot):
    class Json(make_parrot):
        def _ask(self, prompt: str) -> str:
            self.calls.append("call")
            return '{"title": "Air", "seconds": 300}'

    llm = Json()
    assert twice(
        (llm, CachedLLM(llm, cache)), lambda llm: llm.structured_predict(Song, PROMPT, composer="x")
    ) == Song(title="Air", seconds=300)


def test_a_block_of_text_is_a_message(model):
    message = ChatMessage(role="user", blocks=[TextBlock(text="a"), TextBlock(text="b")])
    twice(model, lambda llm: llm.chat([message]))


def test_twenty_identical_agents_that_stream_make_two_calls(model):
    counted, llm = model

    async def run() -> str:
        agent = FunctionAgent(tools=[FunctionTool.from_defaults(add)], llm=llm)
        return str(await agent.run("What is 1 + 2?"))

    async def together() -> list[str]:
        return await asyncio.gather(*(run() for _ in range(20)))

    assert asyncio.run(together()) == ["It is 3."] * 20
    assert len(counted.calls) == 2
