"""Pack entries as rows, and rows as transactions."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.values.entry import Entry, Envelope

__all__ = ["SEALED", "SLICE", "Row", "packed", "slices", "space_of"]

_SPACE_FIELDS = 3  # of a key, which are schema, namespace and kind
_MICRO, _NANO = 1e6, 1e9
_LARGEST = 2.0**53  # number of them that is exact
_SLICE_BYTES = 4 << 20  # that one transaction writes, unless a single entry is larger

SEALED = "*"  # the model of an entry whose envelope hides it
SLICE = 5000  # rows that one transaction puts or removes at the most


@without_content
class Row(NamedTuple):
    """A row to put; *used* orders by use, *size* is what it counts for in bytes. *micros* seconds
    and *nanos* dollars; None is unknown. *space* and *model* name its part."""

    key: str
    used: int
    stored_at: float
    expires_at: float | None
    size: int
    value_bytes: int
    input_tokens: int
    output_tokens: int
    micros: int | None
    nanos: int | None
    data: bytes
    space: str
    model: str


def packed(key: str, entry: Entry, envelope: Envelope, used: int) -> Row:
    """The row for *entry* under *key*."""
    data = envelope.pack(key, entry)
    usage = entry.usage or (0, 0)
    return Row(
        key,
        used,
        entry.stored_at,
        entry.expires_at,
        len(key) + len(data),
        entry.size,
        usage[0],
        usage[1],
        _whole(entry.seconds, _MICRO),
        _whole(entry.cost_usd, _NANO),
        data,
        space_of(key),
        SEALED if envelope.digests else entry.model or "",
    )


def space_of(key: str) -> str:
    """What the keys of one namespace and kind begin with: *key* up to its third colon."""
    fields = key.split(":", _SPACE_FIELDS)
    return key[: len(key) - len(fields[-1])]


def _whole(number: float | None, parts: float) -> int | None:
    """*number* in whole *parts*; None if it is none, or too large for that."""
    if number is None or not -_LARGEST < number * parts < _LARGEST:
        return None
    return round(number * parts)


def slices(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """*rows* in parts that one transaction may hold."""
    begin = size = 0
    for at, row in enumerate(rows):
        if at > begin and (size + row.size > _SLICE_BYTES or at - begin == SLICE):
            yield rows[begin:at]
            begin, size = at, 0
        size += row.size
    if rows:
        yield rows[begin:]
