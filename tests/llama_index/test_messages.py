"""Messages as role/content dicts, and requests that share a key or do not."""

import io
from base64 import b64encode
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.tools import FunctionTool
from llama_index_llm_cache_mem import CachedLLM, message_to_dict

from llm_cache_mem import LLMCache, RequestNotCacheable, ignoring, last_turn, masking

PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")

BLOCKS = {
    "text": TextBlock(text="hello"),
    "image": ImageBlock(image=PNG, detail="low"),
    "image url": ImageBlock(url="https://example.com/a.png"),
    "audio": AudioBlock(audio=b"RIFF....WAVE", format="wav"),
    "video": VideoBlock(video=b"....ftypmp42", fps=2),
    "document": DocumentBlock(data=b"%PDF-1.4 text", title="report"),
    "cache point": CachePoint(cache_control=CacheControl(type="ephemeral")),
    "citable": CitableBlock(
        title="t", source="s", content=[TextBlock(text="quoted"), ImageBlock(image=PNG)]
    ),
    "citation": CitationBlock(
        cited_content=TextBlock(text="quoted"),
        source="s",
        title="t",
        additional_location_info={"page": 3},
    ),
    "thinking": ThinkingBlock(
        content="hm", num_tokens=3, additional_information={"signature": "abc"}
    ),
    "tool call": ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs={"a": 1}),
}


def test_a_plain_message_is_role_and_content():
    assert message_to_dict(ChatMessage(role="user", content="hi")) == {
        "role": "user",
        "content": "hi",
    }
    assert message_to_dict(ChatMessage(role="assistant", blocks=[])) == {
        "role": "assistant",
        "content": None,
    }


def test_tools_are_written_as_chat_apis_write_them():
    call = ChatMessage(
        role="assistant",
        blocks=[
            TextBlock(text="so"),
            ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs={"a": 1}),
        ],
    )
    assert message_to_dict(call) == {
        "role": "assistant",
        "content": "so",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
        ],
    }
    result = ChatMessage(
        role="tool", content="3", additional_kwargs={"tool_call_id": "c1", "name": "add"}
    )
    assert message_to_dict(result) == {
        "role": "tool",
        "content": "3",
        "tool_call_id": "c1",
        "name": "add",
    }
    extra = ChatMessage(
        role="user", content="3", additional_kwargs={"refusal": None, "tool_call_id": "c1"}
    )
    assert message_to_dict(extra) == {"role": "user", "content": "3", "tool_call_id": "c1"}
    hidden = ChatMessage(role="user", content="3", additional_kwargs={"content": "4"})
    assert message_to_dict(hidden) == {
        "role": "user",
        "content": "3",
        "additional_kwargs": {"content": "4"},
    }


def test_text_after_a_tool_call_keeps_its_place():
    call, text = ToolCallBlock(tool_call_id="c1", tool_name="add"), TextBlock(text="so")
    one = message_to_dict(ChatMessage(role="assistant", blocks=[call, text]))
    other = message_to_dict(ChatMessage(role="assistant", blocks=[text, call]))
    assert one != other
    assert [part["type"] for part in one["content"]] == ["tool_call", "text"]


def test_every_kind_of_block_has_a_key_of_its_own():
    cache = LLMCache()
    keys = {
        name: cache.key([message_to_dict(ChatMessage(role="user", blocks=[block]))])
        for name, block in BLOCKS.items()
    }
    assert len(set(keys.values())) == len(BLOCKS)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_changed_field_is_another_request(name):
    cache = LLMCache()
    block = BLOCKS[name]
    before = cache.key([message_to_dict(ChatMessage(blocks=[block]))])
    for field, value in block.__dict__.items():
        if isinstance(value, (str, bytes, int)) and field not in ("block_type",):
            changed = block.model_copy(
                update={field: value + 1 if isinstance(value, int) else value + value}
            )
            assert (
                cache.key(
                    [
                        message_to_dict(
                            ChatMessage(blocks=[]).model_copy(update={"blocks": [changed]})
                        )
                    ]
                )
                != before
            ), field


def test_media_count_by_their_bytes_however_they_are_given(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    file = io.BytesIO(PNG)
    file.seek(5)
    ways = [
        ImageBlock(image=PNG),
        ImageBlock(path=path),
        ImageBlock(image=file, image_mimetype="image/png"),
    ]
    written = [
        message_to_dict(ChatMessage(blocks=[block, TextBlock(text="?")]))["content"][0]
        for block in ways
    ]
    assert written[0] == written[1] == written[2]
    assert file.tell() == 5
    path.write_bytes(PNG + b"more")
    assert (
        message_to_dict(ChatMessage(blocks=[ways[1], TextBlock(text="?")]))["content"][0]
        != written[1]
    )


def test_one_shot_arguments_have_no_key(tmp_path):
    class Pipe(io.RawIOBase):
        def readable(self) -> bool:
            return True

    with pytest.raises(RequestNotCacheable):
        message_to_dict(ChatMessage(blocks=[ImageBlock(image=Pipe())]))
    path = tmp_path / "gone.png"
    path.write_bytes(PNG)
    block = ImageBlock(path=path)
    path.unlink()
    with pytest.raises(RequestNotCacheable):
        message_to_dict(ChatMessage(blocks=[block]))


def test_an_input_without_a_key_is_called_uncached_and_counted(parrot, cache):
    llm = CachedLLM(parrot, cache)
    for _ in range(2):
        llm.chat([ChatMessage(content="x")], stop=object())
        llm.complete("x", logits_processor=lambda x: x)
        llm.chat(message for message in [ChatMessage(content="x")])
    assert len(parrot.calls) == 6
    assert dict(cache.stats().skipped) == {"request": 6}


def test_an_iterator_of_messages_reaches_the_model_unread(parrot, cache):
    answers = [
        llm.chat(message for message in [ChatMessage(content="x")])
        for llm in (parrot, CachedLLM(parrot, cache))
    ]
    assert answers[0] == answers[1]


def test_key_functions_see_the_core_request(parrot):
    seen = []

    def key_fn(messages, **params):
        seen.append((messages, params))
        return {"messages": messages, **params}

    llm = CachedLLM(parrot, LLMCache(key_fn=key_fn))

    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    tool = FunctionTool.from_defaults(add)
    llm.chat(
        [ChatMessage(role="system", content="s"), ChatMessage(content="x")],
        tools=[tool],
        temperature=0.9,
    )
    messages, params = seen[0]
    assert messages == [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]
    assert (params["model"], params["temperature"]) == ("parrot-1", 0.9)
    assert params["tools"][0]["type"] == "function"
    assert params["tools"][0]["function"]["name"] == "add"
    assert set(params["tools"][0]["function"]["parameters"]["properties"]) == {"a", "b"}
    assert params["llm_defaults"] == {"temperature": 0.5}
    llm.complete("y")
    assert seen[1][0] == [{"role": "user", "content": "y"}]


def test_last_turn_works_here_too(parrot):
    llm = CachedLLM(parrot, LLMCache(key_fn=last_turn))
    llm.chat(
        [
            ChatMessage(content="a"),
            ChatMessage(role="assistant", content="b"),
            ChatMessage(content="x"),
        ]
    )
    llm.chat([ChatMessage(content="x")])
    assert len(parrot.calls) == 1


def test_arguments_of_the_call_are_part_of_the_request(parrot, cache):
    llm = CachedLLM(parrot, cache)
    for kwargs in (
        {},
        {"temperature": 0.5},
        {"temperature": 0.6},
        {"stop": ["x"]},
        {"formatted": True},
    ):
        llm.complete("x", **kwargs)
    assert len(parrot.calls) == 5
    llm.complete("x", formatted=False)
    llm.complete("x", True)
    llm.complete(prompt="x")
    llm.complete("x", timeout=3)
    assert len(parrot.calls) == 5


CALLS = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]


def test_tool_calls_have_one_form():
    block = ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs='{"a": 1}')
    from_stream = [{**CALLS[0], "index": 0}]
    ways = [
        ChatMessage(role="assistant", blocks=[block]),
        ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": from_stream}),
        ChatMessage(role="assistant", blocks=[block], additional_kwargs={"tool_calls": CALLS}),
        ChatMessage(
            role="assistant",
            blocks=[block],
            additional_kwargs={"tool_calls": from_stream, "refusal": None},
        ),
    ]
    for message in ways:
        assert message_to_dict(message) == {
            "role": "assistant",
            "content": None,
            "tool_calls": CALLS,
        }
    other = [{**CALLS[0], "id": "c2"}]
    both = ChatMessage(role="assistant", blocks=[block], additional_kwargs={"tool_calls": other})
    assert message_to_dict(both)["additional_kwargs"] == {"tool_calls": other}


def test_answer_metadata_is_not_in_the_next_request():
    reported = {
        "usage": {"output_tokens": 3},
        "stop_reason": "end_turn",
        "thinking_delta": "hm",
        "prompt_tokens": 3,
    }
    plain = message_to_dict(ChatMessage(role="assistant", content="x"))
    message = ChatMessage(role="assistant", content="x", additional_kwargs=reported)
    assert message_to_dict(message) == plain


def test_media_are_content_parts_of_the_api(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    url = "data:image/png;base64," + b64encode(PNG).decode()
    parts = message_to_dict(
        ChatMessage(
            blocks=[
                TextBlock(text="?"),
                ImageBlock(path=path, detail="low"),
                ImageBlock(url="https://example.com/a.png"),
                AudioBlock(audio=b"RIFF....WAVE", format="wav"),
                DocumentBlock(
                    data=b"%PDF-1.4 text", title="report", document_mimetype="application/pdf"
                ),
            ]
        )
    )["content"]
    assert parts == [
        {"type": "text", "text": "?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {
            "type": "input_audio",
            "input_audio": {"format": "wav", "data": b64encode(b"RIFF....WAVE").decode()},
        },
        {
            "type": "file",
            "file": {
                "filename": "report",
                "file_data": "data:application/pdf;base64," + b64encode(b"%PDF-1.4 text").decode(),
            },
        },
    ]


@pytest.fixture
def compatible(make_parrot):
    class Compatible(make_parrot):
        additional_kwargs: dict[str, Any] = Field(default_factory=dict)

    return Compatible


@pytest.mark.parametrize(
    "settings",
    [
        {"ignore": {"user", "metadata"}},
        {"key_fn": ignoring("user", "metadata")},
        {"key_fn": ignoring("user", then=ignoring("metadata", "top_k"))},
    ],
)
def test_names_reach_additional_kwargs(compatible, settings):
    cache = LLMCache(**settings)
    for user in ("a", "b"):
        kwargs = {"user": user, "extra_body": {"metadata": {"by": user}}}
        CachedLLM(compatible(additional_kwargs=kwargs), cache).complete("x")
        CachedLLM(compatible(), cache).complete("x", user=user, extra_body={"metadata": user})
    assert (cache.stats().hits, cache.stats().misses) == (3, 1)


def test_arguments_of_both_kinds_stand_where_the_api_has_them(compatible):
    seen = []

    def key_fn(messages, **params):
        seen.append(params)
        return params

    llm = CachedLLM(
        compatible(additional_kwargs={"seed": 1, "temperature": 0.2}), LLMCache(key_fn=key_fn)
    )
    llm.complete("x", seed=2)
    assert (seen[0]["seed"], seen[0]["temperature"]) == (2, 0.2)
    assert seen[0]["llm_defaults"] == {"temperature": 0.5, "seed": 1}
    assert "additional_kwargs" not in seen[0]


def test_masking_reaches_a_system_prompt(make_parrot):
    cache = LLMCache(key_fn=masking(r"\d{4}-\d\d-\d\d"))
    for day in ("2026-01-01", "2026-01-02"):
        llm = CachedLLM(make_parrot(system_prompt=f"Today is {day}."), cache)
        llm.complete("x")
    assert (cache.stats().hits, cache.stats().misses) == (1, 1)


def test_explain_names_the_fields_of_the_api(compatible, tmp_path):
    cache = LLMCache(keep_requests=True)
    for user in ("a", "b"):
        CachedLLM(compatible(additional_kwargs={"user": user}), cache).complete("x")
    assert "user" in str(cache.explain_misses()[0])
