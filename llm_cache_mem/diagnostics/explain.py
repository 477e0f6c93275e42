"""Why a request missed: the nearest one that is stored, and each field in which the two differ."""

from collections.abc import Callable, Iterable, Iterator
from heapq import nlargest
from html import escape
from typing import Any, NamedTuple

from llm_cache_mem._util import strict_json
from llm_cache_mem._util.reprs import without_content
from llm_cache_mem._util.terminal import visible
from llm_cache_mem.accounting.render import table
from llm_cache_mem.diagnostics.differences import (
    ABSENT,
    Difference,
    differences,
    in_common,
    with_named_query,
)
from llm_cache_mem.diagnostics.redaction import Redaction
from llm_cache_mem.keys import digest

__all__ = ["Explanation", "StoredRequest", "explain"]

_CANDIDATES = 40  # the stored requests with most words in common, which are compared in full
_COMPARED_BYTES = 16_384  # of each end of a request, in search of those
_LONG_TEXT = 24  # characters from which on texts are compared word by word
_SHOWN = 12
_IDS = frozenset({"call_id", "id", "toolUseId", "tool_call_id", "tool_use_id"})
_KIND, _SAMPLE = "kind of entry", "sample"


@without_content
class StoredRequest(NamedTuple):
    """A request that is stored, or compared with stored ones.

    *kind* is that of its entry (empty in a request that is looked for: any), *sample* its number,
    *request* its canonical JSON or None if that was not stored.
    """

    key: str
    kind: str
    sample: int
    request: bytes | None

    @classmethod
    def from_key(cls, key: str, request: bytes | None) -> "StoredRequest":
        """The stored request with *key*, from which kind and sample are read."""
        try:
            parts = digest.parse(key)
        except ValueError:  # made by hand
            return cls(key, "value", 0, request)
        return cls(key, parts.kind, parts.sample or 0, request)


class Explanation(NamedTuple):
    """Why a request was not answered from the cache. ``str()`` is for people, the fields are for
    programs.

    It quotes from both requests, shortened and without secrets. *key*: what was looked for.
    *nearest*: the key of the stored request that is most like it, None if there is none to compare
    with, and *differences* the fields that differ. *stored*: the number of entries, *compared*:
    those of them that have their request stored. *state*: ``absent``, or of an entry with this very
    key ``fresh``, ``expired``, ``unreadable`` or ``invalidated`` (what it depends on was, or this
    request depends on more); of a miss in the past also ``gone`` (it was stored
    before), ``refreshed`` (the mode was refresh) or ``skipped`` (its answers are not stored, for
    *reason*).
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
            return visible(f"{_STATES[self.state].format(self.reason)}: {self.key}")
        if not self.stored:
            return "nothing is stored in this namespace yet"
        if self.nearest is None:
            return (
                f"no entry (of {self.stored:,}) has its request stored:"
                " LLMCache(keep_requests=True) stores requests"
            )
        head = f"{self._nearest_of()}: {visible(self.nearest)}"
        if not self.differences:
            return (
                f"{head}\n  No field differs: the difference was redacted, or its key was made"
                " with another key_fn or ignore, or the stored request was edited by hand."
            )
        lines = [f"  {difference}" for difference in self.differences[:_SHOWN]]
        more = len(self.differences) - _SHOWN
        return "\n".join(
            [f"{head} (stored → asked)", *lines, *([f"  and {more:,} more"] if more > 0 else [])]
        )

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        if self.state != "absent" or not self.differences:
            return f"<p>{escape(str(self))}</p>"
        rows = [(difference.path, *difference.sides()) for difference in self.differences[:_SHOWN]]
        more = len(self.differences) - _SHOWN
        return (
            f"<p>{self._nearest_of()}: <code>{escape(self.nearest or '')}</code></p>"
            f"{table([('what differs', 'stored', 'asked'), *rows], texts=3)}"
            + (f"<p>and {more:,} more</p>" if more > 0 else "")
        )

    def _nearest_of(self) -> str:
        plural = "" if self.compared == 1 else "s"
        return f"nearest of {self.compared:,} stored request{plural}"

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
    "invalidated": "it is stored, but something that it depends on was invalidated",
    "gone": "it was stored before, and is there no longer (expired, evicted or deleted)",
    "refreshed": "the model was to be asked again (mode refresh)",
    "skipped": "the answer to it is not stored ({})",
}


def explain(
    asked: StoredRequest,
    stored: Iterable[StoredRequest],
    hashed: Callable[[Any], Any] | None = None,
    redaction: Redaction | None = None,
) -> Explanation:
    """Compare *asked*, whose request must be there, with what is *stored*.

    *hashed* makes of a request, as a tree of JSON, what its key is made from; without it that is
      the whole request. Of both sides nothing is shown that *redaction* takes out: a store may hold
      what was written without it.
    """
    redaction = redaction or Redaction()
    total = compared = 0

    def readable() -> Iterator[tuple[float, int, StoredRequest]]:
        nonlocal total, compared
        wanted = _words(asked.request or b"")
        for one in stored:
            total += 1
            if one.request is not None:
                compared += 1
                yield (
                    _likeness(wanted, _words(one.request))
                    - 0.05 * (one.kind != (asked.kind or one.kind)),
                    -total,
                    one,
                )

    candidates = [one for _, _, one in nlargest(_CANDIDATES, readable())]
    target = _tree(asked.request, hashed, redaction)
    best: tuple[float, StoredRequest, list[Difference]] | None = None
    for one in candidates:
        found = list(_once(differences(_tree(one.request, hashed, redaction), target)))
        found.sort(key=lambda difference: difference.path.startswith("http."))  # the body first
        found += _key_differences(one, asked)
        distance = sum(map(_weight, found))
        if best is None or distance < best[0]:
            best = distance, one, found
    if best is None:
        return Explanation(asked.key, None, (), total, 0)
    return Explanation(asked.key, best[1].key, tuple(best[2]), total, compared)


# -- Which is nearest


def _words(text: bytes) -> frozenset[bytes]:
    if len(text) > 2 * _COMPARED_BYTES:
        text = text[:_COMPARED_BYTES] + text[-_COMPARED_BYTES:]
    return frozenset(text.split())


def _likeness(one: frozenset[Any], other: frozenset[Any]) -> float:
    """From 0 to 1: the share of what two sets have in common."""
    return 2 * len(one & other) / (len(one) + len(other) or 1)


def _weight(difference: Difference) -> float:
    """How much a difference counts: another text more than another setting, a changed text by how
    much of it changed, an id that a client made hardly."""
    _, stored, asked = difference
    if difference.path == _KIND:
        return 1.5
    if _is_id(difference):
        return 0.1
    if type(stored) is str and type(asked) is str and max(len(stored), len(asked)) > _LONG_TEXT:
        return 0.2 + 4 * (1 - _likeness(frozenset(stored.split()), frozenset(asked.split())))
    if type(stored) is str and type(asked) is str:
        return 1.0 - 0.1 * in_common(stored, asked) / max(
            len(stored), len(asked)
        )  # between two that differ as much
    return 2.0 if isinstance(stored, (dict, list)) or isinstance(asked, (dict, list)) else 1.0


def _is_id(difference: Difference) -> bool:
    """Whether two ids of a call, a result or a message differ, whatever they begin with."""
    path, stored, asked = difference
    return path.rpartition(".")[2] in _IDS and type(stored) is type(asked) is str


def _key_differences(stored: StoredRequest, asked: StoredRequest) -> list[Difference]:
    """In what two keys differ besides the request."""
    pairs = (
        (_KIND, stored.kind, asked.kind or stored.kind),
        (_SAMPLE, stored.sample, asked.sample),
    )
    return [Difference(*pair) for pair in pairs if pair[1] != pair[2]]


def _once(found: Iterable[Difference]) -> Iterator[Difference]:
    """*found*, with an id that stands in a tool call and in its result as one difference."""
    seen = set()
    for difference in found:
        if _is_id(difference):
            if difference[1:] in seen:
                continue
            seen.add(difference[1:])
        yield difference


def _tree(request: bytes | None, hashed: Callable[[Any], Any] | None, redaction: Redaction) -> Any:
    try:
        tree = redaction.request(strict_json.parse(request or b"{}"))
    except (ValueError, RecursionError):  # written by hand, or by another program
        return None
    try:
        return with_named_query(tree if hashed is None else hashed(tree))
    except Exception:  # noqa: BLE001  # a key function that does not take it
        return with_named_query(tree)
