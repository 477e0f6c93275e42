"""Entries in this process, evicted by SIEVE: what was asked for again outlives what was asked for
once, which LRU lets push it out."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from time import time

from llm_cache_mem.stores.base import NOTHING_REMOVED, Removed
from llm_cache_mem.stores.memory import MemoryStore
from llm_cache_mem.values.entry import Entry

__all__ = ["SieveStore"]


class SieveStore(MemoryStore):
    """A MemoryStore with another order of leaving (Zhang et al., NSDI 2024).

    The keys stand in a queue, the newest last. A hand goes through it from the oldest on and round
    again: a key that was asked for since it last came by stays where it is; the first that was not
    goes. The queue is kept in two parts, before and behind the hand.
    """

    def __init__(
        self,
        *,
        max_size: int | None = None,
        max_bytes: int | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        super().__init__(max_size=max_size, max_bytes=max_bytes, clock=clock)
        self._ahead: OrderedDict[str, None] = OrderedDict()
        self._behind: OrderedDict[str, None] = OrderedDict()
        self._asked_for: set[str] = set()

    def get(self, key: str) -> Entry | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._asked_for.add(key)
            return entry

    def put(self, key: str, entry: Entry) -> Removed:
        with self._lock:
            old = self._entries.pop(key, None)
            if old is not None:
                self._asked_for.add(key)
            self._entries[key] = entry
            if self._max_bytes is not None:
                self._bytes += entry.size - old.size if old is not None else len(key) + entry.size
            expired = self._sweep()
            evicted = 0
            while len(self._entries) > self._most_entries or self._bytes > self._most_bytes:
                self._remove(self._next() or key)
                evicted += 1
            if (
                old is None and key in self._entries
            ):  # only now: what is new is not looked at by the hand that makes room for it
                self._turn_round()
                self._ahead[key] = None
        return Removed(evicted, expired) if evicted or expired else NOTHING_REMOVED

    def entries(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        """In the order in which the hand comes to them."""
        with self._lock:
            listed = [
                (key, self._entries[key])
                for part in (self._ahead, self._behind)
                for key in part
                if key.startswith(prefix)
            ]
        return iter(listed)

    def _next(self) -> str | None:
        """The key that is to go; None if there is none in the queue."""
        while True:
            self._turn_round()
            key = next(iter(self._ahead), None)
            if key is None:
                return None
            if key not in self._asked_for:
                return key
            self._asked_for.discard(key)
            del self._ahead[key]
            self._behind[key] = None

    def _turn_round(self) -> None:
        """Let the hand that has come past the newest begin again at the oldest."""
        if not self._ahead:
            self._ahead, self._behind = self._behind, self._ahead

    def _remove(self, key: str) -> None:
        super()._remove(key)
        self._asked_for.discard(key)
        if key in self._ahead:
            del self._ahead[key]
        else:
            self._behind.pop(key, None)
