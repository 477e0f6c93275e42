"""The Chat Completions form of calls, tools and media; what has no such form stays as it is."""

from typing import Any

import pytest

from llm_cache_mem.keys.chat_form import (
    arguments_text,
    function_tool,
    media,
    of_anthropic,
    overlaid,
    same_calls,
    text_alone,
    tool_call,
    without_known_names,
)

PNG = {"type": "base64", "media_type": "image/png", "data": "QQ=="}
PDF = {**PNG, "media_type": "application/pdf"}
URL = {"type": "url", "url": "https://x/a.png"}


def call(call_id: Any = "a", name: Any = "f", arguments: Any = "{}", **more: Any) -> dict[str, Any]:
    return {
        **more,
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def test_arguments_are_the_text_that_is_sent() -> None:
    no_json = object()
    assert tool_call("a", "f", {"x": "é"}) == call(arguments='{"x": "é"}')
    assert tool_call(None, "f", "{ }", {"index": 0, "type": "x"}) == {
        "index": 0,
        "type": "function",
        "function": {"name": "f", "arguments": "{ }"},
    }
    assert arguments_text(no_json) is no_json


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([call(arguments='{"x":1}')], [call(arguments='{"x": 1}')], True),
        ([call(arguments="")], [call(arguments="{}")], True),
        ([call(arguments="{")], [call(arguments="{")], True),
        ([call(arguments="{")], [call(arguments="{ ")], False),
        ([call()], [call("b")], False),
        ([call()], [call(name="g")], False),
        ([call(arguments='{"x":1}')], [call(arguments='{"x":2}')], False),
        ([1, {"function": None}], [1, {"function": None}], True),
        ([{"function": None}], [{"function": 1}], False),
    ],
)
def test_calls_are_compared_by_their_arguments(one: Any, other: Any, same: bool) -> None:
    assert same_calls(one, other) is same


RESULT = {"role": "tool", "tool_call_id": "a", "name": "f", "content": "12"}


@pytest.mark.parametrize(
    ("result", "known"),
    [
        (RESULT, True),
        ({**RESULT, "tool_call_id": 7}, True),
        ({**RESULT, "tool_call_id": "b"}, False),
        ({**RESULT, "tool_call_id": None}, False),
        ({**RESULT, "name": "g"}, False),
        ({**RESULT, "role": "user"}, False),
    ],
)
def test_only_a_name_that_its_call_says_is_left_out(result: Any, known: bool) -> None:
    odd = ["x", {"id": "c"}, {"id": "c", "function": "f"}]
    asked = {"role": "assistant", "tool_calls": [*odd, call(), call(7)]}
    before = ["hi", {"role": "user", "tool_calls": "none"}, asked]
    without = {name: value for name, value in result.items() if name != "name"}
    found = without_known_names([*before, result])
    assert found == [*before, without if known else result]


@pytest.mark.parametrize(
    ("tool", "parameters", "made"),
    [
        (
            {"type": "function", "name": "f", "input_schema": {}, "strict": True},
            "input_schema",
            {"name": "f", "parameters": {}, "strict": True},
        ),
        ({"name": "f", "parameters": {}}, "parameters", {"name": "f", "parameters": {}}),
        ({"name": "f", "input_schema": {}, "parameters": {}}, "input_schema", None),
        ({"name": "f", "function": {}}, "parameters", None),
        ({"type": "web_search"}, "parameters", None),
        ("f", "parameters", None),
    ],
)
def test_a_tool_is_a_function_if_nothing_is_lost(tool: Any, parameters: str, made: Any) -> None:
    expected = None if made is None else {"type": "function", "function": made}
    assert function_tool(tool, parameters) == expected


@pytest.mark.parametrize(
    ("kind", "more", "made"),
    [
        (
            "image/png",
            {},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}},
        ),
        (
            "audio/wav",
            {},
            {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}},
        ),
        (
            "image/png",
            {"filename": "a"},
            {"type": "file", "file": {"file_data": "data:image/png;base64,QQ==", "filename": "a"}},
        ),
        (
            "audio/wav",
            {"filename": "a"},
            {"type": "file", "file": {"file_data": "data:audio/wav;base64,QQ==", "filename": "a"}},
        ),
        ("text/plain", {}, {"type": "file", "file": {"file_data": "data:text/plain;base64,QQ=="}}),
        ("png", {}, None),
        (None, {}, None),
    ],
)
def test_media_are_told_by_their_type(kind: Any, more: dict[str, str], made: Any) -> None:
    assert media(kind, "QQ==", **more) == made
    assert media(kind, b"QQ==", **more) is None


@pytest.mark.parametrize(
    ("block", "made"),
    [
        ({"type": "image", "source": PNG}, media("image/png", "QQ==")),
        (
            {"type": "image", "source": PNG, "cache_control": {}},
            {**(media("image/png", "QQ==") or {}), "cache_control": {}},
        ),
        ({"type": "document", "source": PDF}, media("application/pdf", "QQ==")),
        (
            {"type": "document", "source": PDF, "title": "a"},
            media("application/pdf", "QQ==", filename="a"),
        ),
        (
            {"type": "image", "source": URL},
            {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
        ),
        ({"type": "image", "source": PDF}, None),
        ({"type": "document", "source": PNG}, None),
        ({"type": "document", "source": URL}, None),
        ({"type": "image", "source": {**PNG, "more": 1}}, None),
        ({"type": "image", "source": {**URL, "more": 1}}, None),
        ({"type": "image", "source": {**URL, "url": 1}}, None),
        ({"type": "image", "source": {**URL, "url": "data:image/png;base64,QQ=="}}, None),
        ({"type": "image", "source": URL, "image_url": 1}, None),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, None),
        ({"type": "image", "source": "x"}, None),
        ({"type": "video", "source": PNG}, None),
    ],
)
def test_blocks_of_anthropic_are_media_if_nothing_is_lost(block: Any, made: Any) -> None:
    assert of_anthropic(block) == made


@pytest.mark.parametrize(
    ("content", "alone"),
    [
        ([{"type": "text", "text": "hi"}], "hi"),
        ([{"type": "text", "text": ""}], None),
        ([{"type": "text", "text": 1}], None),
        ([{"type": "input_text", "text": "hi"}], None),
        ([{"type": "text", "text": "hi", "cache_control": {}}], None),
        ([{"type": "text", "text": "hi"}] * 2, None),
        (["hi"], None),
        ([], None),
    ],
)
def test_text_is_a_string_only_where_it_is_alone(content: list[Any], alone: Any) -> None:
    assert text_alone(content) == (content if alone is None else alone)


def test_params_that_are_overlaid_stay_as_defaults() -> None:
    assert overlaid({"a": 1}, {"b": 2}) == {"a": 1, "b": 2}
    assert overlaid({"a": 1, "c": 3}, {"a": 2}) == {"a": 2, "c": 3, "llm_defaults": {"a": 1}}
    twice = overlaid({"a": 2, "llm_defaults": {"a": 1}}, {"a": 3})
    assert twice == {"a": 3, "llm_defaults": {"llm_defaults": {"a": 1}, "a": 2}}
    beside = overlaid({"b": 2, "llm_defaults": {"a": 1}}, {"b": 3})
    assert beside == {"b": 3, "llm_defaults": {"a": 1, "b": 2}}
