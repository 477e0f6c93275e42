"""A store in memory: an ordered dict under one lock, least recently used first."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from threading import RLock  # re-entrant: a signal handler may ask in the middle of it

from llm_cache_mem._util.clock import now
from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.stores.base import NOTHING_REMOVED, ONE_EVICTED, Removed
from llm_cache_mem.values.entry import Entry

__all__ = ["MemoryStore"]

_UNBOUNDED = float("inf")
_SWEEP = 4  # expired entries that one write removes at the most
_SLICE = 500  # keys that are looked at without letting others in
_TRIES = 3  # at a list of all keys, before others are made to wait for it


class MemoryStore:
    """A Store in the memory of one process.

    Args:
        max_size: The most entries; None is unbounded.
        max_bytes: The most bytes of keys and payloads; None is unbounded.
        clock: Unix seconds.
    """

    blocking = False
    name = "memory"
    counts_at_once = True

    def __init__(
        self,
        *,
        max_size: int | None = None,
        max_bytes: int | None = None,
        clock: Callable[[], float] = now,
    ) -> None:
        self._max_size = max_size
        self._max_bytes = max_bytes
        self._most_entries = _UNBOUNDED if max_size is None else max_size
        self._most_bytes = _UNBOUNDED if max_bytes is None else max_bytes
        self._clock = clock
        self._lock = RLock()
        self._changes = 0  # of which keys there are
        self._reset()
        reset_after_fork(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max_size={self._max_size}, max_bytes={self._max_bytes})"

    def _reset(self) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0  # counted only where they are bounded
        self._spaces: dict[str, int] = {}  # entries by what their keys have before the last colon

    def _after_fork(self) -> None:
        self._lock = RLock()

    def get(self, key: str) -> Entry | None:
        with self._lock:
            entries = self._entries
            entry = entries.get(key)
            if entry is not None:
                entries.move_to_end(key)
            return entry

    def put(self, key: str, entry: Entry) -> Removed:
        with self._lock:
            entries = self._entries
            if key in entries:
                self._remove(key)
            entries[key] = entry
            self._count(key, 1)
            if self._max_bytes is not None:
                self._bytes += len(key) + entry.size
            expires_at = entries[next(iter(entries))].expires_at
            expired = 0 if expires_at is None or expires_at > self._clock() else self._sweep()
            evicted = 0
            while len(entries) > self._most_entries or self._bytes > self._most_bytes:
                self._remove(next(iter(entries)))
                evicted += 1
        if expired or evicted > 1:
            return Removed(evicted, expired)
        return ONE_EVICTED if evicted else NOTHING_REMOVED

    def delete(self, key: str, *, stored_at: float | None = None) -> bool:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or (stored_at is not None and entry.stored_at != stored_at):
                return False
            self._remove(key)
            return True

    def clear(self, prefix: str = "") -> int:
        with self._lock:
            gone = self._entries if self.size(prefix) == len(self._entries) else None
            if gone is not None:
                self._changes += 1
                self._reset()
        if gone is None:
            return self._remove_all(lambda key, entry: key.startswith(prefix))
        count = len(gone)
        while gone:  # a million at once would keep all threads waiting
            gone.popitem()
        return count

    def purge(self) -> int:
        now = self._clock()
        return self._remove_all(lambda key, entry: entry.is_expired(now))

    def size(self, prefix: str = "") -> int:
        if not prefix:
            return len(self._entries)
        with self._lock:
            if prefix.endswith(":"):
                return sum(
                    count for space, count in self._spaces.items() if space.startswith(prefix)
                )
            return sum(key.startswith(prefix) for key in self._entries)

    def entries(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        with self._lock:
            listed = [key for key in self._in_order() if key.startswith(prefix)]
        return ((key, entry) for key in listed if (entry := self._entries.get(key)) is not None)

    def close(self) -> None:
        """Do nothing: entries live as long as the store."""

    def _sweep(self) -> int:
        """Remove a few expired entries from the least recently used end, where they collect."""
        entries, now = self._entries, self._clock()
        for removed in range(_SWEEP):
            oldest = next(iter(entries))
            expires_at = entries[oldest].expires_at
            if expires_at is None or expires_at > now or len(entries) == 1:
                return removed
            self._remove(oldest)
        return _SWEEP

    def _remove_all(self, is_meant: Callable[[str, Entry], bool]) -> int:
        """Remove those entries, some at a time, so that other threads do not wait long."""
        keys = self._all_keys()
        removed = 0
        while keys:
            with self._lock:
                for key in keys[-_SLICE:]:
                    entry = self._entries.get(key)
                    if entry is not None and is_meant(key, entry):
                        self._remove(key)
                        removed += 1
            del keys[-_SLICE:]
        return removed

    def _all_keys(self) -> list[str]:
        """All keys, in any order: that of use takes ten times as long. Taken some at a time, and at
        once only if others keep adding and removing entries meanwhile."""
        for _ in range(_TRIES):
            with self._lock:
                changes, left = self._changes, iter(dict.keys(self._entries))
            keys: list[str] = []
            while True:
                with self._lock:
                    if self._changes != changes:
                        break
                    try:
                        some = list(islice(left, _SLICE))
                    except RuntimeError:  # a signal handler came in between
                        break
                if not some:
                    return keys
                keys += some
        with self._lock:
            return list(dict.keys(self._entries))

    def _in_order(self) -> Iterable[str]:
        """All keys, the first to be evicted first."""
        return self._entries

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._count(key, -1)
        if self._max_bytes is not None:
            self._bytes -= len(key) + entry.size

    def _count(self, key: str, change: int) -> None:
        self._changes += 1
        space = key[: key.rfind(":") + 1]
        self._spaces[space] = count = self._spaces.get(space, 0) + change
        if not count:
            del self._spaces[space]
