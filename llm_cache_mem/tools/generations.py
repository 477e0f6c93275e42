"""Generations: a random token for each tool and entity, part of the keys of all that depends on it;
a new one invalidates them all.

The tokens lie in the store beside the results, so they hold across processes and restarts. A token
that is gone, deleted or evicted, is made anew: what is forgotten here can cost a call, and never
bring back an old result. As a call takes its tokens along from before it began, a result that was
under way while its generation ended is stored where nobody looks.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from os import urandom
from threading import RLock
from typing import TYPE_CHECKING

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.errors import EntryUnreadable, StoreError
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.request import Keyer
from llm_cache_mem.stores.circuit_breaker import FailOpenStore
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

if TYPE_CHECKING:  # loaded by those who share calls
    from llm_cache_mem.engine.leases import Leases

__all__ = ["KIND", "Generations", "Name"]

KIND = "tool-generation"
Name = tuple[str, str]
"""``("tool", name)`` or ``("entity", name)``."""

_LEAST_SECONDS = 30 * 86400.0


class Generations:
    """The generations that *store* holds, under keys of *keyer*. Thread-safe; with *leases*,
    processes make each one in turn."""

    def __init__(
        self,
        store: FailOpenStore,
        keyer: Keyer,
        clock: Callable[[], float],
        leases: "Leases | None" = None,
    ) -> None:
        self._store = store
        self._leases = leases
        self._keyer = keyer
        self._clock = clock
        self._lock = RLock()
        self._overdue: dict[str, Callable[[], object]] = {}
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = RLock()

    def current(
        self, names: Iterable[Name], ttl_seconds: float | None, *, make: bool = True
    ) -> list[str] | None:
        """The tokens of *names*, made where there are none; None when that is not to be or the
        store fails.

        What depends on them lives for *ttl_seconds*: they live longer.
        """
        tokens = []
        for key in map(self._key, names):
            if self._overdue and not (self._caught_up(key) and self._caught_up("")):
                return None
            token = self._token(key) or (self._make(key, ttl_seconds) if make else None)
            if token is None:
                return None
            tokens.append(token)
        return tokens

    def end(self, name: Name) -> bool:
        """Begin a new generation of *name*; whether there was one. StoreError if the store fails:
        nothing is known to be gone."""
        return self._store.delete(self._key(name))

    def end_later(self, name: Name | None) -> bool:
        """As ``end`` (None: as ``end_all``) for who cannot raise: until it is done, this process
        gets no tokens. Whether it is done."""
        key = "" if name is None else self._key(name)
        self._overdue[key] = self.end_all if name is None else partial(self.end, name)
        return self._caught_up(key)

    def end_all(self) -> int:
        """Begin a new generation of everything; of how much."""
        return self._store.clear(self._keyer.prefix(KIND))

    def _key(self, name: Name) -> str:
        return self._keyer.place(KIND, _digest(name))

    def _token(self, key: str) -> str | None:
        entry = self._store.get(key)
        try:
            token = entry.payload.decode() if entry is not None else None
        except EntryUnreadable:
            return None
        return token if isinstance(token, str) else None

    def _make(self, key: str, ttl_seconds: float | None) -> str | None:
        with self._lock:  # or the first callers of all would each get a generation of their own
            token = self._token(key)
            if token is not None:
                return token
            if self._leases is None:
                return self._put(key, ttl_seconds)
            lease = self._leases.new(key)
            try:
                return lease.acquire(lambda: self._token(key)) or self._put(key, ttl_seconds)
            finally:
                lease.release()

    def _put(self, key: str, ttl_seconds: float | None) -> str | None:
        now = self._clock()
        expires_at = None if ttl_seconds is None else now + max(_LEAST_SECONDS, 8 * ttl_seconds)
        self._store.put(key, Entry(Payload.of(urandom(12).hex()), now, expires_at, cost_usd=0.0))
        return self._token(key)  # another process may have been later

    def _caught_up(self, key: str) -> bool:
        """Whether nothing is overdue for *key*, which is tried once more."""
        end = self._overdue.get(key)
        if end is not None:
            try:
                end()
            except StoreError:
                return False
            self._overdue.pop(key, None)
        return True


@lru_cache(maxsize=4096)
def _digest(name: Name) -> str:
    return digest.digest(None, dict([name]))
