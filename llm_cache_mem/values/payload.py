"""Values at rest: any supported value becomes bytes, and every read of them is a fresh, independent
value.

In memory a value rests as ``marshal`` bytes, which are quick to make and never leave the process;
stores that persist ask for JSON. Plain JSON values are written as themselves. Others become a
tagged tree (codec_tags) inside ``{"$llm-cache-mem": tree}``.
"""

import json
import marshal
from collections import deque
from typing import Any, Final
from weakref import ref

from llm_cache_mem._util import strict_json
from llm_cache_mem.errors import EntryUnreadable, ValueNotCacheable
from llm_cache_mem.values.classes import generation
from llm_cache_mem.values.copies import LinkTable, link
from llm_cache_mem.values.plain import WRAPPER, is_plain
from llm_cache_mem.values.tagged import from_tree, to_tree

__all__ = ["Payload"]

_PLAIN, _TAGGED, _JSON = range(3)
_COLD, _READ, _UNLINKABLE = range(3)

# so many values may rest as containers too, which take about four times the memory of bytes
_HOT_PAYLOADS = 256
_HOT_BYTES = 32 * 1024
_hot: "deque[ref[Payload]]" = deque()
_WRAPPED: Final = f'{{"{WRAPPER}":'.encode()
_encoder: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False
)


class Payload:
    """One value at rest: bytes, and how to read them. Immutable; may be read from any thread."""

    __slots__ = ("__weakref__", "_data", "_form", "_heat", "_links")

    def __init__(self, data: bytes, form: int) -> None:
        self._data = data
        self._form = form
        self._links: LinkTable | None = None
        self._heat = _COLD

    @classmethod
    def of(cls, value: Any) -> "Payload":
        """A snapshot of *value* as it is now; ValueNotCacheable if it would not come back equal and
        of the same type."""
        if is_plain(value):
            return cls(marshal.dumps(value, 2), _PLAIN)
        return cls(marshal.dumps(to_tree(value), 2), _TAGGED)

    @classmethod
    def from_json(cls, data: bytes) -> "Payload":
        """What ``json()`` gave, read back; nothing is decoded, or found to be unreadable, before
        ``decode()``."""
        return cls(data, _JSON)

    @property
    def is_plain(self) -> bool:
        """Whether the value is plain JSON, so that no class decides what it is."""
        return self._form == _PLAIN or (self._form == _JSON and not self._data.startswith(_WRAPPED))

    @property
    def size(self) -> int:
        """Bytes at rest."""
        return len(self._data)

    def json(self) -> bytes:
        """The persistent form, UTF-8 JSON; the same value always gives JSON that any version of
        this format reads. ValueNotCacheable for one of too many parts."""
        if self._form == _JSON:
            return self._data
        # bytes made by marshal.dumps in this process
        tree = marshal.loads(self._data)  # noqa: S302
        try:
            return _to_json(tree if self._form == _PLAIN else {WRAPPER: tree})
        except UnicodeEncodeError:  # lone surrogates in a plain value
            return _to_json({WRAPPER: to_tree(tree)})

    def decode(self) -> Any:
        """The value, a new one each time; EntryUnreadable when the bytes, or the classes they name,
        are not what they were."""
        try:
            links = self._links
            classes = generation()
            if links is not None and (links.generation is None or links.generation == classes):
                self._heat = _READ
                return links.copy()
            value = self._decode()
            if self._heat == _READ and len(self._data) <= _HOT_BYTES and _make_room():
                return self._warm(value, classes)
            if self._heat == _COLD:
                self._heat = _READ
            return value
        except EntryUnreadable:
            raise
        except (RecursionError, MemoryError):
            raise EntryUnreadable("too deep or too large to be decoded here", newer=True) from None
        except Exception as exc:  # noqa: BLE001  # hostile bytes find every error there is
            raise EntryUnreadable(
                f"not a value written by this library ({type(exc).__name__})"
            ) from None

    def _warm(self, value: Any, classes: int) -> Any:
        """Keep a link table of *value*, made of the classes of generation *classes*, from now on,
        and hand out the first copy."""
        links = link(value, classes)
        if links is None:
            self._heat = _UNLINKABLE
            return value
        self._links = links
        _hot.append(ref(self))
        return links.copy()

    def _cool(self) -> bool:
        """Let go of the link table, unless it was used since the last time this was asked."""
        if self._heat == _READ:
            self._heat = _COLD
            return False
        self._links = None
        return True

    def _decode(self) -> Any:
        if self._form == _JSON:
            tree = _from_json(self._data)
            if not (type(tree) is dict and WRAPPER in tree and len(tree) == 1):
                return tree
            tree = tree[WRAPPER]
        else:
            # bytes made by marshal.dumps in this process
            tree = marshal.loads(self._data)  # noqa: S302
            if self._form == _PLAIN:
                return tree
        return from_tree(tree)


def _make_room() -> bool:
    """Whether one more payload may be hot: a clock that gives every hot one in use a second chance,
    so that they do not take turns."""
    if len(_hot) < _HOT_PAYLOADS:
        return True
    try:
        oldest = _hot.popleft()
    except IndexError:  # other threads were faster
        return True
    payload = oldest()
    if payload is None or payload._cool():
        return True
    _hot.append(oldest)
    return False


def _to_json(tree: Any) -> bytes:
    data = _encoder.encode(tree).encode()
    if strict_json.has_too_many_parts(data):
        raise ValueNotCacheable("value", "more parts than a stored value may have")
    return data


def _from_json(data: bytes) -> Any:
    if strict_json.has_too_many_parts(data):
        raise EntryUnreadable("more parts than a stored value may have")
    text = data.decode()
    tree, end = strict_json.decoder.raw_decode(text)
    if end != len(text):
        raise EntryUnreadable("more than one JSON value")
    return tree
