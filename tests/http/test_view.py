"""The Chat Completions view of HTTP requests: what key functions see of each protocol, that nothing
gets lost in it, and that default keys do not depend on it."""

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest

from llm_cache_mem import LLMCache, ignoring, last_turn, masking, stable_ids
from llm_cache_mem.http import request as requests
from llm_cache_mem.http.view import PROTOCOLS, view
from llm_cache_mem.keys.digest import DEFAULT_IGNORE, canonical_json, digest

PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/gemini-2.5-flash:generateContent",
    "bedrock": "/model/amazon.nova-lite-v1%3A0/converse",
    "bedrock invoke": "/model/anthropic.claude/invoke",
    "ollama": "/api/chat",
    "ollama generate": "/api/generate",
    "cohere": "/v2/chat",
    "cohere-v1": "/v1/chat",
}
PNG = "iVBORw0KGgoAAAANSUhEUg=="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "The weather."}

SEEN = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather in Zürich?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Zürich"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "12 degrees"},
]
TOOL = {"type": "function", "function": {**WEATHER, "parameters": SCHEMA}}
PICTURE = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        ],
    }
]


def read(path: str, body: Any) -> Any:
    data = json.dumps(body).encode()
    return requests.read("https://api.example.com", PATHS[path], "", (), data)


def seen(path: str, body: Any) -> tuple[Any, dict[str, Any]]:
    asked = read(path, body)
    messages, params = view(asked.messages, asked.params)
    return messages, dict(params)


AGENT: dict[str, dict[str, Any]] = {
    "chat": {"messages": SEEN, "max_tokens": 9, "tools": [TOOL]},
    "responses": {
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": "Weather in Zürich?"},
            {
                "type": "function_call",
                "call_id": "call_1",
                "name": "weather",
                "arguments": '{"city": "Zürich"}',
            },
            {"type": "function_call_output", "call_id": "call_1", "output": "12 degrees"},
        ],
        "tools": [{"type": "function", **WEATHER, "parameters": SCHEMA}],
    },
    "anthropic": {
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "Weather in Zürich?"},
            {
                "role": "assistant",
                "content": [
                    {
                        "type": "tool_use",
                        "id": "call_1",
                        "name": "weather",
                        "input": {"city": "Zürich"},
                    }
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": "12 degrees"}
                ],
            },
        ],
        "tools": [{**WEATHER, "input_schema": SCHEMA}],
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Weather in Zürich?"}]},
            {
                "role": "model",
                "parts": [
                    {
                        "functionCall": {
                            "id": "call_1",
                            "name": "weather",
                            "args": {"city": "Zürich"},
                        }
                    }
                ],
            },
            {
                "role": "user",
                "parts": [
                    {
                        "functionResponse": {
                            "id": "call_1",
                            "name": "weather",
                            "response": {"output": "12 degrees"},
                        }
                    }
                ],
            },
        ],
        "tools": [{"functionDeclarations": [{**WEATHER, "parameters": SCHEMA}]}],
    },
    "bedrock": {
        "system": [{"text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [{"text": "Weather in Zürich?"}]},
            {
                "role": "assistant",
                "content": [
                    {
                        "toolUse": {
                            "toolUseId": "call_1",
                            "name": "weather",
                            "input": {"city": "Zürich"},
                        }
                    }
                ],
            },
            {
                "role": "user",
                "content": [
                    {"toolResult": {"toolUseId": "call_1", "content": [{"text": "12 degrees"}]}}
                ],
            },
        ],
    },
    "cohere": {"messages": SEEN, "tools": [TOOL]},
}
AGENT["bedrock invoke"] = {**AGENT["anthropic"], "anthropic_version": "bedrock-2023-05-31"}


@pytest.mark.parametrize("path", AGENT)
def test_an_agents_conversation_looks_the_same_in_every_protocol(path: str) -> None:
    messages, params = seen(path, AGENT[path])
    assert messages == SEEN
    assert path == "bedrock" or params["tools"] == [TOOL]


PICTURES: dict[str, Any] = {
    "chat": {"messages": PICTURE},
    "responses": {
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
                ],
            }
        ]
    },
    "anthropic": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": PNG},
                    },
                ],
            }
        ]
    },
    "gemini": {
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "What is this?"},
                    {"inlineData": {"mimeType": "image/png", "data": PNG}},
                ],
            }
        ]
    },
    "bedrock": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"text": "What is this?"},
                    {"image": {"format": "png", "source": {"bytes": PNG}}},
                ],
            }
        ]
    },
    "ollama": {"messages": [{"role": "user", "content": "What is this?", "images": [PNG]}]},
    "ollama generate": {"prompt": "What is this?", "images": [PNG]},
}


@pytest.mark.parametrize("path", PICTURES)
def test_an_image_looks_the_same_in_every_protocol(path: str) -> None:
    assert seen(path, PICTURES[path])[0] == PICTURE


FLAT: dict[str, Any] = {
    "chat": {"messages": [], "temperature": 0.5, "stop": ["x"], "max_tokens": 9},
    "anthropic": {"messages": [], "temperature": 0.5, "stop_sequences": ["x"], "max_tokens": 9},
    "gemini": {
        "contents": [],
        "generationConfig": {"temperature": 0.5, "stopSequences": ["x"], "maxOutputTokens": 9},
    },
    "bedrock": {
        "messages": [],
        "inferenceConfig": {"temperature": 0.5, "stopSequences": ["x"], "maxTokens": 9},
    },
    "ollama": {"messages": [], "options": {"temperature": 0.5, "stop": ["x"], "num_predict": 9}},
    "cohere": {"messages": [], "temperature": 0.5, "stop_sequences": ["x"], "max_tokens": 9},
}


@pytest.mark.parametrize("path", FLAT)
def test_params_are_flat_in_every_protocol(path: str) -> None:
    params = seen(path, FLAT[path])[1]
    assert {name: params[name] for name in ("temperature", "stop", "max_tokens")} == {
        "temperature": 0.5,
        "stop": ["x"],
        "max_tokens": 9,
    }


def test_unknown_shapes_are_unchanged() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    text = {"type": "text", "text": "then"}
    messages = [
        {"role": "assistant", "content": [thinking, call]},
        {"role": "assistant", "content": [call, text]},  # the order is part of the request
    ]
    found, _ = seen("anthropic", {"messages": messages})
    assert found[0]["content"] == [thinking]
    assert found[0]["tool_calls"][0]["id"] == "t"
    assert found[1] == messages[1]
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
    found, _ = seen("responses", {"input": [reasoning, {"role": "user", "content": "x"}]})
    assert found == [reasoning, {"role": "user", "content": "x"}]


def test_a_request_of_mixed_forms_is_unchanged() -> None:
    for body in (
        {"messages": [{"role": "tool", "tool_call_id": "1", "content": "x"}], "system": "s"},
        {"messages": [], "system": "s", "stop": ["x"], "stop_sequences": ["x"]},
        {"messages": [], "system": "s", "tools": [TOOL]},
    ):
        asked = read("anthropic", body)
        assert view(asked.messages, asked.params) == (asked.messages, asked.params)


# -- Keys


def _key(path: str, body: Any, **settings: Any) -> str:
    asked = read(path, body)
    keyer = LLMCache(**settings).engine.keyer
    return keyer.request(asked.messages, asked.params, "http", view).key


@pytest.mark.parametrize("path", AGENT)
def test_default_keys_are_made_from_the_sent_body(path: str) -> None:
    asked = read(path, AGENT[path])
    expected = digest(asked.messages, asked.params)
    assert _key(path, AGENT[path]).endswith(expected)
    assert _key(path, AGENT[path], ignore=sorted(DEFAULT_IGNORE)[:3]).endswith(expected)
    assert _key(path, AGENT[path], keep_requests=True).endswith(expected)


def test_a_default_key_needs_no_view() -> None:
    def never(messages: Any, params: Any) -> Any:
        raise AssertionError

    LLMCache().engine.keyer.request([], {"model": "m"}, "http", never)


def test_a_view_that_fails_makes_the_request_uncacheable() -> None:
    def broken(messages: Any, params: Any) -> Any:
        raise KeyError("secret")

    engine = LLMCache(key_fn=last_turn).engine
    assert engine.request([], {"model": "m"}, kind="http", view=broken) is None
    assert engine.ledger.snapshot(0).skipped == {"request": 1}


@pytest.mark.parametrize("path", FLAT)
def test_a_name_in_ignore_is_that_of_the_chat_completions_api(path: str) -> None:
    other = json.loads(json.dumps(FLAT[path]).replace("0.5", "0.7"))
    assert _key(path, FLAT[path]) != _key(path, other)
    assert _key(path, FLAT[path], ignore={"temperature"}) == _key(
        path, other, ignore={"temperature"}
    )


@pytest.mark.parametrize("path", AGENT)
def test_masking_reaches_system_prompts_and_the_arguments_of_calls(path: str) -> None:
    other = json.loads(json.dumps(AGENT[path]).replace("brief", "short").replace("rich", "rick"))
    masked = masking("brief|short|rich|rick")
    assert _key(path, AGENT[path]) != _key(path, other)
    assert _key(path, AGENT[path], key_fn=masked) == _key(path, other, key_fn=masked)


@pytest.mark.parametrize("path", AGENT)
def test_last_turn_begins_with_the_user_message(path: str) -> None:
    name = {"responses": "input", "gemini": "contents"}.get(path, "messages")
    listed = AGENT[path][name]
    earlier = listed[-3:]  # a question, a call and its result
    longer = {**AGENT[path], name: [*listed[:-3], *earlier, *earlier]}
    assert _key(path, AGENT[path], key_fn=last_turn) == _key(path, longer, key_fn=last_turn)


@pytest.mark.parametrize("path", AGENT)
def test_stable_ids_reaches_the_calls_of_every_protocol(path: str) -> None:
    others = [
        json.loads(json.dumps(AGENT[path]).replace("call_1", known_as))
        for known_as in ("pyd_ai_0f6c", "toolu_2", "call_1")
    ]
    assert len({_key(path, other) for other in others}) == 3
    assert len({_key(path, other, key_fn=stable_ids) for other in others}) == 1


def test_stored_requests_are_views() -> None:
    asked = read("anthropic", AGENT["anthropic"])
    cache = LLMCache(keep_requests=True)
    request = cache.engine.request(asked.messages, asked.params, kind="http", view=view)
    assert request is not None
    assert request.text is not None
    assert json.loads(request.text)["messages"] == SEEN


def test_ignoring_reaches_top_level_fields_of_every_protocol() -> None:
    one, other = ({**AGENT["anthropic"], "metadata": {"user_id": user}} for user in "ab")
    assert _key("anthropic", one, key_fn=ignoring("metadata")) == _key(
        "anthropic", other, key_fn=ignoring("metadata")
    )


# -- Nothing gets lost


def _pick(random: random.Random, *of: Any) -> Any:
    return deepcopy(random.choice(of))


def _few(random: Any, make: Callable[[Any], Any], most: int = 3) -> list[Any]:
    return [make(random) for _ in range(random.randint(0, most))]


class _Few(random.Random):
    """A source of few blocks at a time, so that requests differ in little."""

    blocks: list[Any]

    def change(self) -> None:
        """Go on to other blocks."""
        self.blocks = [_any_block(self) for _ in range(3)]


def _block(random: _Few) -> Any:
    return _pick(random, *random.blocks)


def _any_block(random: random.Random) -> Any:
    """A block of any API: forms of all of them meet in one request."""
    text = random.choice(["a", "", "b"])
    return _pick(
        random,
        {"type": "text", "text": text},
        {"type": "text", "text": text},
        {"text": text},
        {"text": text, "thought": True},
        {"type": "input_text", "text": text},
        {"type": "output_text", "text": text, "annotations": []},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": text}},
        {"type": "tool_use", "id": "t", "name": "f", "input": text},
        {"type": "tool_result", "tool_use_id": "t", "content": text},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": text}]},
        {"type": "tool_result", "tool_use_id": "t"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}},
        {"type": "image", "source": {"type": "url", "url": "data:image/png;base64,AA"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
        {"type": "input_image", "image_url": "data:image/png;base64,AA"},
        {"type": "input_file", "file_id": "f"},
        {"type": "file", "file": {"file_id": "f"}},
        {"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": text}}},
        {"toolResult": {"toolUseId": "t", "content": [{"text": text}]}},
        {"toolResult": {"toolUseId": "t", "content": text}},
        {"image": {"format": "png", "source": {"bytes": "AA"}}},
        {"functionCall": {"name": "f", "args": {"a": text}}},
        {"functionCall": {"id": "t", "name": "f", "args": {"a": text}}},
        {"functionResponse": {"id": "t", "name": "f", "response": {"output": text}}},
        {"functionCall": {"name": "f", "args": {"a": text}}, "thoughtSignature": "s"},
        {"functionResponse": {"name": "f", "response": {"output": text}}},
        {"functionResponse": {"name": "f", "response": {"output": {"a": text}}}},
        {"inlineData": {"mimeType": "image/png", "data": "AA"}},
        {"inlineData": None},
        {"toolUse": []},
        {"type": "function_call", "call_id": 1},
        "a",
        None,
    )


def _turn(random: _Few) -> Any:
    role = random.choice(["user", "user", "assistant", "assistant", "model", "system", "tool"])
    content = random.choice(["a", "b", None, *([_few(random, _block)] * 9)])
    turn = _pick(
        random,
        *([{"role": role, "content": content}] * 6),
        {"role": role, "parts": _few(random, _block)},
        {"role": role, "content": content, "type": "message"},
        {"role": role, "content": "a", "images": ["iVBORw0KGgo"]},
        {"role": role, "content": "a", "tool_calls": [{"function": {"arguments": {"a": 1}}}]},
        {"role": role, "content": "a", "tool_calls": [{"function": {"arguments": '{"a": 1}'}}]},
        {"role": "tool", "tool_call_id": "t", "content": "a"},
        {"type": "function_call", "call_id": "t", "name": "f", "arguments": '{"a": "a"}'},
        {"type": "function_call_output", "call_id": "t", "output": "a"},
        {"type": "reasoning", "id": "rs_1"},
        {"role": "USER", "message": "a"},
        "a",
        None,
        {},
        {"role": ["user"], "content": [[], 1, None, {"type": ["text"]}, {"type": "tool_use"}]},
    )
    return turn


def _tool(random: random.Random) -> Any:
    return _pick(
        random,
        {"name": "f", "input_schema": {}},
        {"name": "f", "parameters": {}},
        {"type": "function", "name": "f", "parameters": {}},
        {"type": "function", "function": {"name": "f", "parameters": {}}},
        {"functionDeclarations": [{"name": "f", "parameters": {}}]},
        {"type": "web_search"},
    )


def _params(random: _Few) -> Iterator[tuple[str, Any]]:
    names = {"temperature", "topP", "top_p", "maxTokens", "num_predict", "stop", "own"}
    for name in ("stop", "stop_sequences", "temperature", "top_p", "max_tokens", "k", "top_k"):
        if random.random() < 0.06:
            yield name, 1
    for name in ("max_output_tokens", "max_completion_tokens"):
        if random.random() < 0.06:
            yield name, 1
    for name in ("generationConfig", "inferenceConfig", "options"):
        if random.random() < 0.2:
            yield name, {one: 1 for one in sorted(names) if random.random() < 0.3}
    for name in ("system", "instructions", "preamble", "systemInstruction"):
        if random.random() < 0.15:
            yield (
                name,
                _pick(
                    random,
                    "a",
                    [{"text": "a"}],
                    {"parts": [{"text": "a"}]},
                    {"parts": [{"text": "a"}], "role": "user"},
                    {"role": "user"},
                    [],
                ),
            )
    if random.random() < 0.2:
        yield "tools", _few(random, _tool, 2)
    if random.random() < 0.1:
        yield "chat_history", _few(random, _turn, 2)
    if random.random() < 0.05:
        yield "images", ["iVBORw0KGgo"]


MESSAGES = {"responses": "input", "gemini": "contents"}


def _body(random: _Few, path: str) -> dict[str, Any]:
    name = MESSAGES.get(path, "messages")
    said: Any = _few(random, _turn)
    if path == "cohere-v1":
        name, said = "message", random.choice("ab")
    if path == "ollama generate":
        name, said = "prompt", random.choice("ab")
    more = {"anthropic_version": "1"} if path == "bedrock invoke" else {}
    return {name: said, **dict(_params(random)), **more}


def _result(text: str) -> Any:
    return {"type": "tool_result", "tool_use_id": "t", "content": text}


def _user(*blocks: Any) -> Any:
    return {"role": "user", "content": list(blocks)}


USE: Any = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
A, B = ({"type": "text", "text": text} for text in "ab")
CALLED = {"type": "function_call", "call_id": "t", "name": "f", "arguments": "{}"}
SYSTEM_TURN = {"role": "system", "parts": [{"text": "a"}]}
NEAR: dict[str, tuple[str, Any, Any]] = {
    "a text and a list": ("anthropic", [_user(A)], [{"role": "user", "content": "a"}]),
    "one turn and two": ("anthropic", [_user(_result("1"), A)], [_user(_result("1")), _user(A)]),
    "one turn and a text": (
        "anthropic",
        [_user(_result("1"), A)],
        [_user(_result("1")), {"role": "user", "content": "a"}],
    ),
    "results in one turn and in two": (
        "anthropic",
        [_user(_result("1"), _result("2"))],
        [_user(_result("1")), _user(_result("2"))],
    ),
    "text before a result": ("anthropic", [_user(A, _result("1"))], [_user(B, _result("1"))]),
    "a result before and after": (
        "anthropic",
        [_user(A, _result("1"))],
        [_user(_result("1"), A)],
    ),
    "text after a call": (
        "anthropic",
        [{"role": "assistant", "content": [USE, A]}],
        [{"role": "assistant", "content": [USE, B]}],
    ),
    "a call before and after": (
        "anthropic",
        [{"role": "assistant", "content": [USE, A]}],
        [{"role": "assistant", "content": [A, USE]}],
    ),
    "a system prompt and a turn": (
        "gemini",
        {"systemInstruction": {"role": "user", "parts": [{"text": "a"}]}},
        {"systemInstruction": {"role": "user"}, "contents": [SYSTEM_TURN]},
    ),
    "instructions and a message": (
        "responses",
        {"instructions": "a", "input": []},
        {"input": [{"role": "system", "content": "a"}]},
    ),
    "an empty message before a call": (
        "responses",
        [{"role": "assistant", "content": None}, CALLED],
        [CALLED],
    ),
    "an option and a param": (
        "ollama",
        {"messages": [], "options": {"seed": 1}},
        {"messages": [], "seed": 1},
    ),
    "stop sequences and stops": (
        "anthropic",
        {"messages": [], "stop_sequences": ["x"]},
        {"messages": [], "stop": ["x"]},
    ),
}


@pytest.mark.parametrize("case", NEAR)
def test_requests_that_nearly_look_alike_have_views_that_differ(case: str) -> None:
    path, *bodies = NEAR[case]
    name = MESSAGES.get(path, "messages")
    whole = [body if isinstance(body, dict) else {name: body} for body in bodies]
    one, other = (
        canonical_json(*seen(path, body if name in body else {name: [], **body})) for body in whole
    )
    assert one != other


@pytest.mark.parametrize("path", PATHS)
def test_requests_that_differ_have_views_that_differ(path: str) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    source = _Few(seed)
    bodies: dict[str, str] = {}
    written = 0
    for number in range(2_000):
        if number % 50 == 0:
            source.change()
        asked = read(path, _body(source, path))
        whole = canonical_json(asked.messages, asked.params)
        messages, params = view(asked.messages, asked.params)
        assert canonical_json(asked.messages, asked.params) == whole, "it was changed"
        text = canonical_json(messages, params)
        written += text != whole
        assert bodies.setdefault(text, whole) == whole
    assert written > 30 or path == "chat"


def test_every_protocol_is_tried_here() -> None:
    assert {one.name for one in PROTOCOLS} <= {path.partition(" ")[0] for path in PATHS}
