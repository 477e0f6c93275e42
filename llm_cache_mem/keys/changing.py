"""What models change by themselves while they answer, which is no setting of theirs.

A collection that grows in every call is a record of calls; an object that a model makes for itself
follows from its settings. What is known is about these objects, never about names: another object
in the same attribute, or one that its user has changed between two calls, is a setting.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Lock
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

from llm_cache_mem.keys.identity import settings_of

__all__ = ["CHANGING", "Changing"]

_COLLECTIONS: Final = (list, dict, set)
_MOST: Final = 256


class _Record:
    """A *collection* that may be a record of calls: as it was at first and after the last call.

    It *is_proven* one when a call has made it grow; *under_way* counts the calls that may do so
    now.
    """

    def __init__(self, collection: Any) -> None:
        self.collection = collection
        self.first = self.last = collection.copy()
        self.under_way = 0
        self.is_proven = False

    @property
    def is_grown_by_calls(self) -> bool:
        """Whether calls have added all that is new in it: of what came after the last call, one
        thing for each that is under way. What is more, or came between calls, is the user's."""
        grown = _growth(self.last, self.collection)
        return grown is not None and grown <= self.under_way


class Changing:
    """Learns which attributes of models are no settings. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._records: OrderedDict[int, _Record] = OrderedDict()
        self._made: dict[int, tuple[ref[Any], Any]] = {}
        self._settings: WeakKeyDictionary[type, frozenset[str]] = WeakKeyDictionary()

    def settings(self, model: Any) -> Iterator[tuple[str, Any]]:
        """The settings of *model*, with that in them which it changed by itself as it was at
        first."""
        return ((name, self._at_first(value)) for name, value in settings_of(model))

    def watch(self, model: Any) -> Callable[[bool], None]:
        """Watch *model*, which is about to be called; call the result with whether it answered.

        A field that is declared is a setting. So is an attribute of its class that one call has
        left as it was.
        """
        cls = type(model)
        known = {*getattr(cls, "__pydantic_fields__", ()), *self._settings.get(cls, ())}
        watched = [
            (name, self._begin(value), value.copy())
            for name, value in settings_of(model)
            if type(value) in _COLLECTIONS and name not in known
        ]

        def ended(answered: bool) -> None:
            for name, record, before in watched:
                if not self._end(record, before, answered):
                    self._settings[cls] = self._settings.get(cls, frozenset()) | {name}

        return ended

    def made(self, name: str, old: Any, new: Any) -> None:
        """Learn that a model put the object *new* into its attribute *name* while it answered. One
        in a private attribute counts as *old*."""
        if not name.startswith("_") or isinstance(new, (str, float, int)):
            return
        first = self._at_first(old)
        if type(new) in _COLLECTIONS:
            with self._lock:
                record = self._remember(new)
                record.first, record.is_proven = first, True
            return
        key = id(new)
        with suppress(TypeError):  # of a class without weak references, which is a setting
            self._made[key] = ref(new, lambda gone: self._forget(key, gone)), first

    def _at_first(self, value: Any) -> Any:
        if type(value) in _COLLECTIONS:
            record = self._records.get(id(value))
            return record.first if record and record.is_grown_by_calls else value
        made = self._made.get(id(value))
        return made[1] if made is not None and made[0]() is value else value

    def _begin(self, collection: Any) -> _Record:
        with self._lock:
            record = self._records.get(id(collection))
            if record is None or not record.is_grown_by_calls:  # new, or changed by the user
                record = self._remember(collection)
            self._records.move_to_end(id(collection))
            record.under_way += 1
            return record

    def _end(self, record: _Record, before: Any, answered: bool) -> bool:
        """Note the end of a call at whose beginning *record* held *before*; whether it may still be
        a record of calls."""
        with self._lock:
            record.under_way -= 1
            if answered and _growth(before, record.collection):
                record.last, record.is_proven = record.collection.copy(), True
                return True
            is_over = answered or not (record.is_proven or record.under_way)
            if is_over and self._records.get(id(record.collection)) is record:
                del self._records[id(record.collection)]
            return not answered

    def _remember(self, collection: Any) -> _Record:
        record = self._records[id(collection)] = _Record(collection)
        if len(self._records) > _MOST:
            self._records.popitem(last=False)
        return record

    def _forget(self, key: int, gone: Any) -> None:
        made = self._made.get(key)
        if made is not None and made[0] is gone:  # an object made since may have the same id
            self._made.pop(key, None)


def _growth(old: Any, new: Any) -> int | None:
    """How many things *new* has that *old* has not; None if *old* is no part of it."""
    if isinstance(old, list):
        kept = all(was is now for was, now in zip(old, new, strict=False))
    elif isinstance(old, dict):
        kept = all(new.get(name, _growth) is value for name, value in old.items())
    else:
        kept = old <= new
    return len(new) - len(old) if kept and len(new) >= len(old) else None


CHANGING: Final = Changing()
