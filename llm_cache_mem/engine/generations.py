"""Generations: a random token for each name that answers depend on; a new token invalidates them
all, however many there are.

Names are of documents and other entities, and of tools. The tokens are stored beside the answers,
so they hold across processes and restarts. An entry has the names that it depends on and a mark of
their tokens, and is valid for as long as these are the same. A token that was deleted or evicted is
replaced by a new one, which can cost a call but never brings back an old answer. A call takes its
mark before it begins: an answer that was overtaken by an invalidation is not stored, and would be
invalid if it were.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from hashlib import sha256
from os import urandom
from threading import RLock
from typing import TYPE_CHECKING

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.errors import EntryUnreadable, StoreError
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.request import Keyer, Request
from llm_cache_mem.stores.fail_open import FailOpenStore
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

if TYPE_CHECKING:  # loaded by those who share calls
    from llm_cache_mem.engine.leases import Leases

__all__ = ["KIND", "Generations", "generation_of_tool"]

KIND = "generation"

_EVERYWHERE = digest.prefix("")
_MIN_LIFETIME_SECONDS = 30 * 86400.0


def generation_of_tool(tool: str) -> str:
    """The name on which all results of *tool* depend; no document can have it."""
    return f"tool\n{tool}"


class Generations:
    """The generations in *store*, under keys of *keyer*. Thread-safe; with *leases*, one process at
    a time makes a generation.

    A name has a generation in each namespace. Ending that of the empty namespace ends them all.
    """

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

    # -- What an engine asks

    def begin(self, request: Request, ttl_seconds: float | None, *, make: bool = True) -> None:
        """Note in *request* the generations in which its call begins, made if there are none yet
        and *make* says so. *ttl_seconds* is the lifetime of its answer; tokens live longer."""
        needs = request.depends_on
        if needs is not None:
            needs.mark = self._mark(request.key, needs.names, ttl_seconds, make=make)

    def allow(self, request: Request, entry: Entry) -> bool:
        """Whether *entry* may answer *request*: it depends on all that the request does, and
        nothing of it was invalidated since."""
        needs = request.depends_on
        if needs is not None:
            if not needs.covered_by(entry.depends_on):
                return False
            if needs.names == entry.depends_on and needs.mark == entry.generation:
                return needs.mark is not None
        return not entry.depends_on or self.holds(request.key, entry)

    def holds(self, key: str, entry: Entry) -> bool:
        """Whether nothing that *entry*, under *key*, depends on was invalidated since."""
        return entry.generation == self._mark(key, entry.depends_on, None, make=False)

    def overtaken(self, request: Request) -> str | None:
        """Why the answer to *request* is not to be stored: something that it depends on was
        invalidated since the call began, or that cannot be told; None if it may be stored."""
        needs = request.depends_on
        if needs is None:
            return None
        if needs.mark is None:
            return "generation"
        same = needs.mark == self._mark(request.key, needs.names, None, make=False)
        return None if same else "invalidated"

    # -- Invalidation

    def end(self, name: str) -> bool:
        """End the generation of *name*; whether there was one. StoreError if the store fails, when
        nothing may have ended."""
        return self._end(self._keys(self._keyer.prefix(), name, everywhere=False))

    def end_later(self, name: str | None) -> bool:
        """As ``end`` (None: as ``end_all``) without raising: until it succeeds, this process takes
        no answer for valid that depends on it. Whether it has succeeded."""
        prefix = self._keyer.prefix(KIND)
        if name is None:
            self._overdue[""] = partial(self._store.clear, prefix)
            return self._caught_up([""])
        keys = self._keys(self._keyer.prefix(), name, everywhere=False)
        self._overdue[keys[0]] = partial(self._end, keys)
        return self._caught_up(keys)

    def end_all(self) -> int:
        """End all generations of this namespace; how many there were."""
        return self._store.clear(self._keyer.prefix(KIND))

    # -- Inside

    def _end(self, keys: Sequence[str]) -> bool:
        ended = [self._store.delete(key) for key in keys]
        return any(ended)

    def _keys(self, prefix: str, name: str, *, everywhere: bool = True) -> list[str]:
        """Under which keys the tokens of *name* are that count in the namespace with this
        *prefix*, also those of earlier encryption keys: another process may have no other."""
        prefixes = [prefix, _EVERYWHERE] if everywhere and prefix != _EVERYWHERE else [prefix]
        digests = self._keyer.stored_digests(_digest(name))
        return [f"{each}{KIND}:{hexdigest}" for each in prefixes for hexdigest in digests]

    def _mark(
        self, key: str, names: Iterable[str], ttl_seconds: float | None, *, make: bool
    ) -> str | None:
        """A digest of the tokens of *names* in the namespace of *key*; None if the store fails,
        or if one is missing and *make* is false."""
        prefix = digest.namespace_prefix(key)
        keys = [place for name in names for place in self._keys(prefix, name)]
        if self._overdue and not self._caught_up([*keys, ""]):
            return None
        found = self._store.get_many(keys)
        tokens = []
        for each in keys:
            token = _token_in(found.get(each)) or (self._make(each, ttl_seconds) if make else None)
            if token is None:
                return None
            tokens.append(token)
        return sha256("".join(tokens).encode()).hexdigest()[:24]

    def _token(self, key: str) -> str | None:
        return _token_in(self._store.get(key))

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

    def _caught_up(self, keys: Iterable[str]) -> bool:
        """Whether nothing is overdue for *keys*, after another attempt."""
        for key in keys:
            end = self._overdue.get(key)
            if end is not None:
                try:
                    end()
                except StoreError:
                    return False
                self._overdue.pop(key, None)
        return True


def _token_in(entry: Entry | None) -> str | None:
    try:
        token = entry.payload.decode() if entry is not None else None
    except EntryUnreadable:
        return None
    return token if isinstance(token, str) else None


@lru_cache(maxsize=4096)
def _digest(name: str) -> str:
    return digest.digest(None, {"depends_on": name})
