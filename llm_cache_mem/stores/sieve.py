"""Entries in this process, evicted by SIEVE: a key that was read again outlives keys that were read
once, which under LRU would push it out."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import chain

from llm_cache_mem._util.clock import now
from llm_cache_mem.stores.base import NOTHING_REMOVED, ONE_EVICTED, Removed
from llm_cache_mem.stores.memory import MemoryStore
from llm_cache_mem.values.entry import Entry

__all__ = ["SieveStore"]


class SieveStore(MemoryStore):
    """A MemoryStore that evicts by SIEVE (Zhang et al., NSDI 2024).

    Keys stand in a queue in the order of their insertion. A hand moves from the oldest key to the
    newest and starts over: it passes over keys that were read since it last came by, and evicts the
    first that was not. The queue is kept in two parts, ahead of the hand and behind it.
    """

    def __init__(
        self,
        *,
        max_size: int | None = None,
        max_bytes: int | None = None,
        clock: Callable[[], float] = now,
    ) -> None:
        super().__init__(max_size=max_size, max_bytes=max_bytes, clock=clock)

    def _reset(self) -> None:
        super()._reset()
        self._ahead: OrderedDict[str, None] = OrderedDict()
        self._behind: OrderedDict[str, None] = OrderedDict()
        self._visited: set[str] = set()

    def get(self, key: str) -> Entry | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._visited.add(key)
            return entry

    def put(self, key: str, entry: Entry) -> Removed:
        with self._lock:
            entries = self._entries
            old = entries.pop(key, None)
            if old is not None:
                self._visited.add(key)
            else:
                self._count(key, 1)
            entries[key] = entry
            if self._max_bytes is not None:
                self._bytes += entry.size - old.size if old is not None else len(key) + entry.size
            expired = self._sweep()
            evicted = 0
            while len(entries) > self._most_entries or self._bytes > self._most_bytes:
                super()._remove(self._take_victim() or key)
                evicted += 1
            # A new key joins the queue last: the hand that makes room for it must not pass over it.
            if old is None and key in entries:
                self._wrap_around()
                self._ahead[key] = None
        if expired or evicted > 1:
            return Removed(evicted, expired)
        return ONE_EVICTED if evicted else NOTHING_REMOVED

    def _in_order(self) -> Iterable[str]:
        """As the hand reaches them."""
        return chain(self._ahead, self._behind)

    def _take_victim(self) -> str | None:
        """Move the hand to the key to evict and take that key out of the queue; None: it is
        empty."""
        while True:
            self._wrap_around()
            if not self._ahead:
                return None
            key, _ = self._ahead.popitem(last=False)
            if key not in self._visited:
                return key
            self._visited.discard(key)
            self._behind[key] = None

    def _wrap_around(self) -> None:
        """Send a hand that has passed the newest key back to the oldest."""
        if not self._ahead:
            self._ahead, self._behind = self._behind, self._ahead

    def _remove(self, key: str) -> None:
        super()._remove(key)
        self._visited.discard(key)
        if key in self._ahead:
            del self._ahead[key]
        else:
            self._behind.pop(key, None)
