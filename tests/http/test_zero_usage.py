"""A stored response reports no usage where it is asked to, and is the same in all else."""

import base64
import json
import zlib
from zlib import crc32

import pytest

from llm_cache_mem.http.answer import StoredResponse
from llm_cache_mem.http.framing import EventStream
from llm_cache_mem.http.zero_live import Zeroing
from llm_cache_mem.http.zero_usage import without_usage
from llm_cache_mem.responses.usage import read_usage

ARGUMENTS = '{"usage": {"input_tokens": 9}, "text": "\\"usage\\": {\\"n\\": 7}"}'
ANSWERS = {
    "openai": {
        "id": "chatcmpl-1",
        "choices": [{"message": {"content": '{"usage": 5}', "tool_calls": [{"a": ARGUMENTS}]}}],
        "logprobs": [-0.25, -1e-07],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": None},
            "total_time": 0.5,
            "cost": 0.0012,
        },
        "created": 1700000000,
    },
    "responses": {"output": [{"usage": {"input_tokens": 3}}], "usage": {"input_tokens": 100}},
    "anthropic": {
        "content": [{"type": "tool_use", "input": {"usage": {"input_tokens": 9}}}],
        "usage": {
            "input_tokens": 10,
            "cache_creation": {"ephemeral_5m_input_tokens": 4},
            "output_tokens": 7,
            "service_tier": "standard",
        },
    },
    "gemini": {
        "candidates": [{"content": {"parts": [{"functionCall": {"args": {"tokens": {"n": 1}}}}]}}],
        "usageMetadata": {
            "promptTokenCount": 8,
            "candidatesTokenCount": 3,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 8}],
        },
    },
    "ollama": {
        "message": {"content": "12"},
        "eval_count": 5,
        "prompt_eval_count": 7,
        "total_duration": 99,
    },
    "cohere": {"meta": {"billed_units": {"input_tokens": 4}, "api_version": {"version": "2"}}},
    "titan": {"inputTextTokenCount": 3, "results": [{"tokenCount": 4, "outputText": "3"}]},
}


def played(chunks: list[bytes], kind: str = "application/json") -> list[bytes]:
    return without_usage(StoredResponse(200, [("content-type", kind)], chunks))


def numbers(value, path=()):
    """Every number of a JSON value by its path."""
    if isinstance(value, dict):
        return {k: v for n, part in value.items() for k, v in numbers(part, (*path, n)).items()}
    if isinstance(value, list):
        return {k: v for n, part in enumerate(value) for k, v in numbers(part, (*path, n)).items()}
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {path: value} if is_number else {path: None}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("indent", [None, 2])
def test_usage_is_zero_and_everything_else_is_the_same(name, indent):
    answer = ANSWERS[name]
    body = json.dumps(answer, indent=indent).encode()
    found = json.loads(b"".join(played([body])))
    assert read_usage(answer) is not None
    assert read_usage(found) is None
    before, after = numbers(answer), numbers(found)
    assert before.keys() == after.keys()
    changed = {path for path in before if before[path] != after[path]}
    kept_in_usage = {"total_time", "total_duration", "created"}
    assert not any(path[-1] in kept_in_usage for path in changed)
    assert not any(path[0] in ("choices", "content", "candidates", "output") for path in changed)


def test_nothing_but_digits_changes():
    body = b'{ "usage" : {"input_tokens":12 , "x":"\xc3\xa9\\ud800"},\r\n "f": 1.50 }'
    assert b"".join(played([body])) == body.replace(b"12", b"0")


def test_a_list_of_token_numbers_stays():
    body = b'{"tokens":[1,2,3],"usage":{"total_tokens":3}}'
    assert played([body]) == [body.replace(b'_tokens":3', b'_tokens":0')]


def test_text_that_looks_like_usage_stays():
    body = json.dumps({"choices": [{"message": {"content": ARGUMENTS}}]}).encode()
    assert played([body]) == [body]


def events(*pieces: object) -> list[bytes]:
    return [f"data: {json.dumps(piece)}\n\n".encode() for piece in pieces]


def test_the_last_chunk_of_a_stream_reports_no_usage():
    chunks = events(
        {"choices": [{"delta": {"content": "usage"}}]},
        {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 50}},
    )
    chunks.append(b"data: [DONE]\n\n")
    found = played(chunks, "text/event-stream")
    assert [found[0], found[2]] == [chunks[0], chunks[2]]
    last = json.loads(found[1].removeprefix(b"data: "))
    assert last["usage"] == {"prompt_tokens": 0, "completion_tokens": 0}


def test_events_that_carry_usage_at_both_ends_are_zeroed():
    chunks = [
        b"event: message_start\n" + events({"message": {"usage": {"input_tokens": 25}}})[0],
        b"event: message_delta\r\n"
        + events({"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}})[0],
        events({"type": "response.completed", "response": {"usage": {"total_tokens": 3}}})[0],
    ]
    found = played(chunks, "text/event-stream")
    assert len(found) == 3
    assert not any(digit in b"".join(found) for digit in (b"25", b"7", b"3"))


@pytest.mark.parametrize("size", range(1, 60))
def test_chunks_may_be_cut_anywhere(size):
    body = b"".join(
        events({"usage": {"input_tokens": 12345, "output_tokens": 678}}, {"delta": {"text": "5"}})
    )
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    found = played(chunks, "text/event-stream")
    assert b"".join(found) == body.replace(b"12345", b"0").replace(b"678", b"0")
    assert len(found) <= len(chunks)
    assert all(found)


def test_lines_of_json_are_zeroed():
    chunks = [b'{"message":{"content":"4"},"done":false}\n', b'{"done":true,"eval_count":42}\n']
    found = played(chunks, "application/x-ndjson")
    assert found == [chunks[0], b'{"done":true,"eval_count":0}\n']


def message(payload: bytes, kind: bytes) -> bytes:
    header = b"\x0b:event-type\x07" + len(kind).to_bytes(2, "big") + kind
    prelude = (16 + len(header) + len(payload)).to_bytes(4, "big") + len(header).to_bytes(4, "big")
    whole = prelude + crc32(prelude).to_bytes(4, "big") + header + payload
    return whole + crc32(whole).to_bytes(4, "big")


def test_amazon_event_streams_stay_valid():
    inner = base64.b64encode(json.dumps({"usage": {"output_tokens": 77}}).encode()).decode()
    chunks = [
        message(b'{"delta":{"text":"77"}}', b"contentBlockDelta"),
        message(json.dumps({"bytes": inner, "p": "abc"}).encode(), b"chunk"),
        message(b'{"usage":{"inputTokens":77},"metrics":{"latencyMs":77}}', b"metadata"),
    ]
    found = played(chunks, "application/vnd.amazon.eventstream")
    assert found[0] == chunks[0]
    assert [len(EventStream().feed(chunk)) for chunk in found] == [1, 1, 1]
    pieces = EventStream().feed(b"".join(found))
    assert pieces[1] == {"usage": {"output_tokens": 0}}
    assert pieces[2]["metadata"] == {"usage": {"inputTokens": 0}, "metrics": {"latencyMs": 77}}


# -- In progress


STREAMS = {
    "text/event-stream": b"".join(
        [*events({"usage": {"input_tokens": 12345}}, {"delta": {"text": "5"}}), b"data: [DONE]"]
    ),
    "application/x-ndjson": b'{"done":false}\n{"done":true,"eval_count":42}\n',
    "application/json": b'{"usage":{"total_tokens":3}, "text":"3"}',
    "application/vnd.amazon.eventstream": message(b'{"delta":{"text":"7"}}', b"contentBlockDelta")
    + message(b'{"usage":{"inputTokens":77}}', b"metadata"),
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("encoding", [None, zlib.decompress])
def test_a_response_in_progress_is_zeroed_as_a_stored_one(kind, size, encoding):
    body, zeroing = STREAMS[kind], Zeroing(kind, encoding)
    sent = body if encoding is None else zlib.compress(body)
    ready = [zeroing.feed(sent[at : at + size]) for at in range(0, len(sent), size)]
    assert b"".join([*ready, zeroing.end()]) == b"".join(played([body], kind))
    assert b"".join(played([body], kind)) != body


def test_whole_events_of_a_stream_are_not_held_back():
    zeroing = Zeroing("text/event-stream", None)
    first, second = events({"delta": {"text": "5"}}, {"usage": {"input_tokens": 5}})
    assert zeroing.feed(first + second[:9]) == first
    assert zeroing.feed(second[9:]) == second.replace(b"5", b"0")


@pytest.mark.parametrize(
    "kind", ["text/event-stream", "application/json", "application/vnd.amazon.eventstream"]
)
def test_what_does_not_end_is_not_held_without_bound(kind: str) -> None:
    zeroing, piece = Zeroing(kind, None), b"\x7f" * (1 << 20)
    passed, most = 0, 0
    for _ in range(40):
        passed += len(zeroing.feed(piece))
        most = max(most, len(zeroing._rest))
    passed += len(zeroing.end())
    assert (passed, most <= 17 << 20) == (40 << 20, True)
