"""JSON values that grow from one to the next, such as chunks of a stream, stored as what changes.

A change is JSON: null for none, a string for what is added to a string, ``[value]`` for another
value in its place, an object for changes of an object's items, old ones by their names and new ones
after them, and ``[{"index": change}, [more items]]`` for a list.
"""

from typing import Any, Final

from llm_cache_mem.errors import EntryUnreadable

__all__ = ["MOST", "Sum", "change", "changed"]

MOST: Final = 256 * 1024 * 1024
"""How large the values of a series may be together, in bytes or so: a series takes far less room
than its values."""


def change(old: Any, new: Any) -> Any:
    """What makes *new* of *old*."""
    kind = type(new)
    if kind is not type(old):
        return [new]
    if kind is str:
        if new == old:
            return None
        return new[len(old) :] if new.startswith(old) else [new]
    if kind is dict:
        return _change_of_object(old, new)
    if kind is list:
        return _change_of_list(old, new)
    return None if repr(new) == repr(old) else [new]  # -0.0 is not 0.0


def changed(old: Any, made: Any) -> Any:
    """The value that *made*, a change, makes of *old*; what did not change is shared. Any error for
    what ``change`` did not make."""
    if made is None:
        return old
    if type(made) is str:
        return old + made
    if type(made) is dict:
        return {**old, **{name: _changed_item(old, name, item) for name, item in made.items()}}
    if len(made) == 1:
        return made[0]
    changes, more = made
    items = [*old, *more]
    for index, item in changes.items():
        items[int(index)] = changed(items[int(index)], item)
    return items


class Sum:
    """The size of the values of a series together, from the changes that make them."""

    def __init__(self) -> None:
        self._last = 0
        self.total = 0

    def add(self, made: Any) -> None:
        """Count the value that *made* makes of the one before. EntryUnreadable over MOST."""
        self._last += _added(made)
        self.total += self._last
        if self.total > MOST:
            raise EntryUnreadable("too large to be decoded here", newer=True)


def _added(made: Any) -> int:
    if type(made) is str:
        return len(made)
    if type(made) is dict:
        return sum(map(_added, made.values()))
    if type(made) is list and len(made) == 1:
        return _size(made[0])
    if type(made) is list:
        changes, more = made
        return sum(map(_added, changes.values())) + sum(map(_size, more))
    return 0


def _size(value: Any) -> int:
    if type(value) is str:
        return len(value)
    if type(value) is dict:
        return _CONTAINER + sum(map(_size, value.values()))
    if type(value) is list:
        return _CONTAINER + sum(map(_size, value))
    return 0


_CONTAINER: Final = 64


def _change_of_object(old: dict[str, Any], new: dict[str, Any]) -> Any:
    names = list(old)
    if list(new)[: len(names)] != names:  # the order counts
        return [new]
    changes = {name: made for name in names if (made := change(old[name], new[name])) is not None}
    changes |= {name: [item] for name, item in new.items() if name not in old}
    return changes or None


def _change_of_list(old: list[Any], new: list[Any]) -> Any:
    if len(new) < len(old):
        return [new]
    pairs = enumerate(zip(old, new, strict=False))
    changes = {str(i): made for i, pair in pairs if (made := change(*pair)) is not None}
    more = new[len(old) :]
    return [changes, more] if changes or more else None


def _changed_item(old: dict[str, Any], name: str, made: Any) -> Any:
    return changed(old[name], made) if name in old else changed(None, made)
