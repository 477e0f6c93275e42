"""Memo: what was worked out for contents seen before, bounded in bytes."""

import sys
from collections.abc import Callable
from threading import Lock
from typing import Any

from llm_cache_mem._util.fork import reset_after_fork

__all__ = ["DEFAULT_BYTES", "Memo", "size_of_texts"]

DEFAULT_BYTES = 64 << 20
_SLOT_BYTES = 120  # of a dict, and the key's own object


class _Young(dict[Any, Any]):
    """The younger half; asks *missing* for what is not in it."""

    __slots__ = ("_missing",)

    def __init__(self, missing: Callable[[Any], Any]) -> None:
        super().__init__()
        self._missing = missing

    def __missing__(self, key: Any) -> Any:
        return self._missing(key)


class Memo:
    """Values by their keys, about *most_bytes* of them, where a value follows from its key alone.

    Forgets in halves: when the young half is full it becomes the old one, and what was in the old
    one and not asked for since is gone. Threads may share it; while one of them adds something, the
    others do not, and work it out again the next time.

    Args:
        make: The value of a key that is not remembered; None for one that is added by ``keep``.
        size: The bytes of a key and its value.
    """

    def __init__(
        self,
        make: Callable[[Any], Any],
        size: Callable[[Any, Any], int],
        most_bytes: int = DEFAULT_BYTES,
    ) -> None:
        self._make = make
        self._size = size
        self._half_bytes = most_bytes // 2
        self._used = 0
        self._young: dict[Any, Any] = _Young(self._missing)
        self._old: dict[Any, Any] = {}
        self.get: Callable[[Any], Any] = self._young.__getitem__
        self._lock = Lock()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._young.clear()
            self._old, self._used = {}, 0

    def keep(self, key: Any, value: Any) -> None:
        """Remember *value* for *key*, if it is not too large a part of the whole."""
        size = self._size(key, value) + _SLOT_BYTES
        # Not waiting: a signal handler may be in here while its own thread is.
        if size > self._half_bytes // 4 or not self._lock.acquire(blocking=False):
            return
        try:
            if key in self._young:
                return
            if self._used + size > self._half_bytes:
                self._old, self._used = dict(self._young), 0
                self._young.clear()
            self._young[key] = value
            self._used += size
        finally:
            self._lock.release()

    def _missing(self, key: Any) -> Any:
        value = self._old.get(key)
        if value is None:
            value = self._make(key)
        if value is not None:
            self.keep(key, value)
        return value


def size_of_texts(key: str, value: str) -> int:
    """The bytes of two strings."""
    return sys.getsizeof(key) + sys.getsizeof(value)
