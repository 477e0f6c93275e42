"""A request seen before is recognised without writing it out again: the memo in front of the canonical form.

It is transparent: what it holds was computed from its own copy of a request, and it answers only for a request that is equal to
that copy in every value *and type* (``1 == 1.0 == True``, but they are three different requests). It takes no lock: threads that
race lose a remembered digest, never get a wrong one.
"""

import marshal
from collections.abc import Iterable
from typing import Any

from llm_cache_mem.canonical import MAX_DEPTH

__all__ = ["KeyMemo", "slot_of"]


def slot_of(messages: Any, params: Any) -> bytes | None:
    """What tells most requests apart: params, last message, how many there are; None for a request with objects in it.

    marshal version 2 is exact: equal bytes are equal values of equal builtin types, and subclasses are an error. (Later
    versions also write how often an object is referred to; pickle writes which objects are the same.)
    """
    try:
        if not _ends(params.values() if type(params) is dict else (params,)):
            return None
        if type(messages) is not list or len(messages) < 2:
            return marshal.dumps((params, messages), 2) if _ends((messages,)) else None
        first, last = messages[0], messages[-1]
        if not _ends((last,)):
            return None
        content = first.get("content") if type(first) is dict else None
        return marshal.dumps((params, last, len(messages), len(content) if type(content) is str else 0), 2)
    except (ValueError, RuntimeError):  # not a builtin type; changed meanwhile by another thread
        return None


def _ends(values: Iterable[Any], depth: int = MAX_DEPTH) -> bool:
    """Whether none is nested too deep. marshal goes on beside what is, so that a small cycle would keep it busy for ever."""
    for value in values:
        kind = type(value)
        if kind is str:
            continue
        if kind is dict:
            value = value.values()
        elif kind is not list and kind is not tuple:
            continue
        if not depth or not _ends(value, depth - 1):
            return False
    return True


_Seen = tuple[list[Any] | bytes | None, str, int]
"""The messages before the last, which the slot does not tell (as bytes where ``==`` is not exact); the digest; the size."""


class KeyMemo:
    """Digests of recent requests, at most *entries* and about *size* bytes of them.

    Forgets in halves: when the young half is full it becomes the old one, and what was in the old one and not asked for since is gone.
    """

    def __init__(self, entries: int = 2048, size: int = 16 << 20) -> None:
        self._half_entries = entries // 2
        self._half_size = size // 2
        self.clear()

    def clear(self) -> None:
        self._young: dict[bytes, _Seen] = {}
        self._old: dict[bytes, _Seen] = {}
        self._size = 0

    def get(self, slot: bytes, messages: Any) -> str | None:
        """The digest of the request of *slot* and *messages*, if it was put."""
        seen = self._young.get(slot)
        if seen is None:
            seen = self._old.get(slot)
            if seen is None:
                return None
            self._keep(slot, seen)
        known, digest, _ = seen
        return digest if _same_head(known, _head(messages)) else None

    def put(self, slot: bytes, messages: Any, digest: str, *, exact: bool, length: int) -> None:
        """Remember *digest*. *messages* is a plain copy that nobody changes any more; *exact* says that ``==`` is exact for it."""
        size = 2 * length + len(slot)  # text once more as objects: an estimate
        if size <= self._half_size // 4:
            head = _head(messages)
            self._keep(slot, (head if exact or head is None else marshal.dumps(head, 2), digest, size))

    def _keep(self, slot: bytes, seen: _Seen) -> None:
        if len(self._young) >= self._half_entries or self._size + seen[2] > self._half_size:
            self._old, self._young, self._size = self._young, {}, 0
        self._young[slot] = seen
        self._size += seen[2]

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


def _head(messages: Any) -> list[Any] | None:
    """What the slot does not tell."""
    return messages[:-1] if type(messages) is list and len(messages) > 1 else None


def _same_head(known: list[Any] | bytes | None, head: list[Any] | None) -> bool:
    if known is None or head is None:
        return known is head
    try:
        if type(known) is list:
            return _all_text(head) and known == head
        return _ends(head) and known == marshal.dumps(head, 2)
    except (ValueError, RuntimeError):
        return False


def _all_text(head: list[Any]) -> bool:
    for message in head:  # _only_text(head), with the usual message looked at in place
        if type(message) is dict:
            for key, item in message.items():
                if type(key) is not str or (type(item) is not str and not _only_text(item)):
                    return False
        elif not _only_text(message):
            return False
    return True


def _only_text(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether ``==`` is exact for *value*: builtin containers, str, int and None, and nothing that compares by its own rules."""
    kind = type(value)
    if kind is list:
        return depth > 0 and all(type(item) is str or _only_text(item, depth - 1) for item in value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or (type(item) is not str and not (depth > 0 and _only_text(item, depth - 1))):
                return False
        return True
    return kind is str or kind is int or value is None
