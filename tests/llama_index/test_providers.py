"""OpenAI's and Anthropic's LLM classes with their SDKs, over a loopback server that gives recorded
answers.

LlamaIndex's packages for them ask for older SDKs than this project is developed with; ``make
test-older`` has those.
"""

import asyncio
import contextlib
import copy
import functools
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
from http_server import Asked, Provider, Reply
from llama_index.core import PromptTemplate
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, TextBlock
from llama_index.core.bridge.pydantic import BaseModel, Field, create_model
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.tools import FunctionTool
from llama_index_instrumentation import root_dispatcher
from llama_index_llm_cache_mem import CachedLLM, set_llm_cache, uncached
from llama_index_llm_cache_mem.testing import MODES, wrapping
from llama_index_llm_cache_mem.usage import zero_usage

from llm_cache_mem import LLMCache

SKIP = "LlamaIndex's package is not here, or not one for this SDK: run make test-older"
openai = pytest.importorskip("llama_index.llms.openai", reason=SKIP, exc_type=ImportError)
anthropic = pytest.importorskip("llama_index.llms.anthropic", reason=SKIP, exc_type=ImportError)
openai_utils = pytest.importorskip("llama_index.llms.openai.utils")

# It builds messages by calling a type that is a Union since anthropic 1.
needs_older_sdk = pytest.mark.skipif(int(version("anthropic").partition(".")[0]) > 0, reason=SKIP)
ANTHROPIC = pytest.param("anthropic", marks=needs_older_sdk)

pytestmark = [
    pytest.mark.usefixtures("current_loop"),
    pytest.mark.filterwarnings(
        "ignore:.*(model|Model).* is deprecated:DeprecationWarning"
    ),  # since it was recorded
    pytest.mark.filterwarnings(
        "ignore:Pydantic serializer warnings:UserWarning"
    ),  # answers newer than the SDK
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings(
        "ignore:The 'output_format' parameter is deprecated:DeprecationWarning"
    ),
    pytest.mark.filterwarnings(
        "ignore:unclosed:ResourceWarning"
    ),  # LlamaIndex does not close its SDK clients
]


class Server(Provider):
    """Answers every POST with what is *recorded*, the next of *script* if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: tuple[str, bytes] = ("application/json", b"{}")
        self.script: list[tuple[str, bytes]] = []
        self.answer = self._recorded

    def _recorded(self, asked: Asked) -> Reply:
        kind, body = self.script.pop(0) if self.script else self.recorded
        return Reply(body, kind, until_close=True)  # nobody closes the LLMs' connections


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


Make = Callable[..., Any]


@pytest.fixture
def make(server: Server) -> Make:
    """Makes LLMs that ask the server."""

    def make(name: str, **settings: Any) -> Any:
        if name == "anthropic":
            settings = {
                "model": "claude-sonnet-4-5",
                "base_url": server.url,
                "max_tokens": 1000,
                **settings,
            }
            return anthropic.Anthropic(api_key="sk-SESAME", max_retries=0, **settings)
        cls = openai.OpenAIResponses if name == "responses" else openai.OpenAI
        return cls(
            **{
                "model": "gpt-4o-mini",
                "api_base": f"{server.url}/v1",
                "api_key": "sk-SESAME",
                "max_retries": 0,
                **settings,
            }
        )

    return make


@functools.cache
def recorded(
    shared_data: Any, provider: str, endpoint: str
) -> list[tuple[dict[str, Any], tuple[str, bytes]]]:
    """The recorded requests with their good answers."""
    found = []
    for line in (shared_data / "real_interactions.jsonl").read_text().splitlines():
        row = json.loads(line)
        if (row["provider"], row["endpoint"], row["response"]["status"]) == (
            provider,
            endpoint,
            200,
        ) and "body" in row["response"]:
            request = json.loads(row["request"]["body"])
            kind = "text/event-stream" if request.get("stream") else "application/json"
            found.append((request, (kind, row["response"]["body"].encode())))
    return found


def messages_of(name: str, request: dict[str, Any]) -> list[ChatMessage] | None:
    """What was asked, for LlamaIndex; None where it has no form for it."""
    if name == "openai":
        if any(
            not isinstance(message.get("content"), (str, type(None)))
            for message in request["messages"]
        ):
            return None
        return openai_utils.from_openai_message_dicts(request["messages"])
    made = (
        [ChatMessage(role="system", content=request["system"])]
        if isinstance(request.get("system"), str)
        else []
    )
    for message in request["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if any(part["type"] != "text" for part in parts):
            return None
        made.append(
            ChatMessage(
                role=message["role"], blocks=[TextBlock(text=part["text"]) for part in parts]
            )
        )
    return made


def ask_as_recorded(
    llm: Any, request: dict[str, Any], messages: list[ChatMessage], *, asynchronously: bool = False
) -> Any:
    """Ask as was recorded: all chunks of a stream, or the answer."""
    kwargs = {
        name: request[name] for name in ("tools", "tool_choice", "thinking") if name in request
    }
    if not asynchronously:
        return (  # as it is when it comes: LLMs go on building what a chunk holds
            [copy.deepcopy(chunk) for chunk in llm.stream_chat(messages, **kwargs)]
            if request.get("stream")
            else llm.chat(messages, **kwargs)
        )

    async def run() -> Any:
        if request.get("stream"):
            return [chunk async for chunk in await llm.astream_chat(messages, **kwargs)]
        return await llm.achat(messages, **kwargs)

    return asyncio.run(run())


def zeroed(answer: Any) -> Any:
    if isinstance(answer, list):
        return [zeroed(chunk) for chunk in answer]
    return zero_usage(copy.deepcopy(answer))


def types_in(value: Any) -> Any:
    """The class of *value* and of all that it holds."""
    if isinstance(value, (list, tuple)):
        return type(value), [types_in(item) for item in value]
    inside = value.__dict__ if isinstance(value, BaseModel) else value
    if not isinstance(inside, dict):
        return type(value)
    return type(value), {name: types_in(item) for name, item in inside.items()}


def last(answer: Any) -> Any:
    return answer[-1] if isinstance(answer, list) else answer


@pytest.mark.parametrize("usage", ["zero", "keep"])
@pytest.mark.parametrize("name", ["openai", ANTHROPIC])
def test_recorded_answers_come_back_as_they_were(name, usage, shared_data, server, make):
    cache = LLMCache(max_size=None)
    plain = make(name)
    llm = CachedLLM(plain, cache, usage=usage)
    stored = streamed = called = 0
    endpoint = {"openai": "chat.completions", "anthropic": "messages"}[name]
    for request, answer in recorded(shared_data, name, endpoint):
        messages = messages_of(name, request)
        if messages is None:
            continue
        server.recorded = answer
        try:
            expected = ask_as_recorded(plain, request, messages)
        except Exception:  # noqa: S112  # LlamaIndex itself cannot read this answer
            continue
        plain.system_prompt = str(stored)  # so that no recorded request meets another's answer
        skipped, asked = sum(cache.stats().skipped.values()), len(server.asked)
        first, second = (
            ask_as_recorded(llm, request, messages),
            ask_as_recorded(llm, request, messages, asynchronously=True),
        )
        assert first == expected
        if (
            sum(cache.stats().skipped.values()) > skipped
        ):  # cut off, refused or empty: not worth keeping
            continue
        assert len(server.asked) == asked + 1
        if usage == "zero":
            expected = zeroed(expected)
        assert second == expected
        assert types_in(second) == types_in(expected)
        tools = [
            [call.model_dump() for call in llm.get_tool_calls_from_response(last(one), False)]
            for one in (expected, second)
        ]
        assert tools[0] == tools[1]
        stored, streamed, called = (
            stored + 1,
            streamed + bool(request.get("stream")),
            called + bool(tools[0]),
        )
    assert min(stored, streamed, called) >= 3, (stored, streamed, called)
    stats = cache.stats()
    assert (stats.hits, stats.errors) == (stored, 0)
    assert stats.tokens_saved > 0
    assert stats.saved_usd > 0
    assert "SESAME" not in "".join(key for key, _ in cache.engine.entries())


@pytest.mark.parametrize("name", ["openai", ANTHROPIC])
def test_the_next_turn_after_a_hit_is_the_same_request(name, shared_data, server, make):
    llm = CachedLLM(make(name), max_size=None)
    compared = 0
    endpoint = {"openai": "chat.completions", "anthropic": "messages"}[name]
    for request, answer in recorded(shared_data, name, endpoint):
        messages = messages_of(name, request)
        if messages is None or not request.get("tools") or request.get("stream"):
            continue
        server.recorded = answer
        answers = [ask_as_recorded(llm, request, messages) for _ in range(2)]
        bodies = []
        for said in answers:
            uncached(llm).chat([*messages, said.message, ChatMessage(role="user", content="and?")])
            bodies.append(server.asked[-1].body)
        assert bodies[0] == bodies[1]
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("name", ["openai", ANTHROPIC])
@pytest.mark.parametrize("mode", ["bare", *MODES])
def test_every_leaf_in_every_mode(name, mode, shared_data, server, make, ask):
    endpoint = {"openai": "chat.completions", "anthropic": "messages"}[name]
    answers = {
        bool(r.get("stream")): a
        for r, a in recorded(shared_data, name, endpoint)
        if not r.get("tools") and not r.get("thinking")
    }
    plain = make(name)
    with contextlib.nullcontext() if mode == "bare" else wrapping(mode):
        llm = make(name)
    for leaf in (
        "chat",
        "complete",
        "stream_chat",
        "stream_complete",
        "achat",
        "acomplete",
        "astream_chat",
        "astream_complete",
    ):
        server.recorded = answers["stream" in leaf]
        expected = ask(plain, leaf, leaf)
        for _ in range(2):
            given = ask(llm, leaf, leaf)
            assert last(given).model_dump() == last(expected).model_dump()


# -- Structured output


def text_in(body: dict[str, Any]) -> str:
    """The text of an answer in any of the three protocols."""
    if "choices" in body:
        return body["choices"][0]["message"]["content"] or ""
    items = (
        [part for item in body["output"] for part in item.get("content", [])]
        if "output" in body
        else body["content"]
    )
    return "".join(part.get("text", "") for part in items)


def structured_answers(
    shared_data: Any, provider: str, endpoint: str, name: str
) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Recorded JSON answers, a class that they are an instance of, and their content."""
    asking_for_json = {"response_format", "text", "output_config", "output_format"}
    for request, answer in recorded(shared_data, provider, endpoint):
        if request.get("stream") or request.get("tools") or not request.keys() & asking_for_json:
            continue
        try:
            data = json.loads(text_in(json.loads(answer[1])))
        except ValueError:
            continue
        if isinstance(data, dict) and all(key.isidentifier() for key in data):
            fields: Any = {
                key: (type(value) if value is not None else Any, ...) for key, value in data.items()
            }
            yield answer, create_model(name, **fields), data


PROMPT = PromptTemplate("Say it in JSON, please: {x}")


@pytest.mark.parametrize("everywhere", [False, True], ids=["wrapped", "process-wide"])
@pytest.mark.parametrize(
    ("name", "provider", "endpoint"),
    [
        ("openai", "openai", "chat.completions"),
        ("responses", "openai", "responses"),
        pytest.param("anthropic", "anthropic", "messages", marks=needs_older_sdk),
    ],
)
def test_structured_output_is_answered_once(
    everywhere, name, provider, endpoint, shared_data, server, make
):
    done = 0
    for answer, output_cls, data in structured_answers(
        shared_data, provider, endpoint, f"Recorded{name.title()}"
    ):
        server.recorded, server.asked[:] = answer, []
        cache = LLMCache()
        with set_llm_cache(cache if everywhere else None):
            llm = make(name) if everywhere else CachedLLM(make(name), cache)
            if name == "openai":
                llm.pydantic_program_mode = "llm"  # by its text, as it was recorded
            first = llm.structured_predict(output_cls, PROMPT, x="a")
            second = asyncio.run(llm.astructured_predict(output_cls, PROMPT, x="a"))
            assert first == second
            assert first.model_dump() == data
            assert first is not second
            assert type(second) is output_cls
            assert len(server.asked) == 1
            assert cache.stats().stored == 1
            llm.structured_predict(output_cls, PROMPT, x="b")
            other = create_model(output_cls.__name__, __base__=output_cls, more=(int, 3))
            llm.structured_predict(other, PROMPT, x="a")
            assert len(server.asked) == 3
        done += 1
    assert done >= 1


@needs_older_sdk
def test_a_native_structured_answer_survives_the_process(shared_data, server, make, tmp_path):
    answer, output_cls, data = next(
        structured_answers(shared_data, "anthropic", "messages", "Recorded")
    )
    server.recorded = answer
    for _ in range(2):
        with LLMCache(backend=tmp_path / "cache.db") as cache:
            llm = CachedLLM(make("anthropic"), cache)
            assert llm.structured_predict(output_cls, PROMPT, x="a").model_dump() == data
            assert [*llm.stream_structured_predict(output_cls, PROMPT, x="a")][
                -1
            ].model_dump() == data
    assert len(server.asked) == 1


@needs_older_sdk
def test_a_native_structured_stream_is_stored(shared_data, server, make, cache):
    answer, output_cls, data = next(
        structured_answers(shared_data, "anthropic", "messages", "Recorded")
    )
    server.recorded = answer
    llm = CachedLLM(make("anthropic"), cache)

    async def run() -> Any:
        return [
            item async for item in await llm.astream_structured_predict(output_cls, PROMPT, x="a")
        ]

    assert [*llm.stream_structured_predict(output_cls, PROMPT, x="a")][-1].model_dump() == data
    assert asyncio.run(run())[-1].model_dump() == data
    assert len(server.asked) == 1


def test_a_responses_model_that_is_tracked_by_the_server_is_not_cached(
    make, server, shared_data, cache
):
    server.recorded = next(
        a
        for r, a in recorded(shared_data, "openai", "responses")
        if not r.get("stream") and not r.get("tools")
    )
    llm = CachedLLM(make("responses", track_previous_responses=True), cache)
    for _ in range(2):
        llm.chat([ChatMessage(content="x")])
    assert len(server.asked) == 2
    assert dict(cache.stats().skipped) == {"stateful": 2}


@needs_older_sdk
def test_a_structured_hit_is_told_of_by_its_span(shared_data, server, make, cache):
    class Spans(BaseSpanHandler[Any]):
        heard: list[Any] = Field(default_factory=list)

        def new_span(
            self,
            id_: str,
            bound_args: Any,
            instance: Any = None,
            parent_span_id: Any = None,
            tags: Any = None,
            **more: Any,
        ) -> None:
            self.heard.append(
                (id_.split("-")[0], sorted(bound_args.arguments), "llm_cache.hit" in (tags or {}))
            )

        def prepare_to_exit_span(self, id_: str, bound_args: Any, **more: Any) -> None:
            return None

        def prepare_to_drop_span(self, id_: str, bound_args: Any, **more: Any) -> None:
            return None

    server.recorded, output_cls, _ = next(
        structured_answers(shared_data, "anthropic", "messages", "Recorded")
    )
    llm = CachedLLM(make("anthropic"), cache)
    before, spans = list(root_dispatcher.span_handlers), Spans()
    root_dispatcher.add_span_handler(spans)
    try:
        for _ in range(2):
            llm.structured_predict(output_cls, PROMPT, x="a")
    finally:
        root_dispatcher.span_handlers = before
    name, arguments = "Anthropic.structured_predict", ["output_cls", "prompt", "prompt_args"]
    assert spans.heard == [(name, arguments, False), (name, arguments, True)]


# -- Chunk by chunk, and either form after the other


def without_tools(shared_data: Any, provider: str, endpoint: str) -> dict[bool, Any]:
    """A recorded answer in one piece, and one that is a stream."""
    return {
        bool(request.get("stream")): answer
        for request, answer in recorded(shared_data, provider, endpoint)
        if not request.get("tools") and not request.get("thinking")
    }


def text_of(name: str, raw: Any) -> str:
    """What user code digs out of ``raw`` of an answer in one piece."""
    if name == "openai":
        return raw.choices[0].message.content
    if name == "responses":
        return raw.output_text
    return "".join(block.text for block in raw["content"] if block.type == "text")


@pytest.mark.parametrize("first", ["chat", "stream_chat"])
@pytest.mark.parametrize(
    ("name", "provider", "endpoint"),
    [
        ("openai", "openai", "chat.completions"),
        ("responses", "openai", "responses"),
        pytest.param("anthropic", "anthropic", "messages", marks=needs_older_sdk),
    ],
)
def test_chat_and_stream_chat_keep_their_own_form_of_raw(
    name, provider, endpoint, first, shared_data, server, make, cache, ask
):
    answers = without_tools(shared_data, provider, endpoint)
    if True not in answers:
        answers[True] = responses_stream(answers[False])
    plain, llm = make(name), CachedLLM(make(name), cache, usage="keep")
    for leaf in (first, "chat", "stream_chat", "achat", "astream_chat"):
        server.recorded = answers["stream" in leaf]
        expected = ask(plain, leaf.removeprefix("a"), "x")  # achat leaves out num_tokens
        given = ask(llm, leaf, "x")
        assert given == expected
        assert types_in(given) == types_in(expected)
        if "stream" not in leaf:
            assert text_of(name, given.raw)
    assert cache.stats().stored == 2
    assert cache.stats().hits == 3


def responses_stream(whole: tuple[str, bytes]) -> tuple[str, bytes]:
    """The stream of events that the Responses API would send for the answer *whole*."""
    response = json.loads(whole[1])
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**response, "output": []}}
    ]
    for index, item in enumerate(response["output"]):
        events.append({"type": "response.output_item.added", "output_index": index, "item": item})
        for number, part in enumerate(item.get("content") or []):
            place = {"item_id": item["id"], "output_index": index, "content_index": number}
            for word in part.get("text", "").split(" "):
                delta = {"type": "response.output_text.delta", "delta": f"{word} ", "logprobs": []}
                events.append({**place, **delta})
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": "response.completed", "response": response})
    lines = [
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n"
        for number, event in enumerate(events)
    ]
    return "text/event-stream", "".join(lines).encode()


# -- An agent


@pytest.mark.parametrize(("runs", "at_once"), [(2, False), (20, True)])
def test_agents_run_for_the_price_of_one(runs, at_once, make, server, cache):
    def call(**message: Any) -> tuple[str, bytes]:
        chunk: dict[str, Any] = {
            "id": "1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "gpt-4o-mini",
        }
        deltas = [{"role": "assistant", **message}, {}]
        lines = [
            json.dumps(
                {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            )
            for delta, reason in zip(deltas, (None, "stop"), strict=True)
        ]
        return "text/event-stream", "".join(
            f"data: {line}\n\n" for line in [*lines, "[DONE]"]
        ).encode()

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    function = {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    server.script = [
        call(tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": function}]),
        call(content="It is 3."),
    ]
    llm = CachedLLM(make("openai"), cache)

    async def run() -> Any:
        return await FunctionAgent(tools=[FunctionTool.from_defaults(add)], llm=llm).run(
            "What is 1 + 2?"
        )

    async def together() -> Any:
        return await asyncio.gather(*(run() for _ in range(runs)))

    answers = asyncio.run(together()) if at_once else [asyncio.run(run()) for _ in range(runs)]
    assert [str(answer) for answer in answers] == ["It is 3."] * runs
    assert len(server.asked) == 2
    stats = cache.stats()
    assert stats.hits + stats.coalesced == 2 * (runs - 1)
