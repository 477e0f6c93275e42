"""Where two JSON trees differ: paths like ``messages[3].content``, with both sides."""

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from llm_cache_mem._util.terminal import visible
from llm_cache_mem.diagnostics.redaction import REDACTED
from llm_cache_mem.keys import digest

__all__ = ["ABSENT", "Difference", "differences", "in_common", "with_named_query"]

_SHOWN_CHARACTERS = 100
_CONTEXT = 24  # characters shown on each side of the part in which two texts differ


def with_named_query(request: Any) -> Any:
    """*request* with the query fields of its URL by name, so that a path to one names it."""
    pairs = request.get("http.query") if isinstance(request, dict) else None
    if not isinstance(pairs, list):
        return request
    named: dict[str, list[Any]] = {}
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            return request
        named.setdefault(pair[0], []).append(pair[1])
    query = {name: found[0] if len(found) == 1 else found for name, found in named.items()}
    return {**request, "http.query": query}


class _Absent:
    """The type of ABSENT: there is no such field, which is not the same as null."""

    def __repr__(self) -> str:
        return "absent"

    def __reduce__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


class Difference(NamedTuple):
    """A field that differs: *path* is like ``messages[3].content``; ABSENT stands for a field that
    is not there."""

    path: str
    stored: Any
    asked: Any

    def sides(self) -> tuple[str, str]:
        """Both as JSON on one line, shortened to where they differ."""
        stored, asked = self.stored, self.asked
        if type(stored) is not str or type(asked) is not str:
            return _cut(_json(stored)), _cut(_json(asked))
        before, after = in_common(stored, asked), 0
        if before < min(len(stored), len(asked)):
            after = in_common(stored[before:][::-1], asked[before:][::-1])
        start = max(0, before - _CONTEXT)
        texts = []
        for text in (stored, asked):
            stop = min(len(text), len(text) - after + _CONTEXT)
            shown = _cut(text[start:stop])
            texts.append(_json(f"{'…' if start else ''}{shown}{'…' if stop < len(text) else ''}"))
        return texts[0], texts[1]

    def __str__(self) -> str:
        return f"{visible(self.path)}: {' → '.join(self.sides())}"

    def __repr__(self) -> str:
        return str(self)


def differences(
    stored: Any, asked: Any, path: str = "", depth: int = digest.MAX_DEPTH
) -> Iterator[Difference]:
    """Where two trees of JSON differ, as JSON: 1, 1.0 and true are different."""
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
    """Compare two lists, in which an item that was inserted or left out does not make those after
    it differ."""
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


# -- How the sides are shown


def in_common(one: str, other: str) -> int:
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
    return visible(json.dumps(value, ensure_ascii=False))
