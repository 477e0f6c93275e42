"""The Store protocol: what the cache asks of the place where its entries are."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from llm_cache_mem._util.clock import now
from llm_cache_mem.accounting.counts import Batch, EntryHits
from llm_cache_mem.values.entry import PLAIN, Entry, Envelope

if TYPE_CHECKING:  # only some stores keep totals, and only caches that store requests redact
    from llm_cache_mem.accounting.totals import StoreTotals
    from llm_cache_mem.diagnostics.redaction import Rule

__all__ = [
    "NOTHING_REMOVED",
    "ONE_EVICTED",
    "CountingStore",
    "LeasingStore",
    "ManyStore",
    "Removed",
    "Store",
    "StoreSettings",
    "counting",
    "keeps_recordings",
    "name_of",
]


class Removed(NamedTuple):
    """The number of entries that a write removed: to make room, and because they had expired."""

    evicted: int = 0
    expired: int = 0


NOTHING_REMOVED = Removed()
ONE_EVICTED = Removed(evicted=1)  # ready-made: making one takes as long as the eviction itself


class Store(Protocol):
    """Holds entries under keys (ASCII, no spaces, at most 250 bytes).

    Every method may be called from any thread and from a forked child. If the engine behind a
    method fails, it raises StoreError and nothing else; the cache turns that into a miss or a
    dropped write. A store returns expired entries too: the cache decides what is fresh. An entry
    that cannot be read is deleted and reported as absent.

    A store may have three more attributes: ``slow_seconds``, after which the cache counts a read or
    a write as a failure; ``name``, its name in logs, without a secret; and ``counts_at_once``,
    whether ``size`` takes no walk through the entries.
    """

    @property
    def blocking(self) -> bool:
        """Whether calls wait for a disk or a network; async callers then use a thread."""
        ...

    def get(self, key: str) -> Entry | None:
        """Return the entry under *key*, or None; for eviction this counts as a use."""
        ...

    def put(self, key: str, entry: Entry) -> Removed:
        """Store *entry* under *key*, replacing any other; evict others if there is no room."""
        ...

    def delete(self, key: str, *, stored_at: float | None = None) -> bool:
        """Remove *key*, with *stored_at* only an entry of that time; return whether it was
        there."""
        ...

    def clear(self, prefix: str = "") -> int:
        """Remove every key that begins with *prefix*; return how many."""
        ...

    def purge(self) -> int:
        """Remove every expired entry now; return how many."""
        ...

    def size(self, prefix: str = "") -> int:
        """Return the number of keys that begin with *prefix*."""
        ...

    def entries(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        """Yield the keys that begin with *prefix* and their entries, least recently used first;
        this does not count as a use."""
        ...

    def close(self) -> None:
        """Close files and connections; a second call does nothing."""
        ...


@runtime_checkable
class ManyStore(Store, Protocol):
    """A Store that reads or writes many entries in one round trip."""

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the entries under *keys*, without those that are absent."""
        ...

    def put_many(self, entries: Mapping[str, Entry]) -> Removed:
        """Store *entries*, as calls of ``put`` would."""
        ...


@runtime_checkable
class LeasingStore(Store, Protocol):
    """A Store that grants leases, so that one of several processes makes a call."""

    def lease(self, key: str, token: str, seconds: float) -> bool:
        """Give *token* the lease of *key* for *seconds* from now, unless another token holds it;
        return whether *token* holds it.

        The holder prolongs its lease by calling this again. A lease that is neither prolonged nor
        released expires.
        """
        ...

    def release(self, key: str, token: str) -> None:
        """End the lease of *key* if *token* holds it."""
        ...


@runtime_checkable
class CountingStore(Store, Protocol):
    """A Store that adds up what all processes count, and how often each entry was hit."""

    def add_counts(self, batch: Batch) -> None:
        """Add *batch*, all of it or nothing, and once even if it is handed in again."""
        ...

    def totals(self) -> "StoreTotals":
        """Return the sums of all batches."""
        ...

    def entry_hits(self, keys: Sequence[str]) -> dict[str, EntryHits]:
        """Return the hits of the entries under *keys*, without those that had none."""
        ...

    def reset_counts(self) -> None:
        """Begin again at zero, the hits of entries included."""
        ...


def counting(store: Store) -> CountingStore | None:
    """The store that keeps the totals of *store*, which may be the back of a tiered one; None if
    there are none."""
    store = getattr(store, "back", store)
    return store if isinstance(store, CountingStore) else None


def keeps_recordings(store: Store) -> bool:
    """Whether *store* holds recordings (its attribute ``records``): caches then store requests too,
    and remove entries only explicitly."""
    return getattr(store, "records", False) is True


def name_of(store: Store) -> str:
    """The name of *store* in logs and messages."""
    name = getattr(store, "name", None)
    return name if type(name) is str else type(store).__name__


class StoreSettings(NamedTuple):
    """What a store may be given when it is opened by a URL or a path; each takes what it needs.

    *envelope* is called only for stores that keep bytes. *redact* is for recordings, *policy*
    ("lru" or "sieve") for memory, *read_only* and *lock_timeout* for files; None is a store's own.
    """

    max_size: int | None = None
    max_bytes: int | None = None
    clock: Callable[[], float] = now
    envelope: Callable[[], Envelope] = lambda: PLAIN
    redact: "Iterable[Rule]" = ()
    policy: str = "lru"
    read_only: bool = False
    lock_timeout: float | None = None

    def waiting(self) -> dict[str, Any]:
        """The keyword argument for how long to wait for others, if it is not left to the store."""
        return {} if self.lock_timeout is None else {"lock_timeout": self.lock_timeout}
