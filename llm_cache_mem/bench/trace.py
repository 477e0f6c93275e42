"""Calls of a trace in order of arrival, and their statistics: keys, lengths and times, never the
text of a prompt."""

import heapq
import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from heapq import nlargest
from itertools import islice
from marshal import dumps
from typing import Any, NamedTuple, TextIO, TypeAlias

from llm_cache_mem.errors import LLMCacheError

__all__ = [
    "Call",
    "Run",
    "TraceError",
    "TraceStatistics",
    "TraceSummary",
    "digest_of",
    "in_order",
    "runs_of",
    "sorted_by_arrival",
]

_CHUNK = 50_000  # calls to sort in memory


class TraceError(LLMCacheError, ValueError):
    """A trace that cannot be read; the message names the file, the line and the reason."""


Run: TypeAlias = tuple[int, int, int]
"""Blocks of a prompt with consecutive ids: the first id, the number of blocks, and the tokens in
each. A plain tuple, because a trace has millions of them."""


class Call(NamedTuple):
    """One request to a model.

    *at* is its arrival, in seconds from any origin; *key* identifies the whole request. *runs* are
    the blocks of its prompt, in order: equal ids within one *scope* are equal blocks. *seconds* is
    how long the answer took, None if that was not recorded.
    """

    at: float
    key: str
    input_tokens: int
    output_tokens: int
    runs: tuple[Run, ...] = ()
    scope: str = ""
    model: str | None = None
    seconds: float | None = None

    def duration(self) -> float:
        """Return the recorded seconds until the answer, or an estimate: half a second, and one
        second per fifty tokens."""
        return 0.5 + self.output_tokens / 50 if self.seconds is None else self.seconds


def digest_of(*parts: Any) -> str:
    """Return a digest of *parts*: numbers, strings, None, and lists and tuples of these."""
    return blake2b(dumps(parts, 2), digest_size=16).hexdigest()


def runs_of(ids: Sequence[int], tokens: int) -> tuple[Run, ...]:
    """Return block *ids* as runs, with *tokens* in each block."""
    if not ids:
        return ()
    runs: list[Run] = []
    first = expected = ids[0]
    for block in ids:
        if block != expected:
            runs.append((first, expected - first, tokens))
            first = expected = block
        expected += 1
    runs.append((first, expected - first, tokens))
    return tuple(runs)


def in_order(calls: Iterable[Call], *, window: int) -> Iterator[Call]:
    """Yield *calls* by arrival, as logs are written when calls end. TraceError for a call more than
    *window* places late."""
    waiting: list[tuple[float, int, Call]] = []
    last = float("-inf")
    for number, call in enumerate(calls):
        if call.at < last:
            raise TraceError(
                f"call {number + 1} arrived {last - call.at:.3f} s before one that is far above it"
                " in the file: use --sort"
            )
        if not window:
            last = call.at
            yield call
            continue
        heapq.heappush(waiting, (call.at, number, call))
        if len(waiting) > window:
            last, _, first = heapq.heappop(waiting)
            yield first
    while waiting:
        yield heapq.heappop(waiting)[2]


def sorted_by_arrival(calls: Iterable[Call], *, chunk: int = _CHUNK) -> Iterator[Call]:
    """Yield *calls* by arrival, whatever their order. Beyond *chunk* calls, sorted chunks wait in
    temporary files that only this user can read."""
    calls = iter(calls)
    files: list[TextIO] = []
    try:
        while True:
            some = sorted(islice(calls, chunk), key=_arrival)
            if len(some) < chunk and not files:
                yield from some
                return
            if not some:
                break
            # closed below
            file: Any = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
            files.append(file)
            file.writelines(json.dumps(call) + "\n" for call in some)
            file.seek(0)
        yield from heapq.merge(*map(_read_back, files), key=_arrival)
    finally:
        for file in files:
            file.close()


def _arrival(call: Call) -> float:
    return call.at


def _read_back(file: TextIO) -> Iterator[Call]:
    for line in file:
        call = Call(*json.loads(line))
        yield call._replace(
            runs=tuple([(first, blocks, tokens) for first, blocks, tokens in call.runs])
        )


class TraceSummary(NamedTuple):
    """What a trace contains. *repeats* are calls whose key occurred before;
    *repeats_of_same_length* are those with an answer as long as an earlier one."""

    calls: int
    span_seconds: float
    scopes: int
    input_tokens: int
    output_tokens: int
    unique: int
    repeats: int
    repeats_of_same_length: int
    largest_groups: tuple[int, ...]
    gap_seconds: tuple[float, float, float] | None
    """Between a repeat and the previous call for its key: 10th, 50th and 90th percentile."""


_Group: TypeAlias = tuple[int, float, int | set[int]]
"""The calls for one key: how many, the arrival of the last, and the lengths of the answers."""


class TraceStatistics:
    """Counts the calls of a trace, which are added by arrival. With *keep_keys*, *keys* has a
    number for the key of each call."""

    def __init__(self, *, keep_keys: bool = False) -> None:
        self.keys = array("l") if keep_keys else None
        self._numbers: dict[str, int] = {}
        self._groups: dict[str, _Group] = {}
        self._gaps = array("d")
        self._scopes: set[str] = set()
        self._same_length = self.calls = self.input_tokens = self.output_tokens = 0
        self._first: float | None = None
        self._last = 0.0

    def add(self, calls: Iterable[Call]) -> None:
        """Count *calls*."""
        groups, keys, numbers, scopes = self._groups, self.keys, self._numbers, self._scopes
        for at, key, sent, received, _, scope, _, _ in calls:
            if keys is not None:
                keys.append(numbers.setdefault(key, len(numbers)))
            self.calls += 1
            self.input_tokens += sent
            self.output_tokens += received
            if self._first is None:
                self._first = at
            self._last = at
            scopes.add(scope)
            group = groups.get(key)
            groups[key] = (
                (1, at, received) if group is None else self._repeated(group, at, received)
            )

    def _repeated(self, group: _Group, at: float, received: int) -> _Group:
        """Return *group* with one more call."""
        calls, last, lengths = group
        if isinstance(lengths, int):
            lengths = {lengths}
        self._gaps.append(at - last)
        self._same_length += received in lengths
        lengths.add(received)
        return calls + 1, at, lengths

    def summary(self) -> TraceSummary:
        """Return the statistics of the calls added so far."""
        gaps = sorted(self._gaps)
        return TraceSummary(
            calls=self.calls,
            span_seconds=self._last - (self._first or 0.0),
            scopes=len(self._scopes),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            unique=len(self._groups),
            repeats=self.calls - len(self._groups),
            repeats_of_same_length=self._same_length,
            largest_groups=tuple(nlargest(5, (calls for calls, _, _ in self._groups.values()))),
            gap_seconds=_percentiles(gaps) if gaps else None,
        )


def _percentiles(ordered: Sequence[float]) -> tuple[float, float, float]:
    return ordered[len(ordered) // 10], ordered[len(ordered) // 2], ordered[len(ordered) * 9 // 10]
