"""ChatOpenAI, OpenAI and ChatAnthropic with their own SDKs, over a loopback server that gives
recorded answers."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import Asked, Provider, Reply
from langchain_anthropic import ChatAnthropic
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessageChunk
from langchain_llm_cache_mem import LLMCacheMem, cached
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, create_model

MakeModel = Callable[..., Any]


class Server(Provider):
    """Answers each POST with what *answers* holds for (stream, last message)."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[tuple[bool, str], tuple[str, str]] = {}
        self.answer = self._recorded

    def _recorded(self, asked: Asked) -> Reply:
        kind, body = self.answers[about(asked.body)]
        return Reply(body.encode(), kind, until_close=True)  # nobody closes the models' connections


def about(request: dict[str, Any]) -> tuple[bool, str]:
    """What tells the recorded requests apart that are used here."""
    last = request["messages"][-1]["content"] if "messages" in request else request["prompt"]
    if isinstance(last, list):
        last = last[0].get("text", "") if isinstance(last[0], dict) else last[0]
    return bool(request.get("stream")), str(last)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def make(server: Server) -> MakeModel:
    """Makes models that ask the server."""

    def make(cls: type, **settings: Any) -> Any:
        url = server.url if cls is ChatAnthropic else f"{server.url}/v1"
        return cls(base_url=url, api_key="sk-SECRET", max_retries=0, **settings)

    return make


def recorded(
    shared_data: Path, provider: str, endpoint: str
) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Requests of plain text or tools with their good answers: the request, the kind of content and
    the content."""
    with (shared_data / "real_interactions.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            given = row["response"]
            if (row["provider"], row["endpoint"], given["status"]) != (
                provider,
                endpoint,
                200,
            ) or "body" not in given:
                continue
            request = json.loads(row["request"]["body"])
            messages = request.get("messages", [])
            if len(messages) <= 2 and all(
                isinstance(message["content"], str) for message in messages
            ):
                kind = "text/event-stream" if request.get("stream") else "application/json"
                yield request, kind, given["body"]


def numbers_in(value: Any) -> list[float]:
    """Every number in *value*, a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, int | float) else []


def replay(model: Any, request: dict[str, Any]) -> Any:
    """Ask *model* as was recorded: a stream, whose chunks are put together, or at once."""
    prompt = [(message["role"], message["content"]) for message in request["messages"]]
    if isinstance(model, ChatAnthropic) and isinstance(request.get("system"), str):
        prompt.insert(0, ("system", request["system"]))
    bound = model.bind(tools=request["tools"]) if request.get("tools") else model
    if not request.get("stream"):
        return bound.invoke(prompt)
    whole: Any = None
    for chunk in bound.stream(prompt):
        whole = chunk if whole is None else whole + chunk
    return whole


@pytest.mark.filterwarnings(
    "ignore:The model .* is deprecated:DeprecationWarning"
)  # of the time when it was recorded
@pytest.mark.parametrize(
    ("cls", "provider", "endpoint"),
    [(ChatOpenAI, "openai", "chat.completions"), (ChatAnthropic, "anthropic", "messages")],
)
@pytest.mark.filterwarnings(
    "ignore:Received unexpected tool content block:UserWarning"
)  # newer than the integration
def test_recorded_answers_come_back_as_they_were(
    shared_data: Path,
    server: Server,
    make: MakeModel,
    cache: LLMCacheMem,
    cls: type,
    provider: str,
    endpoint: str,
) -> None:
    asked = streamed = called = 0
    for request, kind, body in recorded(shared_data, provider, endpoint):
        server.answers = {about(request): (kind, body)}
        plain = make(cls, model=request["model"], max_tokens=request.get("max_tokens") or 1000)
        model = cached(plain, cache.scoped(str(asked)))
        before, skipped = server.calls, sum(cache.stats().skipped.values())
        expected, first = replay(plain, request), replay(model, request)
        second = replay(model, request)
        if (
            sum(cache.stats().skipped.values()) > skipped
        ):  # cut off, refused or empty: not worth keeping
            continue
        assert server.calls - before == 2, request
        for answer in (first, second):
            assert answer.content == expected.content
            assert answer.tool_calls == expected.tool_calls
            assert answer.additional_kwargs == expected.additional_kwargs
        hit = second.response_metadata.pop("llm_cache_mem")
        assert hit["hit"]
        counts = {"usage", "token_usage"}  # of a hit they are zeros
        there, again = first.response_metadata, second.response_metadata
        assert again.keys() == there.keys()
        assert {name: again[name] for name in again.keys() - counts} == {
            name: there[name] for name in there.keys() - counts
        }
        assert not any(numbers_in([again.get(name) for name in counts]))
        if expected.usage_metadata:
            assert second.usage_metadata["total_tokens"] == 0
        asked, streamed, called = (
            asked + 1,
            streamed + bool(request.get("stream")),
            called + bool(expected.tool_calls),
        )
    assert min(asked, streamed, called) >= 2, (asked, streamed, called)
    assert cache.stats().tokens_saved > 0
    assert all(
        saved.unpriced_hits == 0 or saved.saved_usd >= 0
        for saved in cache.stats().by_model.values()
    )


@pytest.mark.filterwarnings(
    "ignore:The model .* is deprecated:DeprecationWarning"
)  # of the time when it was recorded
@pytest.mark.parametrize(
    ("cls", "provider", "endpoint"),
    [(ChatOpenAI, "openai", "chat.completions"), (ChatAnthropic, "anthropic", "messages")],
)
def test_a_stream_whose_connection_closed_in_the_middle_is_not_replayed(
    shared_data: Path,
    server: Server,
    make: MakeModel,
    cache: LLMCacheMem,
    cls: type,
    provider: str,
    endpoint: str,
) -> None:
    request, kind, body = next(
        each for each in recorded(shared_data, provider, endpoint) if each[1] == "text/event-stream"
    )
    events = body.split("\n\n")
    model = cached(make(cls, model=request["model"]), cache)
    server.answers = {about(request): (kind, "\n\n".join(events[: len(events) // 2]) + "\n\n")}
    half = replay(model, request)  # LangChain takes it for the whole
    assert dict(cache.stats().skipped) == {"incomplete": 1}
    server.answers = {about(request): (kind, body)}
    whole = replay(model, request)
    assert not {"finish_reason", "stop_reason"} & half.response_metadata.keys()
    assert {"finish_reason", "stop_reason"} & whole.response_metadata.keys()


@pytest.mark.filterwarnings(
    "ignore:The model .* is deprecated:DeprecationWarning"
)  # of the time when it was recorded
def test_invoke_and_stream_share_a_recorded_answer(
    shared_data: Path, server: Server, make: MakeModel, cache: LLMCacheMem
) -> None:
    done = 0
    for request, kind, body in recorded(shared_data, "anthropic", "messages"):
        if kind != "text/event-stream":
            continue
        server.answers = {about(request): (kind, body)}
        model = cached(make(ChatAnthropic, model=request["model"]), cache)
        streamed = replay(model, request)
        before = server.calls
        invoked = replay(model, {**request, "stream": False})
        if server.calls > before if not cache.stats().skipped else False:
            pytest.fail("the stream was not found by invoke")
        assert (invoked.text, invoked.tool_calls) == (streamed.text, streamed.tool_calls)
        assert not isinstance(invoked, AIMessageChunk)
        done += 1
        if done == 5:
            break
    assert done == 5


def answer(content: str) -> tuple[str, str]:
    message = {"role": "assistant", "content": content, "refusal": None}
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    choices = [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}]
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": choices,
        "usage": usage,
    }
    return "application/json", json.dumps(body)


class Invoice(BaseModel):
    """An invoice."""

    total: int


@pytest.mark.parametrize("way", ["global cache", "cached"])
@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_structured_output_comes_back_as_its_class(
    server: Server, make: MakeModel, make_cache: Callable[..., LLMCacheMem], way: str, method: str
) -> None:
    server.answers = {(False, "how much?"): answer('{"total": 3}')}
    for _ in range(2):  # a second program opens the same store
        cache = make_cache()
        model = make(ChatOpenAI, model="gpt-4o-mini")
        if way == "cached":
            model = cached(model, cache)
        else:
            set_llm_cache(cache)
        structured = model.with_structured_output(Invoice, method=method)
        assert [structured.invoke("how much?") for _ in range(2)] == [Invoice(total=3)] * 2
        assert cache.stats().hits >= 1
        assert not cache.stats().skipped


@pytest.mark.parametrize("way", ["global cache", "cached"])
def test_structured_hit_is_of_the_class_asked_for_now(
    server: Server, make: MakeModel, cache: LLMCacheMem, way: str
) -> None:
    server.answers = {(False, "how much?"): answer('{"total": 3}')}
    set_llm_cache(cache if way == "global cache" else None)
    first, second = (create_model("Invoice", total=(int, ...)) for _ in range(2))
    for named in (first, first, first, second, first):  # a notebook cell that runs again
        model = make(ChatOpenAI, model="gpt-4o-mini")
        model = cached(model, cache) if way == "cached" else model
        assert type(model.with_structured_output(named).invoke("how much?")) is named
    assert server.calls == 1


def test_a_schema_that_changes_is_asked_again(
    server: Server, make: MakeModel, cache: LLMCacheMem, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_llm_cache(cache)
    server.answers = {(False, "how much?"): answer('{"total": 3}')}
    make(ChatOpenAI, model="gpt-4o-mini").with_structured_output(Invoice).invoke("how much?")
    edited = type(
        "Invoice", (BaseModel,), {"__annotations__": {"total": float}, "__module__": __name__}
    )
    monkeypatch.setitem(globals(), "Invoice", edited)
    found = make(ChatOpenAI, model="gpt-4o-mini").with_structured_output(edited).invoke("how much?")
    assert type(found) is edited
    assert server.calls == 2


def test_a_base_url_from_the_environment_is_seen_by_cached(
    server: Server, make: MakeModel, cache: LLMCacheMem, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = {(False, "hi"): answer("hello")}
    for path in ("/v1", "/v2"):
        monkeypatch.setenv("OPENAI_BASE_URL", server.url + path)
        plain = ChatOpenAI(model="gpt-4o-mini", api_key="sk-SECRET")
        cached(plain, cache).invoke("hi")
    assert server.calls == 2


def test_a_plain_llm_of_openai(server: Server, make: MakeModel, cache: LLMCacheMem) -> None:
    choices = [{"index": 0, "text": "hello", "finish_reason": "stop", "logprobs": None}]
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    body = {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "gpt-3.5-turbo-instruct",
        "choices": choices,
        "usage": usage,
    }
    server.answers = {(False, "hi"): ("application/json", json.dumps(body))}
    llm = cached(make(OpenAI, model="gpt-3.5-turbo-instruct"), cache)
    assert [llm.invoke("hi"), llm.invoke("hi"), llm.invoke("hi", max_tokens=5)] == ["hello"] * 3
    assert server.calls == 2
    assert cache.stats().by_model["gpt-3.5-turbo-instruct"].tokens_saved == 13


async def test_fifty_tasks_ask_openai_once(
    server: Server, make: MakeModel, cache: LLMCacheMem
) -> None:
    server.answers = {(False, "hi"): answer("hello")}
    model = cached(make(ChatOpenAI, model="gpt-4o-mini"), cache)
    assert {
        found.content for found in await asyncio.gather(*(model.ainvoke("hi") for _ in range(50)))
    } == {"hello"}
    assert server.calls == 1


def test_no_secret_and_no_prompt_reaches_the_file(
    server: Server, make: MakeModel, tmp_path: Path
) -> None:
    server.answers = {(False, "PROMPT"): answer("hello")}
    cache = LLMCacheMem(backend=tmp_path / "cache.db")
    plain = make(
        ChatOpenAI,
        model="gpt-4o-mini",
        default_headers={"X-User": "HEADER"},
        model_kwargs={"user": "USER"},
    )
    set_llm_cache(cache)
    plain.invoke("PROMPT")
    set_llm_cache(None)
    cached(plain, cache, scope="other").invoke("PROMPT")
    assert cache.stats().stored == 2
    cache.cache.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"hello" in stored
    assert not [word for word in (b"SECRET", b"HEADER", b"USER", b"PROMPT") if word in stored]
