"""One request, made through every layer: key functions see the same shape, a key function makes the
same key of it, and options, modes and lifetimes do the same."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest

pytest.importorskip("langchain_openai", reason="needs langchain-openai")
pytest.importorskip("llama_index.core", reason="needs llama-index-core")

from layers import EXTRA, LAYERS, Ask, Provider, layer

from llm_cache_mem import (
    CacheMissError,
    LLMCache,
    compose,
    folding,
    ignoring,
    last_turn,
    masking,
    options,
    stable_ids,
)
from llm_cache_mem.http import CacheTransport
from llm_cache_mem.keys.digest import digest_of, parse

PNG = "iVBORw0KGgoAAAANSUhEUg=="
HI = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "Be brief. Today is 2026-01-02."}


def said(*blocks: Any) -> list[Any]:
    return [{"role": "user", "content": list(blocks)}]


def text(text: str) -> Any:
    return {"type": "text", "text": text}


def image(url: str, **more: Any) -> Any:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def calls(*arguments: str, content: Any = None) -> Any:
    listed = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": "weather", "arguments": one},
        }
        for number, one in enumerate(arguments)
    ]
    return {"role": "assistant", "content": content, "tool_calls": listed}


def result(content: Any, number: int = 0) -> Any:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": content}


TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}},
}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE = {
    "type": "file",
    "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
}

SHAPES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "a text": ([HI], {}),
    "an empty text": ([{"role": "user", "content": ""}], {}),
    "a text beyond ASCII": ([{"role": "user", "content": "Zürich 🙂 \u2028"}], {}),
    "a system prompt": ([SYSTEM, HI], {}),
    "a developer prompt": ([{"role": "developer", "content": "Be brief."}, HI], {}),
    "earlier turns": ([SYSTEM, HI, {"role": "assistant", "content": "ho"}, HI], {}),
    "a named user": ([{**HI, "name": "Ann"}], {}),
    "a list of one text": (said(text("hi")), {}),
    "two texts": (said(text("a"), text("b")), {}),
    "an image": (said(text("What?"), image(f"data:image/png;base64,{PNG}")), {}),
    "an image at a URL": (said(text("What?"), image("https://example.org/a.png")), {}),
    "an image in detail": (said(image("https://example.org/a.png", detail="high")), {}),
    "a sound": (said(text("What?"), SOUND), {}),
    "a file": (said(text("What?"), FILE), {}),
    "a call": ([HI, calls('{"city": "Bern"}')], {}),
    "a call and its result": ([HI, calls('{"city": "Bern"}'), result("12")], {}),
    "a call without arguments": ([HI, calls("{}"), result("12")], {}),
    "a call beyond ASCII": ([HI, calls('{"city": "Zürich"}'), result("12 °C")], {}),
    "a call with nested arguments": ([HI, calls('{"b": [1, 2.0], "a": {"c": null}}')], {}),
    "a call after text": ([HI, calls("{}", content="I look."), result("12")], {}),
    "calls side by side": ([HI, calls('{"a": 1}', '{"a": 2}'), result("1"), result("2", 1)], {}),
    "a result in parts": ([HI, calls("{}"), result([text("a"), text("b")])], {}),
    "temperature 0.0": ([HI], {"temperature": 0.0}),
    "temperature 0": ([HI], {"temperature": 0}),
    "sampling": ([HI], {"temperature": 0.7, "top_p": 0.9, "seed": 7, "frequency_penalty": 1.5}),
    "a limit": ([HI], {"max_tokens": 9}),
    "stops": ([HI], {"stop": ["x", "y"]}),
    "tools": ([HI], {"tools": [TOOL]}),
    "a choice of tools": ([HI], {"tools": [TOOL], "tool_choice": "required"}),
    "a form of answer": ([HI], {"response_format": {"type": "json_object"}}),
    "a user": ([HI], {"user": "u", "metadata": {"a": "b"}}),
    "likely tokens": ([HI], {"logprobs": True, "top_logprobs": 2}),
    "a bias": ([HI], {"logit_bias": {"50256": -100}}),
    "a param of one provider": ([HI], {"top_k": 3}),
    "effort": ([HI], {"reasoning_effort": "low"}),
}
CANNOT_SAY = {
    # a text alone is a text in LlamaIndex, and is sent as one
    ("a list of one text", "LlamaIndex, CachedLLM"),
    ("a list of one text", "LlamaIndex, set_llm_cache"),
}
NAMES = {"model", *EXTRA, *(name for _, params in SHAPES.values() for name in params)}
"""The params of these shapes. A layer says more: where it sends a request, and by which class."""
CASES = [(shape, name) for shape in SHAPES for name in LAYERS if (shape, name) not in CANNOT_SAY]
KEY_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "ignoring": ignoring("user", "metadata"),
    "masking": masking(r"\d{4}-\d\d-\d\d"),
    "last_turn": last_turn,
    "folding": folding,
    "stable_ids": stable_ids,
    "in a row": compose(stable_ids, folding, ignoring("user"), last_turn),
}


def request(shape: str) -> tuple[list[Any], dict[str, Any]]:
    messages, params = SHAPES[shape]
    return messages, {"model": "m", **params}


@pytest.mark.parametrize(("shape", "name"), CASES)
def test_key_functions_see_one_shape(shape: str, name: str) -> None:
    seen: list[Any] = []

    def record(messages: Any, **params: Any) -> Any:
        asked = {name: value for name, value in params.items() if name in NAMES}
        seen.append((messages, asked))
        return seen[-1]

    messages, params = request(shape)
    provider = Provider()
    with layer(name, LLMCache(key_fn=record), provider) as ask:
        assert ask(messages, {}, **params) == ask(messages, {}, **params)
    assert seen[0] == (messages, params)
    assert repr(seen[0][1].get("temperature")) == repr(params.get("temperature"))  # 0 is not 0.0
    assert provider.calls == 1


@pytest.mark.parametrize(("shape", "name"), CASES)
def test_a_key_function_makes_one_key(shape: str, name: str) -> None:
    messages, params = request(shape)
    for function in KEY_FUNCTIONS.values():
        keys: list[Any] = []

        def only_named(messages: Any, *, _inner: Any = function, **params: Any) -> Any:
            return _inner(messages, **{name: params[name] for name in params if name in NAMES})

        cache = LLMCache(key_fn=only_named, on_event=lambda event, to=keys: to.append(event.key))
        with layer(name, cache, Provider()) as ask:
            ask(messages, {}, **params)
        assert parse(keys[0]).digest == digest_of(function(messages, **params))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("as_settings", [False, True])
def test_ignoring_reaches_params_wherever_they_are_given(name: str, as_settings: bool) -> None:
    provider = Provider()
    with layer(name, LLMCache(key_fn=ignoring("user", "metadata")), provider) as ask:
        for user in "ab":
            more = {"user": user, "metadata": {"request": user}}
            ask([HI], more if as_settings else {}, model="m", **({} if as_settings else more))
        assert provider.calls == 1
        ask([HI], {}, model="m", seed=1)
        assert provider.calls == 2


@pytest.mark.parametrize("name", LAYERS)
def test_ignore_reaches_params_wherever_they_are_given(name: str) -> None:
    provider = Provider()
    with layer(name, LLMCache(ignore={"user"}), provider) as ask:
        for user in "ab":
            ask([HI], {"user": user}, model="m")
            ask([HI], {}, model="m", user=user)
    assert provider.calls == 1


@pytest.mark.parametrize("name", LAYERS)
def test_masking_reaches_system_prompts(name: str) -> None:
    provider = Provider()
    with layer(name, LLMCache(key_fn=masking(r"\d{4}-\d\d-\d\d")), provider) as ask:
        for day in "123":
            ask([{**SYSTEM, "content": f"Today is 2026-01-0{day}."}, HI], {}, model="m")
    assert provider.calls == 1


# -- Lifetimes, modes, namespaces and samples


class Scene:
    """A layer over a cache whose clock the test advances; ``ask`` returns how many calls there were
    so far."""

    def __init__(self, ask: Ask, provider: Provider, cache: LLMCache, advance: Any) -> None:
        self.cache, self.advance = cache, advance
        self._ask, self._provider = ask, provider

    def ask(self, text: str = "hi", **asked: Any) -> int:
        with options(**asked):
            self._ask([{"role": "user", "content": text}], {}, model="m")
        return self._provider.calls

    def clear(self) -> None:
        """Forget every answer."""
        self.cache.clear()

    def misses(self) -> int:
        """Ask where nothing may be called; how many calls there were so far."""
        with pytest.raises(CacheMissError):
            self.ask("never asked", mode="replay")
        return self._provider.calls


Steps = Callable[[Scene], list[int]]
MINUTE: dict[str, Any] = {"ttl_seconds": 60}

SCENARIOS: dict[str, tuple[dict[str, Any], Steps, list[int]]] = {
    "an equal request is answered": ({}, lambda s: [s.ask(), s.ask()], [1, 1]),
    "another is not": ({}, lambda s: [s.ask(), s.ask("ho")], [1, 2]),
    "an answer lives as long as the cache says": (
        MINUTE,
        lambda s: [s.ask(), s.advance(59) or s.ask(), s.advance(2) or s.ask()],
        [1, 1, 2],
    ),
    "or as the call that stored it says": (
        MINUTE,
        lambda s: [s.ask(ttl_seconds=10), s.advance(11) or s.ask()],
        [1, 2],
    ),
    "or as the call that reads it says": (
        MINUTE,
        lambda s: [s.ask(), s.advance(20) or s.ask(ttl_seconds=10)],
        [1, 2],
    ),
    "the stricter of both wins": (
        {"ttl_seconds": None},
        lambda s: [s.ask(ttl_seconds=10), s.advance(20) or s.ask(ttl_seconds=3600)],
        [1, 2],
    ),
    "without a limit it lives on": (
        {"ttl_seconds": None},
        lambda s: [s.ask(), s.advance(1e9) or s.ask()],
        [1, 1],
    ),
    "refresh asks again and stores": (
        {},
        lambda s: [s.ask(), s.ask(mode="refresh"), s.ask()],
        [1, 2, 2],
    ),
    "a refreshed answer lives anew": (
        MINUTE,
        lambda s: [s.ask(), s.advance(50) or s.ask(mode="refresh"), s.advance(50) or s.ask()],
        [1, 2, 2],
    ),
    "off leaves the cache alone": (
        {},
        lambda s: [s.ask(mode="off"), s.ask(), s.ask(mode="off"), s.ask()],
        [1, 2, 3, 3],
    ),
    "replay calls nothing": (
        {},
        lambda s: [s.ask(), s.ask(mode="replay"), s.misses()],
        [1, 1, 1],
    ),
    "namespaces are apart": (
        {},
        lambda s: [s.ask(), s.ask(namespace="acme"), s.ask(namespace="acme"), s.ask()],
        [1, 2, 2, 2],
    ),
    "samples are apart": (
        {},
        lambda s: [s.ask(), s.ask(sample=1), s.ask(sample=1), s.ask(sample=0)],
        [1, 2, 2, 2],
    ),
    "a namespace can be required": (
        {"require_namespace": True},
        lambda s: [s.ask(), s.ask(), s.ask(namespace="acme"), s.ask(namespace="acme")],
        [1, 2, 3, 3],
    ),
    "clear forgets": ({}, lambda s: [s.ask(), s.clear() or s.ask()], [1, 2]),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_layer_keeps_answers_alike(scenario: str, name: str, clock: Any) -> None:
    arguments, steps, expected = SCENARIOS[scenario]
    cache, provider = LLMCache(clock=clock, **arguments), Provider()
    with layer(name, cache, provider) as ask:
        assert steps(Scene(ask, provider, cache, clock.advance)) == expected


# -- What LangChain sends


def refusing(calls: list[Any], cache: LLMCache | None = None) -> httpx2.Client:
    """An HTTP client whose provider refuses each request and notes its body."""

    def refuse(request: httpx2.Request) -> httpx2.Response:
        calls.append(json.loads(request.content))
        return httpx2.Response(400, json={})

    transport = httpx2.MockTransport(refuse)
    return httpx2.Client(transport=transport if cache is None else CacheTransport(cache, transport))


def recording(seen: list[Any]) -> LLMCache:
    def record(messages: Any, **params: Any) -> Any:
        seen.append(messages)
        return messages

    return LLMCache(key_fn=record)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shape_of_chatopenai_is_its_wire_shape(shape: str) -> None:
    from langchain_core.messages import convert_to_messages
    from langchain_llm_cache_mem import cached
    from langchain_openai import ChatOpenAI

    sent: list[Any] = []
    seen: list[Any] = []
    model = ChatOpenAI(model="m", api_key="k", max_retries=0, http_client=refusing(sent))
    with contextlib.suppress(Exception):  # it is refused
        cached(model, recording(seen)).invoke(convert_to_messages(SHAPES[shape][0]))
    assert seen == [sent[0]["messages"]]


NOT_SENT = {"a developer prompt", "a named user", "an image in detail", "a sound", "a file"}
"""Shapes of which Anthropic is sent less than LangChain was told."""


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in NOT_SENT])
def test_the_shape_of_chatanthropic_is_its_wire_shape(shape: str) -> None:
    pytest.importorskip("langchain_anthropic")
    from anthropic import Anthropic
    from langchain_anthropic import ChatAnthropic
    from langchain_core.messages import convert_to_messages
    from langchain_llm_cache_mem import cached

    seen: list[Any] = []
    through_http: list[Any] = []
    http = refusing([], recording(through_http))
    model = ChatAnthropic(model="m", api_key="k", max_tokens=9)
    model.__dict__["_client"] = Anthropic(api_key="k", max_retries=0, http_client=http)
    with contextlib.suppress(Exception):  # it is refused
        cached(model, recording(seen)).invoke(convert_to_messages(SHAPES[shape][0]))
    assert seen == through_http != []


# -- One transport under all


def test_transport_entries_answer_sdk_and_framework() -> None:
    from langchain_openai import ChatOpenAI
    from openai import OpenAI

    provider = Provider()
    transport = CacheTransport(LLMCache(), httpx2.MockTransport(provider.respond))
    http = httpx2.Client(transport=transport)
    model = ChatOpenAI(model="m", api_key="k", http_client=http)
    client = OpenAI(api_key="k", http_client=http)
    said = client.chat.completions.create(model="m", messages=[HI], stream=False)
    assert model.invoke("hi").content == said.choices[0].message.content
    assert provider.calls == 1


# -- The other protocols, for what they can say

AGENT = [
    {"role": "system", "content": "Be brief."},
    HI,
    calls('{"city": "Bern"}'),
    result("12"),
]
ARGUMENTS = {"city": "Bern"}


def anthropic(http: Any) -> Any:
    from anthropic import Anthropic

    use = {"type": "tool_use", "id": "call_0", "name": "weather", "input": ARGUMENTS}
    answer = {"type": "tool_result", "tool_use_id": "call_0", "content": "12"}
    Anthropic(api_key="k", max_retries=0, http_client=http).messages.create(
        model="m",
        max_tokens=9,
        system="Be brief.",
        messages=[
            HI,
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [answer]},
        ],
        extra_body={"temperature": 0.5},
        tools=[{"name": "weather", "description": "d", "input_schema": {"type": "object"}}],
    )


def responses(http: Any) -> Any:
    from openai import OpenAI

    call = {"type": "function_call", "call_id": "call_0", "name": "weather"}
    answer = {"type": "function_call_output", "call_id": "call_0", "output": "12"}
    OpenAI(api_key="k", max_retries=0, http_client=http).responses.create(
        model="m",
        instructions="Be brief.",
        input=[HI, {**call, "arguments": '{"city": "Bern"}'}, answer],
        temperature=0.5,
        tools=[{"type": "function", **TOOL["function"]}],
    )


def gemini(http: Any) -> Any:
    from google.genai import Client, types

    call = types.FunctionCall(id="call_0", name="weather", args=ARGUMENTS)
    answer = types.FunctionResponse(id="call_0", name="weather", response={"output": "12"})
    Client(api_key="k", http_options=types.HttpOptions(httpx_client=http)).models.generate_content(
        model="m",
        contents=[
            types.Content(role="user", parts=[types.Part(text="hi")]),
            types.Content(role="model", parts=[types.Part(function_call=call)]),
            types.Content(role="user", parts=[types.Part(function_response=answer)]),
        ],
        config=types.GenerateContentConfig(system_instruction="Be brief.", temperature=0.5),
    )


def cohere(http: Any) -> Any:
    from cohere import ClientV2

    ClientV2(api_key="k", httpx_client=http).chat(
        model="m", messages=AGENT, temperature=0.5, max_tokens=9, tools=[TOOL]
    )


def ollama(http: Any) -> Any:
    http.post(
        "http://localhost:11434/api/chat",
        json={
            "model": "m",
            "messages": [*AGENT[:2], calls_of_ollama(), AGENT[3]],
            "options": {"temperature": 0.5, "num_predict": 9},
            "tools": [TOOL],
        },
    )


def calls_of_ollama() -> Any:
    call = AGENT[2]["tool_calls"][0]
    function = {**call["function"], "arguments": ARGUMENTS}
    return {**AGENT[2], "tool_calls": [{**call, "function": function}]}


@pytest.mark.parametrize("ask", [anthropic, responses, gemini, cohere, ollama])
@pytest.mark.parametrize("function", KEY_FUNCTIONS)
def test_other_protocols_have_the_same_shape_and_key(ask: Any, function: str) -> None:
    packages = {"responses": "openai", "gemini": "google.genai"}
    pytest.importorskip(packages.get(ask.__name__, ask.__name__))
    keys: list[Any] = []
    inner = KEY_FUNCTIONS[function]

    def only_named(messages: Any, **params: Any) -> Any:
        assert messages == AGENT
        assert params.get("tools", [TOOL]) == [TOOL]
        return inner(messages, **{name: params[name] for name in ("model", "temperature")})

    cache = LLMCache(key_fn=only_named, on_event=lambda event: keys.append(event.key))
    library = httpx if ask in (cohere, gemini) else httpx2
    refuse = library.MockTransport(lambda request: library.Response(400, json={}))
    with contextlib.suppress(Exception):  # it answers nothing, but has been asked
        ask(library.Client(transport=CacheTransport(cache, refuse)))
    expected = inner(AGENT, model="m", temperature=0.5)
    assert parse(keys[0]).digest == digest_of(expected)
