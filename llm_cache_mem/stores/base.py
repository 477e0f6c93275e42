"""The seam between the cache and where its entries live: one small Protocol."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypedDict, runtime_checkable

from llm_cache_mem._util.clock import now
from llm_cache_mem.diagnostics.redaction import Rule
from llm_cache_mem.values.entry import PLAIN, Entry, Envelope

__all__ = [
    "NOTHING_REMOVED",
    "ONE_EVICTED",
    "LeasingStore",
    "ManyStore",
    "Removed",
    "Store",
    "StoreSettings",
    "keeps_recordings",
    "name_of",
]


class Removed(NamedTuple):
    """What a write removed to make room or in passing."""

    evicted: int = 0
    expired: int = 0


NOTHING_REMOVED = Removed()
ONE_EVICTED = Removed(evicted=1)  # ready-made: making one takes as long as the eviction itself


class Store(Protocol):
    """Keeps entries under keys (ASCII, no spaces, at most 250 bytes).

    Every method may be called from any thread and from a forked child. A method raises StoreError,
    and nothing else, when the engine behind it fails; the cache turns that into a miss or a dropped
    write. A store gives back what it holds, expired or not: freshness is the cache's business. An
    entry that cannot be read is deleted and reported as absent.

    A store may have two more attributes: ``slow_seconds``, after which the cache counts a read or a
    write as a failure, and ``name``, which logs call it by and which holds no secret.
    """

    @property
    def blocking(self) -> bool:
        """Whether calls wait for a disk or a network, so that async callers use a thread."""
        ...

    def get(self, key: str) -> Entry | None:
        """The entry under *key*; counts as a use of it for least-recently-used stores."""
        ...

    def put(self, key: str, entry: Entry) -> Removed:
        """Keep *entry* under *key*, replacing any other, and make room for it."""
        ...

    def delete(self, key: str, *, stored_at: float | None = None) -> bool:
        """Remove *key*, or only if its entry was stored at *stored_at*; whether it was there."""
        ...

    def clear(self, prefix: str = "") -> int:
        """Remove every key that begins with *prefix*; how many were removed."""
        ...

    def purge(self) -> int:
        """Remove every expired entry now; how many were removed."""
        ...

    def size(self, prefix: str = "") -> int:
        """How many keys begin with *prefix*."""
        ...

    def entries(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        """The keys that begin with *prefix*, with their entries, least recently used first, without
        using them."""
        ...

    def close(self) -> None:
        """Let go of files and connections; a second call does nothing."""
        ...


@runtime_checkable
class ManyStore(Store, Protocol):
    """A Store that reads or writes many entries in one round trip."""

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The entries under *keys*; those that are absent are left out."""
        ...

    def put_many(self, entries: Mapping[str, Entry]) -> Removed:
        """Keep *entries*, as so many calls of ``put`` would."""
        ...


@runtime_checkable
class LeasingStore(Store, Protocol):
    """A Store through which processes agree which of them makes a call."""

    def lease(self, key: str, token: str, seconds: float) -> bool:
        """Give *token* the lease of *key* for *seconds* from now, unless another token holds it;
        whether it has it.

        Who holds a lease and asks again prolongs it. A lease that nobody prolongs or releases ends
        by itself.
        """
        ...

    def release(self, key: str, token: str) -> None:
        """End the lease of *key*, if *token* holds it."""
        ...


def keeps_recordings(store: Store) -> bool:
    """Whether *store* says by its attribute ``records`` that caches keep requests in it, and that
    an entry only goes by name."""
    return getattr(store, "records", False) is True


def name_of(store: Store) -> str:
    """What logs and messages call *store*."""
    name = getattr(store, "name", None)
    return name if type(name) is str else type(store).__name__


class _Waiting(TypedDict, total=False):
    lock_timeout: float


class StoreSettings(NamedTuple):
    """What a store may be given when it is opened by a URL or a path; each takes what it needs.

    *envelope* is called only for stores that keep bytes. *redact* is for recordings, *policy*
    ("lru" or "sieve") for memory, *read_only* and *lock_timeout* for files; None is a store's own.
    """

    max_size: int | None = None
    max_bytes: int | None = None
    clock: Callable[[], float] = now
    envelope: Callable[[], Envelope] = lambda: PLAIN
    redact: Iterable[Rule] = ()
    policy: str = "lru"
    read_only: bool = False
    lock_timeout: float | None = None

    def waiting(self) -> _Waiting:
        """The keyword argument for how long to wait for others, if it is not left to the store."""
        return {} if self.lock_timeout is None else {"lock_timeout": self.lock_timeout}
