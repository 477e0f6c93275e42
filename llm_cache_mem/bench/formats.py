"""What one line of each trace format means: from a JSON object to calls. A line that does not fit
raises ValueError with the reason."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from llm_cache_mem.bench.trace import Call, Run, identity, runs_of

__all__ = ["HEADER", "RAGPULSE_KEYS", "RagPulse", "mooncake", "own", "sessions"]

MOONCAKE_BLOCK: Final = 512  # tokens
HEADER: Final = "llm-cache-mem trace"
_MOST: Final = 10**9  # no call has more tokens

Record = Mapping[str, Any]
_new = tuple.__new__  # in half the time of the class itself


def mooncake(record: Record) -> Sequence[Call]:
    """Mooncake, FAST'25: ``timestamp`` in milliseconds, lengths in tokens, ``hash_ids`` of
    512-token blocks, the last one cut short."""
    sent, received = _count(record, "input_length"), _count(record, "output_length")
    runs = runs_of(_ids(record["hash_ids"]), MOONCAKE_BLOCK)
    at = _number(record, "timestamp") / 1000
    return (_new(Call, (at, identity(sent, runs), sent, received, runs, "", None, None)),)


class _Sessions:
    """Coding-agent sessions, one a line, whose clocks all begin at 0: they are laid one behind the
    other."""

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
            self._begin = max(self._begin, begin + call.at + call.took())
        return [call._replace(at=begin + call.at) for call in calls]

    def _calls(self, requests: Any, tokens: int, scope: str, offset: float) -> Iterator[Call]:
        for request in _objects(requests, "requests"):
            at = offset + _number(request, "t")
            if "requests" in request:  # a subagent: its times count from its own beginning
                yield from self._calls(request["requests"], tokens, scope, at)
                continue
            sent, received = _count(request, "in"), _count(request, "out")
            runs = _spans(request["hash_ids"], tokens)
            model = request.get("model")
            seconds = _number(request, "api_time") if request.get("api_time") is not None else None
            yield Call(
                at,
                identity(scope, model, sent, request["hash_ids"]),
                sent,
                received,
                runs,
                scope,
                model,
                seconds,
            )


def sessions() -> _Sessions:
    """Claude Code sessions (kv-cache-tester), ``hash_ids`` run-length coded as [first, last] or
    plain."""
    return _Sessions()


RAGPULSE_KEYS: Final = {
    "whole": ("sys_prompt", "passages_ids", "history", "web_search", "user_input"),
    "no-system": ("passages_ids", "history", "web_search", "user_input"),
    "question": ("history", "user_input"),
}
"""What of a RAGPulse request is its key: all of it, without the system prompt, or the conversation
alone."""


class RagPulse:
    """RAGPulse: ``timestamp`` in seconds, the parts of the prompt as lists of ids; *lengths* gives
    the tokens of each id."""

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
            raise ValueError(f"no file says how long block {exc.args[0]} is") from None
        key = identity(sent if self._whole else None, [parts[name] for name in self._key])
        return (Call(float(record["timestamp"]), key, sent, received, runs),)


def own(record: Record) -> Sequence[Call]:
    """This library's own: what TraceRecorder writes."""
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


def _number(record: Record, name: str) -> float:
    value = record[name]
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is not a number from 0")
    return float(value)


def _count(record: Record, name: str) -> int:
    value = record[name]
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError(f"{name} is not a whole number from 0 to {_MOST:,}")
    return value


def _text(record: Record, name: str) -> str:
    value = record[name]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is not a text")
    return value


def _ids(value: Any) -> list[int]:
    if type(value) is not list or [*map(type, value)].count(int) != len(value):
        raise ValueError("block ids are not a list of whole numbers")
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
