"""Whether a stream is whole, at every byte where a real one can be cut, and however its bytes
arrive."""

import gzip
import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from http_server import Reply, Row, reply_of, rows

from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.http.answer import Recording, decode
from llm_cache_mem.http.framing import (
    DONE,
    EventStream,
    Lines,
    Malformed,
    ServerSentEvents,
    framing_for,
)
from llm_cache_mem.responses import admission

STREAMS = (
    "text/event-stream",
    "application/x-ndjson",
    "application/stream+json",
    "application/vnd.amazon.eventstream",
)


@pytest.fixture(scope="module")
def streams(shared_data: Path) -> list[tuple[Row, Reply]]:
    found = [(row, reply_of(row)) for row in rows(shared_data) if row["response"]["status"] == 200]
    return [(row, reply) for row, reply in found if (reply.kind or "").startswith(STREAMS)]


def record(
    reply: Reply, body: bytes | None = None, *, pieces: int | None = None, at_end: bool = True
) -> tuple[Recording, bool]:
    body = reply.body if body is None else body
    recording = Recording(200, [("Content-Type", reply.kind or "")], lambda data: data)
    step = pieces or max(1, len(body))
    for start in range(0, len(body), step):
        recording.add(body[start : start + step])
    return recording, recording.finish(at_end=at_end)


def protocol(row: Row) -> str:
    return (
        "openai-like chat"
        if row["endpoint"] in ("chat.completions", "completions")
        else f"{row['provider']} {row['endpoint']}"
    )


def test_recorded_streams_replay_byte_for_byte(
    streams: list[tuple[Row, Reply]],
) -> None:
    whole = 0
    for row, reply in streams:
        recording, complete = record(reply, pieces=97)
        broken = admission.refusal_reason(recording.response()) in ("error", "incomplete")
        assert complete != broken, row["id"]
        if complete:
            stored = decode(
                json.loads(json.dumps(recording.encode()))
                if "data" not in recording.encode()
                else recording.encode()
            )
            assert b"".join(stored.chunks) == reply.body
            assert {len(chunk) for chunk in stored.chunks[:-1]} <= {97}
            whole += 1
    assert whole >= 130, whole


def test_a_stream_cut_at_any_byte_is_not_whole(streams: list[tuple[Row, Reply]]) -> None:
    """Of each protocol the shortest streams, at every byte; what is cut may only be white space and
    what comes after the end."""
    shortest: dict[str, list[tuple[Row, Reply]]] = {}
    for row, reply in sorted(streams, key=lambda pair: len(pair[1].body)):
        chosen = shortest.setdefault(protocol(row), [])
        if len(chosen) < 2 and record(reply)[1]:
            chosen.append((row, reply))
    cuts = 0
    for name, chosen in shortest.items():
        for row, reply in chosen:
            body = reply.body[:20_000] if len(reply.body) > 20_000 else reply.body
            recording, at = (
                Recording(200, [("Content-Type", reply.kind or "")], lambda data: data),
                0,
            )
            least = len(body.rstrip())
            while at < len(
                body
            ):  # one recording, asked at each byte: what was said before must not matter
                recording.add(body[at : at + 1])
                at += 1
                for at_end in (True, False):
                    assert not recording.finish(at_end=at_end) or at >= least, (
                        name,
                        row["id"],
                        at,
                        len(body),
                    )
                cuts += 1
    print(f"{cuts} cuts in {len(shortest)} protocols")
    assert len(shortest) >= 8
    assert cuts >= 24_000


def test_an_abandoned_stream_counts_only_if_it_was_whole(
    streams: list[tuple[Row, Reply]],
) -> None:
    definite = set()
    for row, reply in streams:
        if record(reply)[1] and record(reply, at_end=False)[1]:
            definite.add(protocol(row))
        if row["endpoint"] == "streamGenerateContent":
            assert not record(reply, at_end=False)[1]  # its end is the end of the bytes
    assert {
        "openai-like chat",
        "anthropic messages",
        "openai responses",
        "cohere chat",
        "ollama chat",
    } <= definite


def chunk(text: str, why: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": why}
    return (
        b"data: "
        + json.dumps(
            {"object": "chat.completion.chunk", "model": "m", "choices": [choice]}
        ).encode()
        + b"\n\n"
    )


@pytest.mark.parametrize(
    "body",
    [
        chunk("hi") + b"data: [DONE]\n\n",
        chunk("hi", "stop"),
        chunk("a", "stop") + chunk("b", index=1) + b"data: [DONE]\n\n",
        (
            b"event: message_start\ndata:"
            b' {"type":"message_start","message":{"role":"assistant","content":[]}}\n\nevent:'
            b' error\ndata: overloaded\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
        ),
        chunk("a", "stop") + b'data: {"error":{"message":"x"}}\n\ndata: [DONE]\n\n',
        b"data: [DONE]\n\n",
        b"data: {not json}\n\ndata: [DONE]\n\n",
        b": only a comment\n\n",
    ],
    ids=[
        "no reason to stop",
        "no [DONE]",
        "second choice open",
        "error event",
        "error in data",
        "only [DONE]",
        "malformed",
        "comments",
    ],
)
def test_a_stream_without_its_protocols_end_is_not_whole(body: bytes) -> None:
    assert not record(Reply(body, "text/event-stream"))[1]


# -- Framings


def test_the_pieces_do_not_depend_on_how_the_bytes_were_cut(
    streams: list[tuple[Row, Reply]],
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    for _, reply in chance.sample(streams, 40):
        whole = framing_for(reply.kind or "")
        cut = framing_for(reply.kind or "")
        assert whole is not None
        assert cut is not None
        expected, found, at = whole.feed(reply.body), [], 0
        while at < len(reply.body):
            step = chance.choice((1, 2, 3, 7, 50, 1000))
            found += cut.feed(reply.body[at : at + step])
            at += step
        assert found == expected
        assert whole.between
        assert cut.between


def test_any_line_ending_ends_a_line() -> None:
    for end in ("\n", "\r\n", "\r"):
        text = (
            f"event: x{end}data: {{}}{end}data:{end}{end}: ping{end}data: [DONE]{end}{end}".encode()
        )
        framing, pieces = ServerSentEvents(), []
        for byte in text:
            pieces += framing.feed(bytes([byte]))
        pieces += framing.feed(b"")
        assert pieces in ([{}, DONE], [{}]), end  # a last CR may be half of a CR LF


def test_a_trickling_message_is_assembled_once() -> None:
    """Joined anew for each of a million bytes, this would take minutes."""
    text = json.dumps({"b64": "x" * 500_000}).encode()
    for framing, data in (
        (ServerSentEvents(), b"data: " + text + b"\n\n"),
        (Lines(), text + b"\n"),
        (EventStream(), message(text)),
    ):
        pieces = [piece for byte in data for piece in framing.feed(bytes((byte,)))]
        assert len(pieces) == 1
        assert framing.between


def test_a_last_line_that_is_not_ended_is_no_piece() -> None:
    framing = Lines()
    assert framing.feed(b'{"a":1}\n{"b":2}') == [{"a": 1}]
    assert not framing.between


def message(payload: bytes, headers: bytes = b"") -> bytes:
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    head = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return head + struct.pack(">I", zlib.crc32(head))


def test_every_changed_bit_of_an_event_stream_is_found() -> None:
    data = message(b'{"x": 1}', b"\x0b:event-type\x07\x00\x04text") + message(b"{}")
    assert EventStream().feed(data) == [{"text": {"x": 1}}, {"": {}}]
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        framing = EventStream()
        try:
            framing.feed(bytes(damaged))
            assert not framing.between, bit
        except Malformed:
            pass


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 64,
        b"\xff" * 64,
        message(b"", b"\x09abc"),
        message(b"", b"\x01a\x7f"),
        message(b"\xff", b""),
    ],
)
def test_hostile_event_streams_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        EventStream().feed(data)


# -- Encodings and bounds


def test_a_compressed_stream_is_stored_event_by_event(
    streams: list[tuple[Row, Reply]],
) -> None:
    done = 0
    for _, reply in streams:
        if reply.kind is None or not reply.kind.startswith(STREAMS[:2]) or not record(reply)[1]:
            continue
        recording = Recording(
            200, [("content-type", reply.kind), ("content-encoding", "gzip")], gzip.decompress
        )
        recording.add(gzip.compress(reply.body))
        assert recording.finish(at_end=True)
        chunks = decode(recording.encode()).chunks
        assert b"".join(chunks) == reply.body
        assert all(chunk.endswith((b"\n\n", b"\r\n\r\n", b"}\n")) for chunk in chunks)
        done += len(chunks) > 1
    assert done > 90


def test_damaged_encoding_is_not_stored() -> None:
    recording = Recording(
        200, [("content-type", "application/json"), ("content-encoding", "gzip")], gzip.decompress
    )
    recording.add(gzip.compress(b'{"a": 1}')[:-3])
    assert not recording.finish(at_end=True)


def test_an_answer_over_the_bound_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_cache_mem.http.answer.MAX_ANSWER_BYTES", 100)
    recording = Recording(200, [("content-type", "application/json")], lambda data: data)
    recording.add(b'{"a": "')
    recording.add(b"x" * 100)
    recording.add(b'"}')
    assert not recording.finish(at_end=True)
    assert recording.fault == "too large"


def test_a_body_shorter_than_promised_is_not_whole() -> None:
    recording = Recording(
        200, [("content-type", "application/json"), ("content-length", "9")], lambda data: data
    )
    recording.add(b'{"a": 1}')
    assert not recording.finish(at_end=True)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"status": 200},
        {"status": 200, "headers": [], "text": "a", "cuts": [5]},
        {"status": "x"},
    ],
)
def test_a_foreign_value_is_unreadable(value: Any) -> None:
    with pytest.raises(EntryUnreadable):
        decode(value)
