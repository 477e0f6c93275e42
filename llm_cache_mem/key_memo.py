"""A request seen before is recognised without writing it out again: the memo in front of the canonical form.

It is transparent: it answers only for a request that is equal in every value *and type* to one it has worked out (``1 == 1.0 ==
True``, but they are three requests), and works out only what is its own copy. It takes no lock: threads that race lose a
remembered digest, never get a wrong one.
"""

import marshal
import sys
from collections.abc import Iterable
from gc import get_referents
from itertools import chain
from typing import Any

from llm_cache_mem import hashing
from llm_cache_mem.canonical import MAX_DEPTH, Walk, encode
from llm_cache_mem.wire import Refused

__all__ = ["KeyMemo"]

_Types = frozenset[type[Any]]
_EXACT: _Types = frozenset({str, int, type(None)})  # equal is the same for these; 1.0, True and -0.0 are equal to what they are not
_SCALARS: _Types = _EXACT | {float, bool}
_TREES: dict[_Types, _Types] = {scalars: scalars | {dict, list} for scalars in (_EXACT, _SCALARS)}
_STR: _Types = frozenset({str})
_DICT: _Types = frozenset({dict})
_INLINE = sys.version_info >= (3, 13)  # there the collector does not see into the __dict__ of an object, but into a copy of it
_WIDEST = 100_000  # objects beside one another in a request that the memo looks at

_Seen = tuple[list[Any] | bytes | None, str, int]
"""The messages (as bytes where ``==`` is not exact, None where the slot tells them), the digest, and about how many bytes it all is."""


class KeyMemo:
    """Digests of recent requests, at most *entries* and about *size* bytes of them.

    Forgets in halves: when the young half is full it becomes the old one, and what was in the old one and not asked for since is gone.
    """

    def __init__(self, entries: int = 2048, size: int = 16 << 20) -> None:
        self._half_entries = entries // 2
        self._half_size = size // 2
        self.clear()

    def clear(self) -> None:
        self._young: dict[Any, _Seen] = {}
        self._old: dict[Any, _Seen] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def digest(self, messages: Any, params: Any) -> str | None:
        """The digest of a request that is plain JSON; None for one that is not, or is to be refused.

        The slot of a request is its params, what its last message says, how many there are and how long the first is. marshal version 2
        is exact: equal bytes are equal values of equal types. (Later versions also write how often an object is referred to;
        pickle, which objects are the same.)
        """
        try:
            if not (_SCALARS.issuperset(map(type, params.values())) or _is_made_of(_SCALARS, [params])):
                return None
            packed = marshal.dumps(params, 2)
            slot: Any = (packed, messages)
            if type(messages) is list:
                first, last = (messages[0], messages[-1]) if messages else (None, None)
                slot = (packed, len(messages), _told(last), _opening(first))
            elif type(messages) is not str and messages is not None:
                return None
            seen = self._young.get(slot) or self._recall(slot)
            if seen is not None and _is_same(seen[0], messages):
                return seen[1]
            return self._work_out(slot, messages)
        except (Refused, ValueError, TypeError, AttributeError, RuntimeError, LookupError):
            return None  # not plain, or changed by another thread meanwhile: the long way says what is wrong with it, if anything

    def _recall(self, slot: Any) -> _Seen | None:
        seen = self._old.get(slot)
        if seen is not None:
            self._keep(slot, seen)
        return seen

    def _work_out(self, slot: Any, messages: Any) -> str | None:
        params = marshal.loads(slot[0])  # noqa: S302  # bytes made by marshal.dumps in this process
        if not (_is_ascii(params) and _SCALARS.issuperset(map(type, params.values())) and _is_text(params.values())):
            walk = Walk()
            params = walk.plain(params)
            if walk.tags:
                return None
        if "messages" in params:
            return None
        own, only_text = _snapshot(messages)
        text = encode({"messages": own, **params})
        digest = hashing.sha256(text.encode()).hexdigest()
        size = 2 * len(text) + len(slot[0])  # the text once more as objects: an estimate
        if size <= self._half_size // 4:
            self._keep(slot, (own if only_text else marshal.dumps(own, 2), digest, size))
        return digest

    def _keep(self, slot: Any, seen: _Seen) -> None:
        if len(self._young) >= self._half_entries or self._size + seen[2] > self._half_size:
            self._old, self._young, self._size = self._young, {}, 0
        self._young[slot] = seen
        self._size += seen[2]


def _told(message: Any) -> Any:
    """What tells this message from others: its text, or all of it as bytes. Raises TypeError for what is not plain."""
    content = message.get("content") if type(message) is dict else message
    if type(content) is str:
        return content
    if not _is_made_of(_SCALARS, [message]):
        raise TypeError("not plain")
    return marshal.dumps(message, 2)


def _opening(message: Any) -> int:
    content = message.get("content") if type(message) is dict else message
    return len(content) if type(content) is str else 0


def _snapshot(messages: Any) -> tuple[Any, bool]:
    """Our own copy of *messages*, and whether ``==`` with it is exact. Raises Refused, or TypeError for what is not plain."""
    if type(messages) is not list:  # a str or None is nobody's to change, and the slot tells it
        return Walk().plain(messages), True
    if _DICT.issuperset(map(type, messages)):  # the usual conversation, at a fifth of the cost of a walk
        own = list(map(dict.copy, messages))
        leaves = get_referents(*own)
        if _EXACT.issuperset(map(type, leaves)) and _is_ascii(chain.from_iterable(own)) and _is_text(leaves):
            return own, True
    if not _is_made_of(_SCALARS, messages):
        raise TypeError("not plain")
    walk = Walk()
    return walk.plain(messages, MAX_DEPTH - 1), walk.only_text


def _is_ascii(keys: Iterable[Any]) -> bool:
    """Whether all *keys* are exactly str, and ASCII."""
    keys = list(keys)
    return _STR.issuperset(map(type, keys)) and all(map(str.isascii, keys))


def _is_text(leaves: Iterable[Any]) -> bool:
    """Whether no str among *leaves* holds half of a surrogate pair, which JSON could not tell from a whole one."""
    for leaf in leaves:
        if type(leaf) is str and not leaf.isascii():
            try:
                leaf.encode("latin-1")  # a copy of memory where it applies
            except UnicodeEncodeError:
                try:
                    leaf.encode()
                except UnicodeEncodeError:
                    return False
    return True


def _is_same(known: list[Any] | bytes | str | None, messages: Any) -> bool:
    if type(known) is list:
        return _is_made_of(_EXACT, messages) and known == messages
    if type(known) is bytes:
        return _is_made_of(_SCALARS, messages) and known == marshal.dumps(messages, 2)
    return True


def _is_made_of(scalars: _Types, level: list[Any]) -> bool:
    """Whether there are only *scalars* in *level* and in the dicts and lists inside it, all of exactly these types.

    Then no code but the interpreter's runs when they are compared, and marshal, which would follow a cycle for ever, comes to an
    end. The collector's own view of what refers to what is the quickest look that is exact: it leaves out only keys that are str.
    """
    tree = _TREES[scalars]
    for _ in range(MAX_DEPTH):
        if scalars.issuperset(map(type, level)):
            return True
        if len(level) > _WIDEST or not tree.issuperset(map(type, level)):
            return False
        if _INLINE:
            level = [item.copy() if type(item) is dict else item for item in level]
        level = get_referents(*level)
    return False
