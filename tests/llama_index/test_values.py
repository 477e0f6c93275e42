"""Responses come back equal: all kinds of blocks, raw answers, logprobs; from memory, from SQLite,
in another process."""

import dataclasses
import enum
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    DocumentBlock,
    ImageBlock,
    LogProb,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.bridge.pydantic import BaseModel
from llama_index_llm_cache_mem import CachedLLM
from llama_index_llm_cache_mem.streaming import Recording, as_chunks, read_chunks, read_whole
from llama_index_llm_cache_mem.values import decode, encode

from llm_cache_mem.values.payload import Payload

ROOT = Path(__file__).resolve().parents[2]
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")


class Foreign(BaseModel):
    """An SDK's answer of a class that nobody registered."""

    text: str
    usage: dict[str, int]


def answer(*blocks: Any, **fields: Any) -> ChatResponse:
    return ChatResponse(message=ChatMessage(role="assistant", blocks=list(blocks)), **fields)


RESPONSES = {
    "text": answer(TextBlock(text="hello")),
    "nothing": answer(),
    "two texts": answer(TextBlock(text="a"), TextBlock(text="b")),
    "tool call": answer(
        ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs={"a": [1, {"b": None}]})
    ),
    "partial tool call": answer(ToolCallBlock(tool_name="add", tool_kwargs='{"a": ')),
    "thinking": answer(
        ThinkingBlock(content="hm", num_tokens=3, additional_information={"signature": "abc"}),
        TextBlock(text="so"),
    ),
    "image": answer(ImageBlock(image=PNG, detail="low")),
    "image url": answer(ImageBlock(url="https://example.com/a.png"), TextBlock(text="there")),
    "audio": answer(AudioBlock(audio=b"RIFFxxxxWAVE", format="wav")),
    "audio url": answer(AudioBlock(url="https://example.com/a.wav")),
    "video": answer(VideoBlock(video=b"....ftypmp42")),
    "document": answer(DocumentBlock(data=b"%PDF-1.4", title="report")),
    "citable": answer(
        CitableBlock(
            title="t",
            source="s",
            content=[TextBlock(text="q"), ImageBlock(url="https://example.com/a.png")],
        )
    ),
    "citation": answer(
        CitationBlock(
            cited_content=TextBlock(text="q"),
            source="s",
            title="t",
            additional_location_info={"page": 3},
        )
    ),
    "beside": answer(
        TextBlock(text="x"),
        additional_kwargs={"prompt_tokens": 3, "list": [1.5, (2,), b"\xff"]},
        delta="x",
    ),
    "raw dict": answer(
        TextBlock(text="x"), raw={"id": "1", "n": 1.0, "nested": [{"$x": (1, 2)}], 3: "three"}
    ),
    "raw nan": answer(TextBlock(text="x"), raw={"logprob": float("-inf")}),
    "logprobs": answer(
        TextBlock(text="x"), logprobs=[[LogProb(token="x", logprob=-0.5, bytes=[120])]]
    ),
    "unicode": answer(TextBlock(text="\u2028 é 😀 \x00 \ud800")),
    "completion": CompletionResponse(
        text="x",
        raw={"a": 1},
        logprobs=[[LogProb(token="x")]],
        additional_kwargs={"b": 2},
        delta="x",
    ),
    "message kwargs": ChatResponse(
        message=ChatMessage(
            role="assistant", content="x", additional_kwargs={"refusal": None, "n": 1}
        )
    ),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_comes_back_equal(name):
    response = RESPONSES[name]
    payload = Payload.of(encode(response))
    for again in (payload, Payload.from_json(payload.json())):
        back = decode(again.decode())
        assert back == response
        assert type(back) is type(response)
        assert Payload.of(encode(back)).json() == payload.json()


@pytest.mark.parametrize("name", RESPONSES)
def test_dumping_changes_nothing(name):
    response = RESPONSES[name]
    before = response.model_copy(deep=True)
    encode(response)
    assert response == before


def test_a_path_comes_back_while_the_file_is_there(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    response = answer(ImageBlock(path=path))
    data = Payload.of(encode(response)).json()
    assert decode(Payload.from_json(data).decode()) == response


def test_an_open_file_is_not_stored(make_parrot, cache):
    class Painter(make_parrot):
        def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            return answer(ImageBlock(image=io.BytesIO(PNG)))

    response = CachedLLM(Painter(), cache).chat([ChatMessage(content="x")])
    assert response.message.blocks[0].image.read() == PNG
    assert dict(cache.stats().skipped) == {"value": 1}


def test_raw_of_an_unregistered_class_becomes_data():
    raw = {"answer": Foreign(text="x", usage={"input_tokens": 3}), "client": object(), "plain": 1}
    back = decode(Payload.of(encode(answer(TextBlock(text="x"), raw=raw))).decode())
    assert back.raw == {
        "answer": {"text": "x", "usage": {"input_tokens": 3}},
        "client": None,
        "plain": 1,
    }
    assert decode(Payload.of(encode(answer(raw=object()))).decode()).raw is None


def test_an_object_in_the_message_itself_is_not_stored(make_parrot, cache):
    class Odd(make_parrot):
        def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            return ChatResponse(
                message=ChatMessage(
                    role="assistant", content="x", additional_kwargs={"client": object()}
                )
            )

    llm = CachedLLM(Odd(), cache)
    assert llm.chat([ChatMessage(content="x")]).message.content == "x"
    assert dict(cache.stats().skipped) == {"value": 1}


class Role(enum.StrEnum):
    ASSISTANT = "assistant"


@dataclasses.dataclass
class Part:
    text: str
    role: Role
    client: Any = None


def test_unstorable_parts_of_raw_become_plain_data():
    raw = {"role": Role.ASSISTANT, "parts": [Part("x", Role.ASSISTANT, object())]}
    back = decode(Payload.of(encode(answer(TextBlock(text="x"), raw=raw))).decode()).raw
    assert back == {
        "role": "assistant",
        "parts": [{"text": "x", "role": "assistant", "client": None}],
    }
    assert back["role"] == Role.ASSISTANT


PROGRAM = """
import sys
sys.path[:0] = {path!r}
from conftest import Parrot
from llama_index.core.llms import ChatMessage
from llama_index_llm_cache_mem import CachedLLM
from llm_cache_mem import LLMCache
parrot = Parrot()
llm = CachedLLM(parrot, LLMCache(backend={url!r}), usage="keep")
print([chunk.delta for chunk in llm.stream_chat([ChatMessage(content="a b")])], repr(llm.complete("x")), len(parrot.calls))
"""


def test_another_process_answers_from_sqlite(tmp_path):
    paths = [str(ROOT), str(ROOT / "integrations"), str(ROOT / "tests" / "llama_index")]
    program = PROGRAM.format(path=paths, url=f"sqlite:///{tmp_path}/cache.db")
    first, second = (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    )
    assert first.endswith(" 2\n")
    assert second == first.replace(" 2\n", " 0\n")


def test_garbage_is_a_miss(parrot, cache, monkeypatch):
    llm = CachedLLM(parrot, cache)
    for stored in (
        None,
        3,
        [],
        {},
        {"response": 3},
        {"response": None, "pieces": 3},
        {"response": answer(), "blocks": [[9, {}]]},
    ):
        (key, entry), *_ = [*cache.engine.entries()] or [(None, None)]
        if key is None:
            llm.complete("x")
            (key, entry), *_ = [*cache.engine.entries()]
        entry.payload = Payload.of(stored)
        assert "x" in llm.complete("x").text
        assert "x" in [*llm.stream_complete("x")][-1].text


# -- Streams


def chunks_of(
    *pieces: tuple[str | None, str | None], grows: bool = True, last: ChatResponse | None = None
) -> list[ChatResponse]:
    text = ""
    made = []
    for delta, thoughts in pieces:
        text = text + (delta or "") if grows else delta or ""
        beside = {} if thoughts is None else {"thinking_delta": thoughts}
        made.append(answer(TextBlock(text=text), delta=delta, additional_kwargs=beside))
    return made if last is None else [*made[:-1], last]


def recorded(chunks: list[Any]) -> Any:
    """What is stored of a stream, read back."""
    recording = Recording(lambda tree: tree)
    for chunk in chunks:
        recording.add(chunk)
    return Payload.from_json(Payload.of(recording.entry()[0]).json()).decode()


def test_thoughts_are_replayed_too():
    last = answer(
        ThinkingBlock(content="hm"), TextBlock(text="so"), delta="o", additional_kwargs={}
    )
    chunks = chunks_of(("", "h"), ("", "m"), ("s", None), ("o", None), last=last)
    again = list(read_chunks(recorded(chunks)))
    assert [(c.delta, c.additional_kwargs.get("thinking_delta")) for c in again] == [
        ("", "h"),
        ("", "m"),
        ("s", None),
        ("o", None),
    ]
    assert again == chunks
    plain = read_whole(recorded(chunks))
    assert (plain.message, plain.delta, plain.additional_kwargs) == (last.message, None, {})


def test_newest_pieces_only_add_up():
    response = read_whole(recorded(chunks_of(("a", None), ("b", None), ("c", None), grows=False)))
    assert response.message.content == "abc"


def test_a_plain_answer_is_replayed_as_thoughts_and_text():
    chunks = as_chunks(
        answer(ThinkingBlock(content="hm"), TextBlock(text="so"), ToolCallBlock(tool_name="add"))
    )
    assert chunks is not None
    assert [(c.delta, c.additional_kwargs.get("thinking_delta")) for c in chunks] == [
        ("", "hm"),
        ("so", None),
    ]
    assert [type(block) for block in chunks[-1].message.blocks] == [
        ThinkingBlock,
        TextBlock,
        ToolCallBlock,
    ]


def test_text_beside_tool_calls_is_not_lost():
    last = answer(ToolCallBlock(tool_name="add"), delta="o")
    response = read_whole(recorded(chunks_of(("s", None), ("o", None), last=last)))
    assert response.message.content == "so"
    assert response.message.blocks[-1] == last.message.blocks[0]
