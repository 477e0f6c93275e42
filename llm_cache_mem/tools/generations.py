"""Generations: a random token for each tool and entity, part of the keys of all results that depend
on it; a new token invalidates them all.

The tokens are stored beside the results, so they hold across processes and restarts. A token that
was deleted or evicted is replaced by a new one, which can cost a call but never brings back an old
result. A call takes its tokens before it runs: if its generation ends meanwhile, its result is
stored under a key that is never looked up.
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

_MIN_LIFETIME_SECONDS = 30 * 86400.0


class Generations:
    """The generations in *store*, under keys of *keyer*. Thread-safe; with *leases*, one process at
    a time makes a generation."""

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
        """The tokens of *names*, or None if the store fails, or if one is missing and *make* is
        false.

        *ttl_seconds* is the lifetime of the results that depend on them; tokens live longer.
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
        """End the generation of *name*; whether there was one. StoreError if the store fails, when
        nothing may have ended."""
        return self._store.delete(self._key(name))

    def end_later(self, name: Name | None) -> bool:
        """As ``end`` (None: as ``end_all``) without raising: until it succeeds, this process gets
        no tokens. Whether it has succeeded."""
        key = "" if name is None else self._key(name)
        self._overdue[key] = self.end_all if name is None else partial(self.end, name)
        return self._caught_up(key)

    def end_all(self) -> int:
        """End all generations; how many there were."""
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
        with self._lock:  # else the first callers would each make a generation
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
        now, expires_at = self._clock(), None
        if ttl_seconds is not None:
            expires_at = now + max(_MIN_LIFETIME_SECONDS, 8 * ttl_seconds)
        self._store.put(key, Entry(Payload.of(urandom(12).hex()), now, expires_at, cost_usd=0.0))
        return self._token(key)  # another process may have been later

    def _caught_up(self, key: str) -> bool:
        """Whether nothing is overdue for *key*, after another attempt."""
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
