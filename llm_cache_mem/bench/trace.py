"""A trace is calls in the order of their arrival, each with what tells it apart and how long it is;
never a word of a prompt."""

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from marshal import dumps
from typing import Any, NamedTuple, TextIO, TypeAlias

from llm_cache_mem.errors import LLMCacheError

__all__ = ["Call", "Run", "TraceError", "identity", "in_order", "runs_of", "sorted_by_arrival"]

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
