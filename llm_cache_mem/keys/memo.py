"""A request seen before is recognised without writing it out again: the memo in front of the
canonical form.

It is transparent: it answers only for a request that is equal in every value *and type* to one it
has worked out (``1 == 1.0 == True``, but they are three requests), and works out only what is its
own copy. It takes no lock: threads that race lose a remembered digest, never get a wrong one.
"""

import marshal
import sys
from collections.abc import Iterable
from gc import get_referents
from hashlib import sha256
from itertools import filterfalse
from typing import Any

from llm_cache_mem.keys.canonical import MAX_DEPTH, Walk, encode, pieces
from llm_cache_mem.keys.wire_form import Refused

__all__ = ["KeyMemo"]

_Types = frozenset[type[Any]]
_EXACT: _Types = frozenset(
    {str, int, type(None)}
)  # equal is the same for these; 1.0, True and -0.0 are equal to what they are not
_SCALARS: _Types = _EXACT | {float, bool}
_TREES: dict[_Types, _Types] = {scalars: scalars | {dict, list} for scalars in (_EXACT, _SCALARS)}
_DICT: _Types = frozenset({dict})
_INLINE = sys.version_info >= (
    3,
    13,
)  # there the collector does not see into the __dict__ of an object, but into a copy of it
_WIDEST = 100_000  # objects beside one another in a request that the memo looks at

_SLOT_BYTES = 600  # what remembering one request takes, whatever is in it

_Frame = tuple[str, str]
"""What the canonical text says before and after the messages: the params."""

_Level = list[type[Any]]
_Seen = tuple["list[Any] | bytes | None", "list[_Level]", str, int]
"""The messages (as bytes where ``==`` is not exact, None where the slot tells them), the types in
them level by level, the digest, and about how many bytes it all is."""


class KeyMemo:
    """Digests of recent requests, at most *entries* and about *size* bytes of them.

    Forgets in halves: when the young half is full it becomes the old one, and what was in the old
    one and not asked for since is gone.
    """

    def __init__(self, entries: int = 2048, size: int = 16 << 20) -> None:
        self._half_entries = entries // 2
        self._half_size = size // 2
        self._frame_size = size // 16
        self.clear()

    def clear(self) -> None:
        self._young: dict[Any, _Seen] = {}
        self._old: dict[Any, _Seen] = {}
        self._size = 0
        self._frames: dict[bytes, _Frame] = {}
        self._framed = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def digest(self, messages: Any, params: Any) -> str | None:
        """The digest of a request that is plain JSON; None for one that is not, or is to be
        refused.

        The slot of a request is its params, what its last message says, how many there are and how
        long the first is. marshal version 2 is exact: equal bytes are equal values of equal types.
        (Later versions also write how often an object is referred to; pickle, which objects are the
        same.)
        """
        try:
            if not (
                _SCALARS.issuperset(map(type, params.values())) or _is_made_of(_SCALARS, [params])
            ):
                return None
            packed = marshal.dumps(params, 2)
            frame = self._frames.get(packed) or self._new_frame(packed)
            slot: Any = (frame, messages)
            if type(messages) is list:
                first, last = (messages[0], messages[-1]) if messages else (None, None)
                said = last.get("content") if type(last) is dict else last
                opening = (
                    said
                    if first is last
                    else first.get("content")
                    if type(first) is dict
                    else first
                )
                slot = (
                    frame,
                    len(messages),
                    said if type(said) is str else _packed(last),
                    len(opening) if type(opening) is str else 0,
                )
            elif type(messages) is not str and messages is not None:
                return None
            seen = self._young.get(slot) or (self._recall(slot) if self._old else None)
            if seen is not None and _is_same(seen[0], seen[1], messages):
                return seen[2]
            return self._work_out(slot, messages)
        except (Refused, ValueError, TypeError, AttributeError, RuntimeError, LookupError):
            # not plain, or changed by another thread meanwhile: the long way says what is wrong
            # with it, if anything
            return None

    def _recall(self, slot: Any) -> _Seen | None:
        seen = self._old.get(slot)
        if seen is not None:
            self._keep(slot, seen)
        return seen

    def _new_frame(self, packed: bytes) -> _Frame:
        """The frame for params, which are much the same from one request to the next. Raises
        Refused or ValueError for unusual ones."""
        walk = Walk()
        # bytes made by marshal.dumps in this process
        params = walk.plain(marshal.loads(packed))  # noqa: S302
        if walk.tags or "messages" in params:
            raise Refused("not plain")
        before = encode({name: value for name, value in params.items() if name < "messages"})
        after = encode({name: value for name, value in params.items() if name > "messages"})
        frame = (
            before[:-1] + (', "messages": ' if len(before) > 2 else '"messages": '),
            ", " + after[1:] if len(after) > 2 else "}",
        )
        size = 3 * len(packed) + _SLOT_BYTES
        if size <= self._frame_size // 4:
            if self._framed + size > self._frame_size:
                self._frames, self._framed = {}, 0
            self._frames[packed] = frame
            self._framed += size
        return frame

    def _work_out(self, slot: Any, messages: Any) -> str:
        (before, after), own, types = slot[0], *_snapshot(messages)
        text = "".join((before, *pieces(own), after))
        digest = sha256(text.encode()).hexdigest()
        size = 2 * len(text) + _SLOT_BYTES  # the text once more as objects: an estimate
        if size <= self._half_size // 4:
            self._keep(
                slot,
                (own if types is not None else marshal.dumps(own, 2), types or [], digest, size),
            )
        return digest

    def _keep(self, slot: Any, seen: _Seen) -> None:
        if len(self._young) >= self._half_entries or self._size + seen[3] > self._half_size:
            self._old, self._young, self._size = self._young, {}, 0
        self._young[slot] = seen
        self._size += seen[3]


def _packed(message: Any) -> bytes:
    """All of a message as bytes. Raises TypeError for what is not plain."""
    if not _is_made_of(_SCALARS, [message]):
        raise TypeError("not plain")
    return marshal.dumps(message, 2)


def _snapshot(messages: Any) -> tuple[Any, "list[_Level] | None"]:
    """Our own copy of *messages*, and the types in it, or None where ``==`` is not exact. Raises
    Refused, or TypeError if not plain."""
    if type(messages) is not list:  # a str or None is nobody's to change, and the slot tells it
        return Walk().plain(messages), []
    kinds = [*map(type, messages)]
    if _DICT.issuperset(kinds):  # the usual conversation, at a fifth of the cost of a walk
        own = [*map(dict.copy, messages)]
        leaves = get_referents(*own)
        types = [*map(type, leaves)]
        if _EXACT.issuperset(types) and len(leaves) == sum(
            map(len, own)
        ):  # no key is among them, so every key is exactly str
            if len(leaves) > types.count(str):
                leaves = [leaf for leaf in leaves if type(leaf) is str]
            if _is_text(leaves) and _is_text(set().union(*own)):
                return own, [kinds, types]
    if not _is_made_of(_SCALARS, messages):
        raise TypeError("not plain")
    walk = Walk()
    own = walk.plain(messages, MAX_DEPTH - 1)
    return own, _types(own) if walk.only_text else None


def _is_text(texts: Iterable[str]) -> bool:
    """Whether none of *texts* holds half of a surrogate pair, which JSON could not tell from a
    whole one."""
    for text in filterfalse(str.isascii, texts):
        try:
            text.encode("latin-1")  # a copy of memory where it applies
        except UnicodeEncodeError:
            try:
                text.encode()
            except UnicodeEncodeError:
                return False
    return True


def _types(level: list[Any]) -> list[_Level]:
    """The types of what is in *level*, a tree, and in the dicts and lists inside it, level by
    level."""
    found = []
    while level:
        found.append([*map(type, level)])
        level = _inside(level)
    return found


def _inside(level: list[Any]) -> list[Any]:
    """What is in the dicts and lists of *level*: the collector's own view, which leaves out only
    keys that are str."""
    return get_referents(
        *([item.copy() if type(item) is dict else item for item in level] if _INLINE else level)
    )


def _is_same(known: list[Any] | bytes | None, types: list[_Level], messages: Any) -> bool:
    """Whether *messages* are those that are *known*, by values and types. Types first: then ``==``
    runs no code but the interpreter's."""
    if type(known) is list:
        level = messages
        for below, kinds in enumerate(types):
            if below:
                level = _inside(level)
            if [*map(type, level)] != kinds:
                return False
        return known == messages  # type: ignore[no-any-return]
    if type(known) is bytes:
        return _is_made_of(_SCALARS, messages) and known == marshal.dumps(messages, 2)
    return True


def _is_made_of(scalars: _Types, level: list[Any]) -> bool:
    """Whether there are only *scalars* in *level* and in the dicts and lists inside it, all of
    exactly these types.

    Then marshal, which would follow a cycle for ever, comes to an end.
    """
    tree = _TREES[scalars]
    for _ in range(MAX_DEPTH):
        if scalars.issuperset(map(type, level)):
            return True
        if len(level) > _WIDEST or not tree.issuperset(map(type, level)):
            return False
        level = _inside(level)
    return False
