"""The trace formats: parse one line, a JSON object, into calls. ValueError says why a line is
invalid."""

import math
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from llm_cache_mem.bench.trace import Call, Run, digest_of, runs_of

__all__ = [
    "HEADER",
    "RAGPULSE_KEYS",
    "RagPulse",
    "mooncake",
    "own",
    "own_record",
    "prompt_blocks",
    "sessions",
]

MOONCAKE_BLOCK: Final = 512  # tokens
HEADER: Final = "llm-cache-mem trace"
_BLOCK_BYTES: Final = 1024  # of a prompt, in this library's own format
_BLOCK_BITS: Final = (1 << 53) - 1  # of a block's digest: an integer that every JSON reader keeps
_MAX_TOKENS: Final = 10**9  # of one call

Record = Mapping[str, Any]
_new = tuple.__new__  # takes half the time of calling the class


def mooncake(record: Record) -> Sequence[Call]:
    """Parse Mooncake (FAST'25): ``timestamp`` in milliseconds, lengths in tokens, ``hash_ids`` of
    512-token blocks, of which the last may be partial."""
    sent, received = _count(record, "input_length"), _count(record, "output_length")
    runs = runs_of(_ids(record["hash_ids"]), MOONCAKE_BLOCK)
    at = _number(record, "timestamp") / 1000
    return (_new(Call, (at, digest_of(sent, runs), sent, received, runs, "", None, None)),)


class _Sessions:
    """Parses coding-agent sessions, one per line. Each session's clock starts at 0, so sessions are
    placed one after the other."""

    def __init__(self) -> None:
        self._begin = 0.0

    def __call__(self, record: Record) -> Sequence[Call]:
        tokens = _count(record, "block_size")
        scope = "" if record.get("hash_id_scope") == "global" else _text(record, "id")
        calls = sorted(
            self._calls(record["requests"], tokens, scope, 0.0), key=lambda call: call.at
        )
        begin = self._begin
        for call in calls:
            self._begin = max(self._begin, begin + call.at + call.duration())
        return [call._replace(at=begin + call.at) for call in calls]

    def _calls(self, requests: Any, tokens: int, scope: str, offset: float) -> Iterator[Call]:
        for request in _objects(requests, "requests"):
            at = offset + _number(request, "t")
            if "requests" in request:  # a subagent: its times are relative to its start
                yield from self._calls(request["requests"], tokens, scope, at)
                continue
            sent, received = _count(request, "in"), _count(request, "out")
            runs = _spans(request["hash_ids"], tokens)
            model = request.get("model")
            seconds = _number(request, "api_time") if request.get("api_time") is not None else None
            yield Call(
                at,
                digest_of(scope, model, sent, request["hash_ids"]),
                sent,
                received,
                runs,
                scope,
                model,
                seconds,
            )


def sessions() -> _Sessions:
    """Return a parser of Claude Code sessions (kv-cache-tester), with ``hash_ids`` as ids or as
    [first, last] spans."""
    return _Sessions()


RAGPULSE_KEYS: Final = {
    "whole": ("sys_prompt", "passages_ids", "history", "web_search", "user_input"),
    "no-system": ("passages_ids", "history", "web_search", "user_input"),
    "question": ("history", "user_input"),
}
"""The parts of a RAGPulse request that form its key: all, all but the system prompt, or only the
conversation."""


class RagPulse:
    """Parses RAGPulse: ``timestamp`` in seconds, the parts of a prompt as lists of ids; *lengths*
    maps an id to its tokens."""

    def __init__(self, lengths: Mapping[int, int], key: str) -> None:
        self._lengths = lengths
        self._key = RAGPULSE_KEYS[key]
        self._whole = key == "whole"

    def __call__(self, record: Record) -> Sequence[Call]:
        sent, received = _count(record, "input_length"), _count(record, "output_length")
        parts = {name: _ids(record["hash_ids"][name]) for name in RAGPULSE_KEYS["whole"]}
        try:
            runs = tuple(
                (block, 1, self._lengths[block]) for ids in parts.values() for block in ids
            )
        except KeyError as exc:
            raise ValueError(f"no file gives the length of block {exc.args[0]}") from None
        key = digest_of(sent if self._whole else None, [parts[name] for name in self._key])
        return (Call(float(record["timestamp"]), key, sent, received, runs),)


def own(record: Record) -> Sequence[Call]:
    """Parse this library's own format, which TraceRecorder writes."""
    sent, received = _count(record, "in"), _count(record, "out")
    blocks = _ids(record.get("blocks") or [])
    length = _count(record, "block_tokens") if blocks else 0
    model = record.get("model")
    seconds = None if record.get("seconds") is None else _number(record, "seconds")
    runs = tuple([(block, 1, length) for block in blocks])
    return (
        Call(
            _number(record, "at"),
            _text(record, "key"),
            sent,
            received,
            runs,
            str(record.get("scope") or ""),
            model,
            seconds,
        ),
    )


def own_record(call: Call, blocks: Sequence[int], block_tokens: int) -> dict[str, Any]:
    """Return the line of *call* in this library's own format, with the *blocks* of its prompt."""
    line: dict[str, Any] = {
        "at": round(call.at, 6),
        "key": call.key,
        "in": call.input_tokens,
        "out": call.output_tokens,
    }
    if call.model is not None:
        line["model"] = call.model
    if call.seconds is not None:
        line["seconds"] = round(call.seconds, 6)
    if blocks:
        line |= {"blocks": blocks, "block_tokens": block_tokens}
    return line


def prompt_blocks(prompt: bytes, input_tokens: int, *, salt: bytes) -> tuple[list[int], int]:
    """Return a number for each whole block of *prompt*, which identifies it and all before it, and
    about how many of its *input_tokens* a block has."""
    found, before = [], b""
    for begin in range(0, len(prompt) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
        block = prompt[begin : begin + _BLOCK_BYTES]
        before = blake2b(before + block, key=salt, digest_size=8).digest()
        found.append(int.from_bytes(before, "big") & _BLOCK_BITS)
    return found, max(1, input_tokens * _BLOCK_BYTES // len(prompt)) if found else 0


def _number(record: Record, name: str) -> float:
    value = record[name]
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is not a non-negative number")
    return float(value)


def _count(record: Record, name: str) -> int:
    value = record[name]
    if type(value) is not int or not 0 <= value <= _MAX_TOKENS:
        raise ValueError(f"{name} is not an integer from 0 to {_MAX_TOKENS:,}")
    return value


def _text(record: Record, name: str) -> str:
    value = record[name]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is not a non-empty string")
    return value


def _ids(value: Any) -> list[int]:
    if type(value) is not list or [*map(type, value)].count(int) != len(value):
        raise ValueError("block ids are not a list of integers")
    return value


def _spans(value: Any, tokens: int) -> tuple[Run, ...]:
    if type(value) is list and all(type(span) is list for span in value):
        for span in value:
            if len(span) != 2 or not _INT.issuperset(map(type, span)) or span[0] > span[1]:
                raise ValueError("a span of block ids is not [first, last]")
        return tuple((first, last - first + 1, tokens) for first, last in value)
    return runs_of(_ids(value), tokens)


def _objects(value: Any, name: str) -> list[Record]:
    if type(value) is not list or not all(type(item) is dict for item in value):
        raise ValueError(f"{name} is not a list of objects")
    return value


_INT = frozenset({int})
