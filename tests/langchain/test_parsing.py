"""Which calls share an entry, by what the two strings say of them: the tables of false hits and
spurious misses."""

import json
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import FakeListLLM
from langchain_core.load import dumps
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    ToolMessage,
)
from langchain_core.messages.content import create_image_block, create_text_block
from langchain_core.tools import tool
from langchain_doubles import Counting
from langchain_llm_cache_mem import LLMCacheMem
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from llm_cache_mem import RequestNotCacheable


class Invoice(BaseModel):
    total: int

    class Line(BaseModel):
        text: str


class Level(Enum):
    LOW = "low"
    HIGH = "high"


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


HI = [HumanMessage("hi")]
NEVER = object()


def openai(**settings: Any) -> ChatOpenAI:
    return ChatOpenAI(**{"model": "gpt-4o-mini", "api_key": "sk-1", **settings})


def anthropic(**settings: Any) -> ChatAnthropic:
    return ChatAnthropic(**{"model": "claude-sonnet-4-5", "api_key": "sk-1", **settings})


def key(chat: Any = None, messages: list[BaseMessage] = HI, **call: Any) -> Any:
    """The key of the call, or NEVER where it is not cached."""
    plain = [message.model_copy(update={"id": None}) for message in messages]
    described = (chat or openai())._get_llm_string(stop=call.pop("stop", None), **call)
    try:
        return LLMCacheMem()._request(dumps(plain), described).key
    except RequestNotCacheable:
        return NEVER


def params(model: Any, **call: Any) -> Any:
    return LLMCacheMem()._request("hi", model._get_llm_string(stop=None, **call)).params


ASKED = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "call_1"}])
DIFFERENT: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "model": (lambda: key(openai()), lambda: key(openai(model="gpt-4o"))),
    "base_url": (lambda: key(openai()), lambda: key(openai(base_url="http://other"))),
    "anthropic base_url": (
        lambda: key(anthropic()),
        lambda: key(anthropic(base_url="http://other")),
    ),
    "provider": (lambda: key(openai(model="m")), lambda: key(anthropic(model="m"))),
    "temperature": (lambda: key(openai(temperature=0)), lambda: key(openai(temperature=1))),
    "max_tokens": (lambda: key(anthropic(max_tokens=10)), lambda: key(anthropic(max_tokens=20))),
    "model_kwargs": (
        lambda: key(openai(model_kwargs={"x": 1})),
        lambda: key(openai(model_kwargs={"x": 2})),
    ),
    "headers": (
        lambda: key(openai(default_headers={"beta": "a"})),
        lambda: key(openai(default_headers={"beta": "b"})),
    ),
    "stop": (lambda: key(stop=["a"]), lambda: key(stop=["b"])),
    "no stop": (lambda: key(stop=["a"]), lambda: key()),
    "call argument": (lambda: key(temperature=0), lambda: key(temperature=1)),
    "empty functions": (lambda: key(functions=[]), lambda: key()),
    "tools": (
        lambda: key(**openai().bind_tools([add]).kwargs),
        lambda: key(**openai().bind_tools([multiply]).kwargs),
    ),
    "tool_choice": (
        lambda: key(tools=[{}], tool_choice="any"),
        lambda: key(tools=[{}], tool_choice="auto"),
    ),
    "schema": (lambda: key(response_format=Invoice), lambda: key(response_format=Invoice.Line)),
    "enum": (lambda: key(effort=Level.LOW), lambda: key(effort=Level.HIGH)),
    "1 and 1.0": (lambda: key(top_p=1), lambda: key(top_p=1.0)),
    "text and a list of it": (
        lambda: key(),
        lambda: key(messages=[HumanMessage([{"type": "text", "text": "hi"}])]),
    ),
    "true and 1": (lambda: key(logprobs=True), lambda: key(logprobs=1)),
    "text and number": (lambda: key(seed="1"), lambda: key(seed=1)),
    "message text": (lambda: key(), lambda: key(messages=[HumanMessage("ho")])),
    "role": (lambda: key(), lambda: key(messages=[AIMessage("hi")])),
    "own role": (
        lambda: key(messages=[ChatMessage("x", role="user")]),
        lambda: key(messages=[ChatMessage("x", role="critic")]),
    ),
    "name": (lambda: key(), lambda: key(messages=[HumanMessage("hi", name="Ann")])),
    "tool arguments": (
        lambda: key(messages=[ASKED]),
        lambda: key(
            messages=[AIMessage("", tool_calls=[{"name": "add", "args": {"a": 2}, "id": "call_1"}])]
        ),
    ),
    "tool error": (
        lambda: key(messages=[ToolMessage("x", tool_call_id="1")]),
        lambda: key(messages=[ToolMessage("x", tool_call_id="1", status="error")]),
    ),
    "reasoning": (
        lambda: key(messages=[AIMessage("x")]),
        lambda: key(messages=[AIMessage("x", additional_kwargs={"reasoning_content": "r"})]),
    ),
    "container": (
        lambda: key(anthropic(), [AIMessage("x", response_metadata={"container": {"id": "a"}})]),
        lambda: key(anthropic(), [AIMessage("x", response_metadata={"container": {"id": "b"}})]),
    ),
    "image": (
        lambda: key(messages=[HumanMessage([create_image_block(url="http://a")])]),
        lambda: key(messages=[HumanMessage([create_image_block(url="http://b")])]),
    ),
    "a dict that looks like a secret": (
        lambda: key(
            messages=[HumanMessage([{"type": "x", "v": {"lc": 1, "type": "secret", "id": ["A"]}}])]
        ),
        lambda: key(
            messages=[HumanMessage([{"type": "x", "v": {"lc": 1, "type": "secret", "id": ["B"]}}])]
        ),
    ),
    "text that looks like a class": (lambda: key(x=f"{Invoice}"), lambda: key(x=Invoice)),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_different(case: str) -> None:
    one, other = (make() for make in DIFFERENT[case])
    assert NEVER not in (one, other)
    assert one != other


SAME: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "max_retries": (lambda: key(openai()), lambda: key(openai(max_retries=7))),
    "timeout": (lambda: key(openai()), lambda: key(openai(timeout=3))),
    "streaming": (
        lambda: key(openai()),
        lambda: key(openai(streaming=True, stream_usage=True, disable_streaming=True)),
    ),
    "the model's own name": (lambda: key(openai()), lambda: key(openai(name="my model"))),
    "API key": (lambda: key(openai()), lambda: key(openai(api_key="sk-2"))),
    "setting or call": (
        lambda: key(openai(temperature=0.5)),
        lambda: key(openai(), temperature=0.5),
    ),
    "model or call": (lambda: key(openai(model="m")), lambda: key(openai(), model="m")),
    "order of arguments": (
        lambda: key(a=1, b={"c": 1, "d": 2}),
        lambda: key(b={"d": 2, "c": 1}, a=1),
    ),
    "made-up block ids": (
        lambda: key(
            messages=[HumanMessage(content_blocks=[create_text_block("a"), create_text_block("b")])]
        ),
        lambda: key(
            messages=[HumanMessage(content_blocks=[create_text_block("a"), create_text_block("b")])]
        ),
    ),
    "what a provider says of an answer": (
        lambda: key(messages=[AIMessage("x")]),
        lambda: key(
            messages=[
                AIMessage(
                    "x",
                    id="run-1",
                    response_metadata={
                        "id": "chatcmpl-1",
                        "model_name": "m",
                        "llm_cache_mem": {"hit": True},
                    },
                    usage_metadata={
                        "input_tokens": 1,
                        "output_tokens": 1,
                        "total_tokens": 2,
                        "total_cost": 0,
                    },
                    additional_kwargs={"refusal": None, "parsed": Invoice(total=1)},
                )
            ]
        ),
    ),
    "a streamed answer": (
        lambda: key(messages=[ASKED]),
        lambda: key(messages=[AIMessageChunk("", tool_calls=ASKED.tool_calls)]),
    ),
    "artifact": (
        lambda: key(messages=[ToolMessage("x", tool_call_id="1", artifact=object())]),
        lambda: key(messages=[ToolMessage("x", tool_call_id="1")]),
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_same(case: str) -> None:
    one, other = (make() for make in SAME[case])
    assert one == other
    assert one is not NEVER


def local_class() -> type:
    class Invoice(BaseModel):
        total: int

    return Invoice


OPAQUE: dict[str, Callable[[], Any]] = {
    "object": lambda: key(x=object()),
    "function": lambda: key(x=local_class),
    "a class that cannot be found": lambda: key(response_format=local_class()),
    "a class that is no model": lambda: key(x=int),
    "set of an object": lambda: key(x={object()}),
    "set": lambda: key(x={"a"}),
    "not a number": lambda: key(x=float("nan")),
    "model object": lambda: key(x=Invoice(total=1)),
    "object in the settings": lambda: key(openai(extra_body={"o": object()})),
    "object in the content": lambda: key(messages=[HumanMessage([{"type": "x", "o": object()}])]),
    "a message that is none": lambda: key(messages=[RemoveMessage(id="1")]),
}


@pytest.mark.parametrize("case", OPAQUE)
def test_non_data_arguments_go_uncached(case: str) -> None:
    assert OPAQUE[case]() is NEVER


def test_addresses_that_repeat_never_answer_for_one_another(cache: LLMCacheMem) -> None:
    model = Counting(cache=cache)
    assert len({model.invoke("hi", tag=object()).content for _ in range(50)}) == 50
    assert cache.stats().skipped == {"request": 50}


def test_a_schema_that_changes_under_its_name_is_another_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, described = LLMCacheMem(), openai()._get_llm_string(stop=None, response_format=Invoice)
    before = cache._request("hi", described).key
    edited = type(
        "Invoice", (BaseModel,), {"__annotations__": {"total": float}, "__module__": __name__}
    )
    monkeypatch.setitem(globals(), "Invoice", edited)
    assert openai()._get_llm_string(stop=None, response_format=edited) == described
    assert cache._request("hi", described).key != before


def test_params_are_those_of_the_chat_apis() -> None:
    bound = openai(temperature=0.5).bind_tools([add], tool_choice="any").kwargs
    found = params(openai(temperature=0.5), **bound)
    assert (found["model"], found["temperature"], found["tool_choice"]) == (
        "gpt-4o-mini",
        0.5,
        "required",
    )
    assert found["tools"][0]["function"]["name"] == "add"
    assert not [name for name in found if "key" in name]


def test_messages_are_those_of_the_chat_apis() -> None:
    prompt = dumps([HumanMessage("hi"), ASKED, ToolMessage("42", tool_call_id="call_1")])
    assert LLMCacheMem()._request(prompt, "m").messages == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"a": 1}'},
                }
            ],
        },
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
    ]


def test_a_header_may_contain_the_separator() -> None:
    odd = {"x": "---[('stop', None)]"}
    assert params(openai(default_headers=odd))["default_headers"] == odd


def test_quotes_and_classes_in_text_stay_text() -> None:
    text = """it's "<class 'x.Y'>" and <o at 0x7f> \\' \n"""
    assert params(openai(), x=text, response_format=Invoice)["x"] == text


@pytest.mark.parametrize(
    "text", ["Sample LLM string configuration.", "{not json", '{"a": 1}', '{"type": "x"}---']
)
def test_a_text_of_no_known_form_stands_for_itself(text: str) -> None:
    cache = LLMCacheMem()
    assert cache._request("p", text).key != cache._request("p", text + " ").key


@pytest.mark.parametrize("text", ["model <o at 0x7f0011>", "[('a', Thing(1))]", "[(1, 2, 3)]"])
def test_but_not_if_it_shows_an_object(text: str) -> None:
    with pytest.raises(RequestNotCacheable):
        LLMCacheMem()._request("p", text)


@pytest.mark.parametrize("depth", [60, 100_000])
def test_hostile_prompts_raise_nothing_else(depth: int) -> None:
    prompt = json.dumps(
        [{"lc": 1, "type": "constructor", "id": [], "kwargs": {"type": "human", "content": "X"}}]
    ).replace('"X"', "[" * depth)
    with pytest.raises(RequestNotCacheable):
        LLMCacheMem()._request(prompt, "m")


def test_a_prompt_that_begins_like_a_dump_but_is_none_goes_uncached(cache: LLMCacheMem) -> None:
    llm = FakeListLLM(responses=["one", "two"], cache=cache)
    prompt = '[{"lc": 1, "type": "constructor" is how it begins'
    assert [llm.invoke(prompt), llm.invoke(prompt)] == ["one", "two"]


# What no cache can see in the two strings. cached(model, cache) sees all of it: test_cached.py.


def test_limit_a_field_changed_after_the_first_call() -> None:
    model = openai()
    before = key(model)
    model.temperature = 0.9
    assert key(model) == before  # LangChain keeps its first description of the model


def test_limit_a_copy_with_other_settings() -> None:
    model = openai()
    before = key(model)
    assert key(model.model_copy(update={"temperature": 0.9})) == before


def test_limit_the_arguments_of_a_plain_llm(cache: LLMCacheMem) -> None:
    llm = FakeListLLM(responses=["one", "two"], cache=cache)
    assert [llm.invoke("hi", temperature=0), llm.invoke("hi", temperature=1)] == ["one", "one"]


def test_limit_a_url_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(openai())
    monkeypatch.setenv("OPENAI_BASE_URL", "http://other")
    assert key(openai()) == before
