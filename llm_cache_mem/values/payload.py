"""Values at rest: any supported value becomes JSON, and every read of it is a fresh, independent
value.

Plain JSON values are written as themselves. Others become a tagged tree (tagged.py) inside
``{"$llm-cache-mem": tree}``. Vectors (vectors.py) rest as bytes beside that. With the compiled
part, what was stored in this process rests as its tree, which is quicker to copy than text is to
read; the text is written when it is needed.
"""

import json
from json.encoder import encode_basestring
from typing import Any, Final

from llm_cache_mem._util import strict_json
from llm_cache_mem._util.compiled import speedups
from llm_cache_mem._util.json_text import encoder
from llm_cache_mem.errors import EntryUnreadable, ValueNotCacheable
from llm_cache_mem.values.plain import WRAPPER, is_plain
from llm_cache_mem.values.tagged import from_tree, to_tree
from llm_cache_mem.values.vectors import PACKED, pack, unpack

__all__ = ["Payload"]

_WRAPPED: Final = f'{{"{WRAPPER}":'.encode()
_encode: Final = encoder(separators=(",", ":"), escape=encode_basestring)
_decode_ours: Final = json.JSONDecoder().raw_decode
_decode_any: Final = strict_json.decoder.raw_decode


class Payload:
    """One value at rest. Immutable; may be read from any thread."""

    __slots__ = ("_data", "_decoder", "_size", "_tree", "is_plain")

    def __init__(self, data: bytes | None, decoder: Any, tree: Any = None) -> None:
        """*data*, which *decoder* reads; without it, *tree* is the JSON itself, which no other code
        may have."""
        self._data = data
        self._decoder = decoder
        self._tree = tree
        self.is_plain = not (
            _is_wrapped(tree) if data is None else data.startswith((_WRAPPED, PACKED))
        )
        """Whether the value is plain JSON, so that no class decides what it is."""
        self._size = -1 if data is None else len(data)

    @classmethod
    def of(cls, value: Any) -> "Payload":
        """A snapshot of *value* as it is now; ValueNotCacheable if it would not come back equal and
        of the same type."""
        if speedups is not None:
            snapshot = NotImplemented if _is_wrapped(value) else speedups.snapshot(value)
            if snapshot is NotImplemented:
                snapshot = speedups.snapshot({WRAPPER: to_tree(value)})
            if snapshot is not NotImplemented:
                return cls(None, _decode_ours, snapshot[0])
        return cls(_to_json(value if is_plain(value) else {WRAPPER: to_tree(value)}), _decode_ours)

    @classmethod
    def packed(cls, value: Any) -> "Payload":
        """``of`` for a value with vectors in it, which take no more than their bytes."""
        return cls(pack(_to_json({WRAPPER: to_tree(value)})), _decode_ours)

    @classmethod
    def from_json(cls, data: bytes) -> "Payload":
        """What ``json()`` or ``to_bytes()`` gave, read back; nothing is decoded, or found to be
        unreadable, before ``decode()``."""
        return cls(data, _decode_any)

    @property
    def size(self) -> int:
        """Bytes of the persistent form."""
        if self._size < 0:
            self.json()
        return self._size

    def to_bytes(self) -> bytes:
        """The persistent form: JSON, or JSON with vectors packed. Raises as ``json``."""
        return self.json() if self._data is None or not _is_packed(self._data) else self._data

    def as_tree(self) -> Any:
        """The value as JSON data: what ``json`` has as text."""
        return json.loads(self.json())

    def json(self) -> bytes:
        """The value as UTF-8 JSON; the same value always gives JSON that any version of
        this format reads. ValueNotCacheable for one of too many parts."""
        data = _to_json(self._tree) if self._data is None else self._data
        if _is_packed(data):
            return unpack(data)
        self._size = len(data)
        if self._decoder is _decode_ours and strict_json.has_too_many_parts(data):
            raise ValueNotCacheable("value", "more parts than a stored value may have")
        return data

    def keep_tree(self) -> int:
        """Decode a plain value once for all later reads, if these are then quicker; the bytes that
        this takes."""
        if self._tree is not None or not self.is_plain or speedups is None:
            return 0
        try:
            snapshot = speedups.snapshot(self.decode())
        except EntryUnreadable:  # which the next read says
            return 0
        if snapshot is NotImplemented:
            return 0
        self._tree, size = snapshot
        return int(size)

    def peek(self) -> Any:
        """The value to look at, neither to be changed nor handed out. Raises as ``decode``."""
        has_tree = self._data is None or self._tree is not None
        return self._tree if has_tree and self.is_plain else self.decode()

    def decode(self) -> Any:
        """The value, a new one each time; EntryUnreadable when the bytes, or the classes they name,
        are not what they were."""
        if self._tree is not None and self.is_plain and speedups is not None:
            return speedups.copy(self._tree)
        try:
            tree: Any = self._tree if self._data is None else _parsed(self._data, self._decoder)
            return from_tree(tree[WRAPPER]) if _is_wrapped(tree) and len(tree) == 1 else tree
        except EntryUnreadable:
            raise
        except (RecursionError, MemoryError):
            raise EntryUnreadable("too deep or too large to be decoded here", newer=True) from None
        except Exception as exc:  # noqa: BLE001  # hostile bytes find every error there is
            raise EntryUnreadable(
                f"not a value written by this library ({type(exc).__name__})"
            ) from None


def _is_packed(data: bytes) -> bool:
    return data.startswith(PACKED)


def _parsed(data: bytes, decoder: Any) -> Any:
    if _is_packed(data):
        data = unpack(data)
    if decoder is _decode_any and strict_json.has_too_many_parts(data):
        raise EntryUnreadable("more parts than a stored value may have")
    text = data.decode()
    tree, end = decoder(text)
    if end != len(text):
        raise EntryUnreadable("more than one JSON value")
    return tree


def _is_wrapped(tree: Any) -> bool:
    return type(tree) is dict and WRAPPER in tree


def _to_json(tree: Any) -> bytes:
    try:
        return _encode(tree).encode()
    except UnicodeEncodeError:  # lone surrogates in a plain value
        return _encode({WRAPPER: to_tree(tree)}).encode()
