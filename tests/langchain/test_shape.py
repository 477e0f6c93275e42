"""What key functions see of LangChain's messages and settings: the form of the Chat Completions
API."""

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.content import create_file_block, create_image_block
from langchain_llm_cache_mem.shape import as_params, messages_as_dicts, sent

PNG = "iVBORw0KGgo="
URL = f"data:image/png;base64,{PNG}"
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
PDF = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "f"}}


def seen(*messages: BaseMessage, **params: Any) -> list[dict[str, Any]]:
    return messages_as_dicts([sent(message.__dict__) for message in messages], params)


def blocks(*content: Any) -> Any:
    return seen(HumanMessage(list(content)))[0]["content"]


@pytest.mark.parametrize(
    "block",
    [
        IMAGE,
        {"type": "image_url", "image_url": URL},
        {"type": "image", "source_type": "base64", "mime_type": "image/png", "data": PNG},
        create_image_block(base64=PNG, mime_type="image/png"),
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {"type": "media", "mime_type": "image/png", "data": PNG},
    ],
)
def test_an_image_has_one_form(block: Any) -> None:
    assert blocks(block) == [IMAGE]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source_type": "url", "url": "http://a/b"},
        create_image_block(url="http://a/b"),
        {"type": "image", "source": {"type": "url", "url": "http://a/b"}},
    ],
)
def test_an_image_at_a_url_has_one_form(block: Any) -> None:
    assert blocks(block) == [{"type": "image_url", "image_url": {"url": "http://a/b"}}]


@pytest.mark.parametrize(
    "block",
    [
        PDF,
        {
            "type": "file",
            "source_type": "base64",
            "mime_type": "application/pdf",
            "data": "AA==",
            "filename": "f",
        },
        create_file_block(base64="AA==", mime_type="application/pdf", filename="f"),
        {
            "type": "file",
            "base64": "AA==",
            "mime_type": "application/pdf",
            "extras": {"filename": "f"},
        },
        {
            "type": "document",
            "title": "f",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="},
        },
    ],
)
def test_a_file_has_one_form(block: Any) -> None:
    assert blocks(block) == [PDF]


def test_a_sound_and_a_stored_file_have_the_forms_of_the_api() -> None:
    assert blocks({"type": "audio", "base64": "AA==", "mime_type": "audio/wav"}) == [
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    ]
    assert blocks({"type": "file", "file_id": "file-1"}) == [
        {"type": "file", "file": {"file_id": "file-1"}}
    ]


def test_extra_block_fields_stay() -> None:
    cached = {**create_image_block(url="http://a"), "cache_control": {"type": "ephemeral"}}
    assert blocks(cached)[0]["cache_control"] == {"type": "ephemeral"}
    other = {
        "type": "document",
        "source": {"type": "text", "data": "x", "media_type": "text/plain"},
    }
    assert blocks(other) == [other]


def test_text_stays_a_text_and_a_list_a_list() -> None:
    assert seen(HumanMessage("hi"))[0]["content"] == "hi"
    assert blocks({"type": "text", "text": "hi"}) == [{"type": "text", "text": "hi"}]
    assert blocks("hi", IMAGE)[0] == {"type": "text", "text": "hi"}


CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Zürich"}'},
}
ASKED: Any = {"name": "weather", "args": {"city": "Zürich"}, "id": "call_1"}
ASSISTANT = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RAW = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Z\\u00fcrich"}'},
}


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("", tool_calls=[ASKED]),
        AIMessage([], tool_calls=[ASKED]),
        AIMessage("", tool_calls=[ASKED], additional_kwargs={"tool_calls": [RAW], "refusal": None}),
        AIMessage("", additional_kwargs={"tool_calls": [{**CALL, "index": 0}]}),
        AIMessage(
            [{"type": "tool_use", "id": "call_1", "name": "weather", "input": {}, "index": 1}],
            tool_calls=[ASKED],
        ),
    ],
)
def test_a_tool_call_has_the_form_of_the_api(message: AIMessage) -> None:
    assert seen(message) == [ASSISTANT]


def test_text_beside_a_call_is_text() -> None:
    use = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}}
    said = AIMessage([{"type": "text", "text": "Look", "index": 0}, use], tool_calls=[ASKED])
    assert seen(said) == [{**ASSISTANT, "content": "Look"}]
    turned = AIMessage([use, {"type": "text", "text": "Look"}], tool_calls=[ASKED])
    assert seen(turned)[0]["content"] == turned.content  # the order is part of the request


def test_an_unreadable_call_is_sent_unchanged() -> None:
    broken: Any = {"name": "weather", "args": "{", "id": "call_1", "error": "not JSON"}
    assert seen(AIMessage("", invalid_tool_calls=[broken]))[0]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{"}}
    ]


def test_a_result_need_not_name_the_tool_that_its_call_names() -> None:
    call = AIMessage("", tool_calls=[ASKED])
    result = ToolMessage("12", tool_call_id="call_1")
    assert seen(call, result) == seen(call, result.model_copy(update={"name": "weather"}))
    assert seen(call, result) != seen(call, result.model_copy(update={"name": "other"}))
    assert seen(result) == [{"role": "tool", "tool_call_id": "call_1", "content": "12"}]


def test_an_error_of_a_tool_is_marked() -> None:
    failed = ToolMessage("no", tool_call_id="1", status="error")
    assert seen(failed)[0]["is_error"] is True


def test_provider_metadata_of_answers_is_left_out() -> None:
    told = {"model_provider": "openai", "finish_reason": "stop", "id": "chatcmpl-1"}
    assert seen(AIMessage("x", response_metadata=told)) == [{"role": "assistant", "content": "x"}]
    listed = [{"type": "text", "text": "x"}]
    assert seen(AIMessage(listed, response_metadata=told))[0]["response_metadata"] == {
        "model_provider": "openai"  # which decides how its blocks are read
    }


def test_reasoning_is_placed_as_in_the_api() -> None:
    said = AIMessage("x", additional_kwargs={"reasoning_content": "r"})
    assert seen(said) == [{"role": "assistant", "content": "x", "reasoning_content": "r"}]


def test_a_system_prompt_is_a_message_with_the_role_that_is_sent() -> None:
    assert seen(SystemMessage("s"))[0] == {"role": "system", "content": "s"}
    developer = SystemMessage("s", additional_kwargs={"__openai_role__": "developer"})
    assert seen(developer) == [{"role": "developer", "content": "s"}]


def test_params_stand_where_the_sdk_puts_them() -> None:
    settings = {
        "model_name": "m",
        "temperature": 0.0,
        "model_kwargs": {"metadata": {"a": 1}},
        "extra_body": {"top_k": 3},
    }
    assert as_params(settings, {"user": "u", "extra_body": {"top_k": 4}}) == {
        "model": "m",
        "temperature": 0.0,
        "metadata": {"a": 1},
        "user": "u",
        "top_k": 4,
    }
    assert type(as_params(settings, {})["temperature"]) is float


def test_masking_one_field_leaves_the_others() -> None:
    hidden = as_params({"top_p": 0.5, "extra_body": {"top_p": 0.7}}, {})
    assert hidden == {"top_p": 0.7, "llm_defaults": {"top_p": 0.5}}


def test_headers_of_one_call_count_without_credentials() -> None:
    def made(**headers: str) -> Any:
        return as_params({}, {"extra_headers": headers}).get("extra_headers")

    assert made(Authorization="Bearer x") is None
    assert "secret" not in str(made(**{"X-Route": "secret"}))
    assert made(**{"X-Route": "a"}) != made(**{"X-Route": "b"})


def test_tools_and_stops_have_the_names_of_the_api() -> None:
    tool = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
    assert as_params({"stop_sequences": ["x"]}, {"tools": [tool]}) == {
        "stop": ["x"],
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
            }
        ],
    }


def test_hints_that_only_route_a_request_are_left_out() -> None:
    assert as_params({"model_kwargs": {"prompt_cache_key": "a"}}, {"safety_identifier": "b"}) == {}


def test_a_streamed_answer_of_anthropic_is_the_answer() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    text, use = (
        {"type": "text", "text": "x"},
        {"type": "tool_use", "id": "call_1", "name": "weather"},
    )
    whole = AIMessage(
        [thought, text, {**use, "input": ASKED["args"]}],
        tool_calls=[ASKED],
        response_metadata={"model_provider": "anthropic", "stop_reason": "tool_use", "id": "msg_1"},
    )
    pieces = [
        AIMessageChunk([{**thought, "index": 0}]),
        AIMessageChunk([{**text, "index": 1}], response_metadata={"model_provider": "anthropic"}),
        AIMessageChunk(
            [{**use, "input": {}, "partial_json": '{"city":"Zürich"}', "index": 2}],
            tool_call_chunks=[
                {"name": "weather", "args": '{"city":"Zürich"}', "id": "call_1", "index": 2}
            ],
        ),
        AIMessageChunk([], response_metadata={"stop_reason": "tool_use"}, chunk_position="last"),
    ]
    streamed = pieces[0] + pieces[1] + pieces[2] + pieces[3]
    assert seen(streamed) == seen(whole)
    assert seen(whole)[0]["content"] == [thought, text]
    assert seen(whole)[0]["tool_calls"] == [CALL]
