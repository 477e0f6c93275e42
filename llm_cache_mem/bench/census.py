"""What a trace holds, whatever a cache would make of it: how often calls repeat, after how long,
and whether they got the same answer."""

from array import array
from collections.abc import Iterable, Sequence
from heapq import nlargest
from typing import NamedTuple, TypeAlias

from llm_cache_mem.bench.trace import Call

__all__ = ["Census", "Facts"]


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
