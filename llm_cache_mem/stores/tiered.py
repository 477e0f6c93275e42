"""Memory in front of a shared store: repeated reads of one process are answered from memory.

Within a process both tiers always agree. An entry that another process deletes or replaces may be
served here for *front_seconds* more; not in front of SQLite, where a read can tell cheaply whether
another connection has written.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock  # re-entrant: a signal handler may ask in the middle of it
from time import monotonic
from typing import Any

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.options import Duration, to_seconds
from llm_cache_mem.stores.base import (
    NOTHING_REMOVED,
    LeasingStore,
    ManyStore,
    Removed,
    Store,
    keeps_recordings,
    name_of,
)
from llm_cache_mem.stores.memory import MemoryStore
from llm_cache_mem.values.entry import PLAIN, Entry, Envelope

__all__ = ["FRONT_SECONDS", "TieredStore"]

FRONT_SECONDS = 10.0


class _FrontEntry(Entry):
    """A copy of an entry of the back: valid *until* then (by the timer), while the mark is still
    *mark*."""

    __slots__ = ("mark", "until")

    def __init__(self, entry: Entry, until: float, mark: object) -> None:
        super().__init__(
            *(entry.payload, entry.stored_at, entry.expires_at, entry.model, entry.usage),
            *(entry.cost_usd, entry.seconds, entry.request, entry.tags),
            depends_on=entry.depends_on,
            generation=entry.generation,
        )
        self.until = until
        self.mark = mark


class TieredStore:
    """A Store that keeps in memory what it read from another store, or wrote to it, lately.

    Writes go to the back first; ``delete``, ``clear`` and ``purge`` reach both tiers; ``size`` and
    ``entries`` are those of the back. If the back fails, operations raise its error; ``peek`` still
    returns what is in front. If the back has a ``version()``, as SQLiteStore has, each read asks
    for it, and entries in front are valid only while it stays the same.

    Args:
        front: The memory.
        back: The store behind it, which other processes share.
        front_seconds: How long an entry stays valid in front.
        timer: Monotonic seconds.
    """

    def __new__(cls, front: MemoryStore, back: Store, **settings: Any) -> "TieredStore":
        leases = cls is TieredStore and isinstance(back, LeasingStore)  # it can what its back can
        return object.__new__(_LeasingTieredStore if leases else cls)

    def __init__(
        self,
        front: MemoryStore,
        back: Store,
        *,
        front_seconds: Duration = FRONT_SECONDS,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        if not isinstance(front, MemoryStore):
            raise TypeError(
                f"the front of a TieredStore is a MemoryStore, not {type(front).__name__}"
            )
        if (
            isinstance(back, MemoryStore | TieredStore)
            or not callable(getattr(back, "get", None))
            or not hasattr(back, "blocking")
        ):
            raise TypeError(
                "the back of a TieredStore is a store that is not memory itself, not"
                f" {type(back).__name__}"
            )
        seconds = to_seconds(front_seconds, "front_seconds")
        if seconds is None:
            raise ValueError(
                "front_seconds must be bounded: else entries that others delete would be served for"
                " ever"
            )
        self.front = front
        self.back = back
        self._front_seconds = seconds
        self._timer = timer
        self._version: Callable[[], object] | None = _method(back, "version")
        self._glance: Callable[[str], Entry | None] | None = _method(back, "glance")
        self._touch: Callable[[str], object] | None = _method(back, "touch")
        self._many = back if isinstance(back, ManyStore) else None
        self._writes = 0  # moves on with every write that is over
        self._losses = 0  # moves on when the back has evicted something
        self._lock = RLock()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = RLock()

    def __repr__(self) -> str:
        return f"TieredStore({self.front!r}, {self.back!r}, front_seconds={self._front_seconds:g})"

    # -- Properties of the back

    @property
    def name(self) -> str:
        return f"tiered:memory,{name_of(self.back)}"

    @property
    def blocking(self) -> bool:
        return self.back.blocking

    @property
    def counts_at_once(self) -> bool:
        return getattr(self.back, "counts_at_once", False) is True

    @property
    def envelope(self) -> Envelope:
        """The envelope of the back, in which entries leave this process."""
        return getattr(self.back, "envelope", PLAIN)

    @property
    def exact(self) -> Store:
        """The store in which changes by other processes show at once: this one if its back has a
        ``version()``, else the back."""
        return self if self._version is not None else self.back

    @property
    def slow_seconds(self) -> float | None:
        return getattr(self.back, "slow_seconds", None)

    @property
    def records(self) -> bool:
        return keeps_recordings(self.back)

    @property
    def unreadable(self) -> int:
        """The number of stored entries that could not be read."""
        return getattr(self.back, "unreadable", 0)

    # -- Reading

    def peek(self, key: str, *, offline: bool = False) -> Entry | None:
        """The entry under *key* if the back need not be asked; *offline*: or cannot be, and the
        entry is no older than it may be."""
        found = self.front.get(key)
        if type(found) is not _FrontEntry or self._timer() >= found.until:
            return None
        return found if offline or (self._version is None and found.mark == self._losses) else None

    def glance(self, key: str) -> Entry | None:
        """As that of the back, if it has one: the entry, if an event loop may wait for it."""
        return None if self._glance is None else self._glance(key)

    def get(self, key: str) -> Entry | None:
        mark = self._mark()
        found = self._front(key, mark)
        if found is None:
            writes = self._writes
            found = self.back.get(key)
            self._take(writes, mark, {key: found})
        return found

    @property
    def reads_on_loop(self) -> bool:
        """Whether the back has an ``aget``."""
        return getattr(self.back, "reads_on_loop", False)

    async def aget(self, key: str) -> Entry | None:
        """As ``get``, for a task of asyncio; what ``peek`` finds is not looked for again."""
        writes, mark = self._writes, self._mark()
        found: Entry | None = await self.back.aget(key)  # type: ignore[attr-defined]
        self._take(writes, mark, {key: found})
        return found

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """As ManyStore.get_many; the back is asked only for what is not in front."""
        mark = self._mark()
        wanted = dict.fromkeys(keys)
        found = {key: entry for key in wanted if (entry := self._front(key, mark)) is not None}
        rest = [key for key in wanted if key not in found]
        if rest:
            writes = self._writes
            got = self._get_many(rest)
            self._take(writes, mark, {key: got.get(key) for key in rest})
            found |= got
        return found

    def _get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        if self._many is not None:
            return self._many.get_many(keys)
        return {key: entry for key in keys if (entry := self.back.get(key)) is not None}

    def _mark(self) -> object:
        """What must be unchanged for entries in front to be valid. Raises what the back raises."""
        return self._losses if self._version is None else (self._losses, self._version())

    def _front(self, key: str, mark: object) -> Entry | None:
        found = self.front.get(key)
        if type(found) is not _FrontEntry or found.mark != mark or self._timer() >= found.until:
            return None
        if self._touch is not None:
            self._touch(key)
        return found

    def _take(self, writes: int, mark: object, found: Mapping[str, Entry | None]) -> None:
        """Put what the back returned into the front, unless a write has ended since *writes*.

        What the back does not have leaves the front in any case, or ``peek`` would still serve it.
        """
        until = self._timer() + self._front_seconds
        with self._lock:
            certain = writes == self._writes
            for key, entry in found.items():
                if entry is None:
                    self.front.delete(key)
                elif certain:
                    self.front.put(key, _FrontEntry(entry, until, mark))

    # -- Writing

    def put(self, key: str, entry: Entry) -> Removed:
        with self._writing({key: entry}) as told:
            removed = told(self.back.put(key, entry))
        return removed

    def put_many(self, entries: Mapping[str, Entry]) -> Removed:
        """As ManyStore.put_many."""
        with self._writing(entries) as told:
            if self._many is not None:
                return told(self._many.put_many(entries))
            removed = [self.back.put(key, entry) for key, entry in entries.items()]
            return told(
                Removed(*map(sum, zip(*removed, strict=True))) if removed else NOTHING_REMOVED
            )

    @contextmanager
    def _writing(self, entries: Mapping[str, Entry]) -> Iterator[Callable[[Removed], Removed]]:
        """Let the back write *entries*, then put them into the front; remove them from it if the
        write failed or another one ended meanwhile."""
        told: list[Removed] = []
        writes, mark = self._writes, None
        try:
            mark = self._mark()
        # then they cannot be brought to the front; the back will say so itself
        except Exception:  # noqa: BLE001
            writes = -1
        until = self._timer() + self._front_seconds

        def tell(removed: Removed) -> Removed:
            told.append(removed)
            return removed

        try:
            yield tell
        finally:
            with self._lock:
                certain = bool(told) and writes == self._writes
                self._writes += 1
                if told and (told[0].evicted or told[0].expired):
                    self._losses += 1
                for key, entry in entries.items():
                    if certain:
                        self.front.put(key, _FrontEntry(entry, until, mark))
                    else:
                        self.front.delete(key)

    def delete(self, key: str, *, stored_at: float | None = None) -> bool:
        with self._removing(lambda: self.front.delete(key)):
            return self.back.delete(key, stored_at=stored_at)

    def clear(self, prefix: str = "") -> int:
        with self._removing(lambda: self.front.clear(prefix)):
            return self.back.clear(prefix)

    def purge(self) -> int:
        with self._removing(self.front.purge):
            return self.back.purge()

    @contextmanager
    def _removing(self, from_front: Callable[[], object]) -> Iterator[None]:
        try:
            yield
        finally:  # even if the back fails: a miss costs only a read of the back
            with self._lock:
                self._writes += 1
                from_front()

    # -- The back

    def size(self, prefix: str = "") -> int:
        return self.back.size(prefix)

    def entries(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        return self.back.entries(prefix)

    def close(self) -> None:
        self.front.clear()
        self.back.close()


def _method(store: object, name: str) -> Any:
    """The method *name* of *store*, or None."""
    found = getattr(store, name, None)
    return found if callable(found) else None


class _LeasingTieredStore(TieredStore):
    """A TieredStore whose back grants leases."""

    def lease(self, key: str, token: str, seconds: float) -> bool:
        # a LeasingStore: __new__ saw to that
        return self.back.lease(key, token, seconds)  # type: ignore[attr-defined,no-any-return]

    def release(self, key: str, token: str) -> None:
        self.back.release(key, token)  # type: ignore[attr-defined]  # as above


_LeasingTieredStore.__name__ = TieredStore.__name__  # what logs and errors call it
