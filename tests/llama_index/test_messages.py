"""Messages as role/content dicts, and requests that share a key or do not."""

import io

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
from llama_index.core.tools import FunctionTool
from llama_index_llm_cache_mem import CachedLLM, message_to_dict

from llm_cache_mem import LLMCache, RequestNotCacheable, last_turn

PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")

BLOCKS = {
    "text": TextBlock(text="hello"),
    "image": ImageBlock(image=PNG, detail="low"),
    "image url": ImageBlock(url="https://example.com/a.png"),
    "audio": AudioBlock(audio=b"RIFFxxxxWAVE", format="wav"),
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
    assert message_to_dict(extra) == {
        "role": "user",
        "content": "3",
        "tool_call_id": "c1",
        "additional_kwargs": {"refusal": None},
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


def test_what_cannot_be_read_twice_has_no_key(tmp_path):
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


def test_key_functions_see_what_core_users_pass(parrot):
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
