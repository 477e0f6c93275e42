"""A trace is calls in the order of their arrival, each with what tells it apart and how long it is;
never a word of a prompt."""

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
    "Census",
    "Facts",
    "Run",
    "TraceError",
    "identity",
    "in_order",
    "runs_of",
    "sorted_by_arrival",
]

_CHUNK = 50_000  # calls that are sorted in memory


class TraceError(LLMCacheError, ValueError):
    """A trace that cannot be read: the text says which file and line, and why."""


Run: TypeAlias = tuple[int, int, int]
"""Blocks of a prompt with consecutive ids: the first, how many there are, and how many tokens each
has. (There are millions of these.)"""


class Call(NamedTuple):
    """One request to a model. *at* is seconds from any origin; *seconds* what the answer took, None
    if nobody recorded it.

    *key* is the identity of the whole request. *runs* are the blocks of its prompt, in order; equal
      ids in one *scope* are equal blocks.
    """

    at: float
    key: str
    input_tokens: int
    output_tokens: int
    runs: tuple[Run, ...] = ()
    scope: str = ""
    model: str | None = None
    seconds: float | None = None

    def took(self) -> float:
        """Seconds until the answer is there: as recorded, or half a second and fifty tokens a
        second."""
        return 0.5 + self.output_tokens / 50 if self.seconds is None else self.seconds


def identity(*parts: Any) -> str:
    """A digest of *parts*, which are numbers, strings, None and lists and tuples of these; equal
    for equal parts."""
    return blake2b(dumps(parts, 2), digest_size=16).hexdigest()


def runs_of(ids: Sequence[int], tokens: int) -> tuple[Run, ...]:
    """*ids* of blocks of *tokens* each, as runs."""
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
    """*calls* by arrival, where none is more than *window* places late; TraceError for one that is.
    Logs are written as calls end."""
    waiting: list[tuple[float, int, Call]] = []
    last = float("-inf")
    for number, call in enumerate(calls):
        if call.at < last:
            raise TraceError(
                f"call {number + 1} arrived {last - call.at:.3f} s before one that stands far above"
                " it: --sort puts them in order"
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
    """*calls* by arrival, however they come; what does not fit into *chunk* waits in files that
    this user alone can read."""
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


class Facts(NamedTuple):
    """Seconds, tokens, and calls. *repeats* are calls whose key came before; *same_length*: those
    with as long an answer as one of them."""

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
    """Between a repeat and the call before it: the tenth, the middle and the ninetieth of a
    hundred."""


_Group: TypeAlias = tuple[int, float, int | set[int]]
"""How many calls a key had, when the last one came, and how long their answers are."""


class Census:
    """Counts calls, which come in order. *keys*: if they are to be kept, a number for the key of
    each call."""

    def __init__(self, *, keep_keys: bool = False) -> None:
        self.keys = array("l") if keep_keys else None
        self._numbers: dict[str, int] = {}
        self._groups: dict[str, _Group] = {}
        self._gaps = array("d")
        self._scopes: set[str] = set()
        self._same_length = self.calls = self.input_tokens = self.output_tokens = 0
        self._first: float | None = None
        self._last = 0.0

    def add(self, some: Iterable[Call]) -> None:
        groups, keys, numbers, scopes = self._groups, self.keys, self._numbers, self._scopes
        for at, key, sent, received, _, scope, _, _ in some:
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
        """*group* with one more call."""
        calls, last, lengths = group
        if isinstance(lengths, int):
            lengths = {lengths}
        self._gaps.append(at - last)
        self._same_length += received in lengths
        lengths.add(received)
        return calls + 1, at, lengths

    def facts(self) -> Facts:
        gaps = sorted(self._gaps)
        return Facts(
            calls=self.calls,
            span_seconds=self._last - (self._first or 0.0),
            scopes=len(self._scopes),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            unique=len(self._groups),
            repeats=self.calls - len(self._groups),
            repeats_of_same_length=self._same_length,
            largest_groups=tuple(nlargest(5, (calls for calls, _, _ in self._groups.values()))),
            gap_seconds=(_at(gaps, 0.1), _at(gaps, 0.5), _at(gaps, 0.9)) if gaps else None,
        )


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
