"""A request seen before is recognised without writing it out again: the memo in front of the canonical form.

It is transparent: it answers only for a request that is equal in every value *and type* to one it has worked out (``1 == 1.0 ==
True``, but they are three requests), and works out only what is its own copy. It takes no lock: threads that race lose a
remembered digest, never get a wrong one.
"""

import marshal
import re
from hashlib import sha256
from typing import Any

from llm_cache_mem.canonical import MAX_DEPTH, Walk, encode
from llm_cache_mem.wire import Refused

__all__ = ["KeyMemo"]

_SCALARS: frozenset[type] = frozenset({str, int, float, bool, type(None)})
_EXACT: frozenset[type] = frozenset(
    {str, int, type(None)}
)  # equal is the same for these; 1.0, True and -0.0 are equal to what they are not
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf]")  # in UTF-8; in the bytes of a number by chance, which costs time only

_Seen = tuple[list[Any] | bytes | None, str, int]
"""The messages before the last (as bytes where ``==`` is not exact), the digest, and the size of both and of the slot."""


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

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def digest(self, messages: Any, params: Any) -> str | None:
        """The digest of a request that is plain JSON; None for one that is not, or is to be refused.

        The slot of a request is its params, its last message, how many there are and how long the first is. marshal version 2
        is exact: equal bytes are equal values of equal types. (Later versions also write how often an object is referred to;
        pickle, which objects are the same.)
        """
        try:
            if type(messages) is list and messages:
                head, last = messages[:-1], messages[-1]
                opening = head[0].get("content") if head and type(head[0]) is dict else None
                shape = (len(head), len(opening) if type(opening) is str else 0)
            else:
                head, last, shape = None, messages, None
            if not (_is_plain(params, MAX_DEPTH) and _is_plain(last, MAX_DEPTH - 2)):
                return None
            slot = marshal.dumps((params, last, shape), 2)
            seen = self._young.get(slot) or self._recall(slot)
            if seen is not None and (not head or _same(seen[0], head)):
                return seen[1]
            return self._work_out(slot, head)
        except (Refused, ValueError, RuntimeError, IndexError):  # the last two: another thread changed the request meanwhile
            return None

    def _recall(self, slot: bytes) -> _Seen | None:
        seen = self._old.get(slot)
        if seen is not None:
            self._keep(slot, seen)
        return seen

    def _work_out(self, slot: bytes, head: list[Any] | None) -> str | None:
        params, last, _ = marshal.loads(slot)  # noqa: S302 - bytes made a moment ago, here
        if (b"\xed" in slot and _SURROGATE.search(slot)) or "messages" in params:
            return None
        known: list[Any] | bytes | None = None
        messages = last
        if head is not None:
            walk = Walk()
            own = walk.plain(head, MAX_DEPTH - 1) if head else head
            if walk.tags:
                return None
            known = own if walk.only_text else marshal.dumps(own, 2)
            messages = [*own, last]
        text = encode({"messages": messages, **params})
        digest = sha256(text.encode()).hexdigest()
        size = 2 * len(text) + len(slot)  # the text once more as objects: an estimate
        if size <= self._half_size // 4:
            self._keep(slot, (known, digest, size))
        return digest

    def _keep(self, slot: bytes, seen: _Seen) -> None:
        if len(self._young) >= self._half_entries or self._size + seen[2] > self._half_size:
            self._old, self._young, self._size = self._young, {}, 0
        self._young[slot] = seen
        self._size += seen[2]


def _same(known: list[Any] | bytes | None, head: list[Any]) -> bool:
    if type(known) is bytes:
        return _is_plain(head, MAX_DEPTH - 1) and known == marshal.dumps(head, 2)
    for message in head:  # _is_plain(head, MAX_DEPTH - 1, _EXACT), with the usual message looked at in place
        if type(message) is not dict:
            return _is_plain(head, MAX_DEPTH - 1, _EXACT) and known == head
        for key, item in message.items():
            if type(key) is not str or (type(item) is not str and not _is_plain(item, MAX_DEPTH - 3, _EXACT)):
                return False
    return known == head


def _is_plain(value: Any, depth: int, scalars: frozenset[type] = _SCALARS) -> bool:
    """Whether *value* is exact builtin JSON with str keys, so that no code but the interpreter's runs when it is compared.

    Also what keeps marshal from a cycle: it goes on beside what is nested too deep, for ever where that branches.
    """
    kind = type(value)
    if kind is dict:
        if depth <= 0:
            return False
        for key, item in value.items():
            if type(key) is not str or (type(item) not in scalars and not _is_plain(item, depth - 1, scalars)):
                return False
        return True
    if kind is list:
        if depth <= 0:
            return False
        for item in value:  # noqa: SIM110 - all() with a generator takes half as long again
            if type(item) not in scalars and not _is_plain(item, depth - 1, scalars):
                return False
        return True
    return kind in scalars
