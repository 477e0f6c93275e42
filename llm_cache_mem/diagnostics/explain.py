"""Why a request missed: the nearest one that is stored, and each field in which the two differ."""

import json
from collections.abc import Callable, Iterable, Iterator
from heapq import nlargest
from typing import Any, Final, NamedTuple

from llm_cache_mem.diagnostics.redaction import REDACTED
from llm_cache_mem.keys import digest

__all__ = ["ABSENT", "SHOWN", "Difference", "Explanation", "Kept", "differences", "explain"]

_LOOKED_INTO = 40  # of the stored requests that share most words: those that are taken apart
_COMPARED_BYTES = 16_384  # of each end of a request, in search of those
SHOWN = 12
_SHOWN_CHARACTERS = 100
_CONTEXT = 24
_KIND, _SAMPLE = "kind of entry", "sample"


class _Absent:
    """The type of ABSENT: there is no such field, which is not the same as null."""

    def __repr__(self) -> str:
        return "absent"

    def __reduce__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


class Kept(NamedTuple):
    """A stored request: its key, what kind of entry and which sample that is, and its canonical
    JSON; None where none is kept.

    Of one that is looked for, *kind* may be empty: any.
    """

    key: str
    kind: str
    sample: int
    request: bytes | None

    @classmethod
    def under(cls, key: str, request: bytes | None) -> "Kept":
        """What is kept under *key*, which says the rest."""
        try:
            parts = digest.parse(key)
        except ValueError:  # made by hand
            return cls(key, "value", 0, request)
        return cls(key, parts.kind, parts.sample or 0, request)


class Difference(NamedTuple):
    """A field that differs: *path* is like ``messages[3].content``; ABSENT stands for a field that
    is not there."""

    path: str
    stored: Any
    asked: Any

    def sides(self) -> tuple[str, str]:
        """Both as JSON on one line, shortened to where they differ."""
        return _shortened(self.stored, self.asked)

    def __str__(self) -> str:
        return f"{self.path}: {' → '.join(self.sides())}"

    def __repr__(self) -> str:
        return str(self)


class Explanation(NamedTuple):
    """What stands between a request and a stored answer. ``str()`` is for people, the fields are
    for programs.

    It quotes from both requests, shortened and without secrets. *key*: what was looked for.
    *nearest*: the key of the stored request that is most like it, None if there is none to compare
    with, and *differences* what is not the same in it. *stored*: entries there were, *compared*:
    those of them that keep their request. *state*: ``absent``, or of an entry under this very key:
    ``fresh``, ``expired`` or ``unreadable``; of a miss in the past also ``gone`` (it was stored
    before), ``refreshed`` (the mode was refresh) or ``unkept``: its answers are not stored, for
    *reason*.
    """

    key: str
    nearest: str | None
    differences: tuple[Difference, ...]
    stored: int
    compared: int
    state: str = "absent"
    reason: str = ""

    def __str__(self) -> str:
        if self.state != "absent":
            return f"{_STATES[self.state].format(self.reason)}: {self.key}"
        if not self.stored:
            return "nothing is stored in this namespace yet"
        if self.nearest is None:
            return (
                f"none of the {self.stored:,} stored entries keeps its request:"
                " LLMCache(keep_requests=True) has them kept"
            )
        head = (
            f"nearest of {self.compared:,} stored"
            f" {'request' if self.compared == 1 else 'requests'}: {self.nearest}"
        )
        if not self.differences:
            return (
                f"{head}\n  It says the same. What differs was redacted, or its key was made with"
                " another key_fn or ignore, or somebody has edited it by hand."
            )
        lines = [f"  {difference}" for difference in self.differences[:SHOWN]]
        more = len(self.differences) - SHOWN
        return "\n".join(
            [f"{head} (stored → asked)", *lines, *([f"  and {more:,} more"] if more > 0 else [])]
        )

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from llm_cache_mem.diagnostics.render import as_html  # only notebooks need it

        return as_html(self)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON; a side of a difference that is not there has no field."""
        listed = [
            {
                "path": path,
                **{
                    name: side
                    for name, side in (("stored", stored), ("asked", asked))
                    if side is not ABSENT
                },
            }
            for path, stored, asked in self.differences
        ]
        return self._asdict() | {"differences": listed}


_STATES = {
    "stored": "it is stored",
    "fresh": "it is stored, and would be answered",
    "expired": "it is stored, but too old for this cache",
    "unreadable": "it is stored, but cannot be read here",
    "gone": "it was stored before, and is there no longer (expired, evicted or deleted)",
    "refreshed": "the model was to be asked again (mode refresh)",
    "unkept": "the answer to it is not kept ({})",
}


def explain(
    asked: Kept, stored: Iterable[Kept], hashed: Callable[[Any], Any] | None = None
) -> Explanation:
    """Compare *asked*, whose request must be there, with what is *stored*.

    *hashed* makes of a request, as a tree of JSON, what its key is made from; without it that is
      the whole request.
    """
    total = compared = 0

    def readable() -> Iterator[tuple[float, int, Kept]]:
        nonlocal total, compared
        wanted = _words(asked.request or b"")
        for kept in stored:
            total += 1
            if kept.request is not None:
                compared += 1
                yield (
                    _likeness(wanted, _words(kept.request))
                    - 0.05 * (kept.kind != (asked.kind or kept.kind)),
                    -total,
                    kept,
                )

    candidates = [kept for _, _, kept in nlargest(_LOOKED_INTO, readable())]
    target = _tree(asked.request, hashed)
    best: tuple[float, Kept, list[Difference]] | None = None
    for kept in candidates:
        found = _beside(kept, asked) + list(differences(_tree(kept.request, hashed), target))
        distance = sum(map(_weight, found))
        if best is None or distance < best[0]:
            best = distance, kept, found
    if best is None:
        return Explanation(asked.key, None, (), total, 0)
    return Explanation(asked.key, best[1].key, tuple(best[2]), total, compared)


def differences(
    stored: Any, asked: Any, path: str = "", depth: int = digest.MAX_DEPTH
) -> Iterator[Difference]:
    """Where two trees of JSON differ, as JSON: 1, 1.0 and true are three things."""
    if type(stored) is str and stored == REDACTED:
        return
    if type(stored) is not type(asked):
        yield Difference(path or "request", stored, asked)
    elif type(stored) is dict and depth:
        for name in (*stored, *(name for name in asked if name not in stored)):
            yield from differences(
                stored.get(name, ABSENT),
                asked.get(name, ABSENT),
                f"{path}.{name}" if path else name,
                depth - 1,
            )
    elif type(stored) is list and depth:
        yield from _in_lists(stored, asked, path, depth - 1)
    elif stored != asked:
        yield Difference(path or "request", stored, asked)


def _in_lists(stored: list[Any], asked: list[Any], path: str, depth: int) -> Iterator[Difference]:
    """A message that was put in or left out moves those behind it, and makes them no others."""
    shorter = min(len(stored), len(asked))
    start = next((i for i in range(shorter) if not _equal(stored[i], asked[i])), shorter)
    end = next(
        (i for i in range(shorter - start) if not _equal(stored[-1 - i], asked[-1 - i])),
        shorter - start,
    )
    old, new = stored[start : len(stored) - end], asked[start : len(asked) - end]
    for i in range(max(len(old), len(new))):
        sides = (old[i] if i < len(old) else ABSENT, new[i] if i < len(new) else ABSENT)
        yield from differences(*sides, f"{path}[{start + i}]", depth)


def _equal(one: Any, other: Any) -> bool:
    return next(differences(one, other), None) is None


# -- Which is nearest


def _words(text: bytes) -> frozenset[bytes]:
    if len(text) > 2 * _COMPARED_BYTES:
        text = text[:_COMPARED_BYTES] + text[-_COMPARED_BYTES:]
    return frozenset(text.split())


def _likeness(one: frozenset[Any], other: frozenset[Any]) -> float:
    """From 0 to 1: the share of what two sets have in common."""
    return 2 * len(one & other) / (len(one) + len(other) or 1)


def _weight(difference: Difference) -> float:
    """What a difference tells against a request: another text more than another setting, a changed
    text by how much of it changed."""
    _, stored, asked = difference
    if difference.path == _KIND:
        return 1.5
    if type(stored) is str and type(asked) is str and max(len(stored), len(asked)) > _CONTEXT:
        return 0.2 + 4 * (1 - _likeness(frozenset(stored.split()), frozenset(asked.split())))
    if type(stored) is str and type(asked) is str:
        return 1.0 - 0.1 * _in_common(stored, asked) / max(
            len(stored), len(asked)
        )  # between two that differ as much
    return 2.0 if isinstance(stored, (dict, list)) or isinstance(asked, (dict, list)) else 1.0


def _beside(kept: Kept, asked: Kept) -> list[Difference]:
    """In what else than the request two keys differ."""
    pairs = ((_KIND, kept.kind, asked.kind or kept.kind), (_SAMPLE, kept.sample, asked.sample))
    return [Difference(name, one, other) for name, one, other in pairs if one != other]


def _tree(request: bytes | None, hashed: Callable[[Any], Any] | None) -> Any:
    try:
        tree = json.loads(request or b"{}")
    except (ValueError, RecursionError):  # kept by hand, or by another program
        return None
    try:
        return tree if hashed is None else hashed(tree)
    except Exception:  # noqa: BLE001  # a key function that does not take it
        return tree


# -- What is shown


def _shortened(stored: Any, asked: Any) -> tuple[str, str]:
    """Both sides on one line, the part in which two texts differ in sight."""
    if type(stored) is not str or type(asked) is not str:
        return _cut(_json(stored)), _cut(_json(asked))
    before, after = _in_common(stored, asked), 0
    if before < min(len(stored), len(asked)):
        after = _in_common(stored[before:][::-1], asked[before:][::-1])
    start = max(0, before - _CONTEXT)
    texts = []
    for text in (stored, asked):
        stop = min(len(text), len(text) - after + _CONTEXT)
        shown = _cut(text[start:stop])
        texts.append(_json(f"{'…' if start else ''}{shown}{'…' if stop < len(text) else ''}"))
    return texts[0], texts[1]


def _in_common(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # comparing slices is quicker by far than comparing characters
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _cut(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[: _SHOWN_CHARACTERS * 2 // 3]} … {text[-_SHOWN_CHARACTERS // 3 :]}"


def _json(value: Any) -> str:
    if value is ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    return (
        text
        if text.isprintable()
        else "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
    )
