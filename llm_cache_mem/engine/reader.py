"""Read through a cache: from a request to the fresh answer that a store holds for it, counted."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

from llm_cache_mem._util.in_thread import running_loop
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.diagnostics.misses import Misses
from llm_cache_mem.engine.generations import Generations
from llm_cache_mem.engine.settings import Settings
from llm_cache_mem.errors import CacheMissError, EntryUnreadable, ValueNotCacheable
from llm_cache_mem.keys.request import Request
from llm_cache_mem.options import Mode
from llm_cache_mem.stores import MemoryStore
from llm_cache_mem.stores.base import keeps_recordings
from llm_cache_mem.stores.fail_open import FailOpenStore
from llm_cache_mem.values.classes import named_in
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

__all__ = ["Hit", "Other", "Reader", "decoded", "reason_of", "same"]

T = TypeVar("T")

Defer = Callable[[Callable[[], None]], object]

_log = logging.getLogger(__name__)

_LARGE = 256 << 10  # bytes of a value that an event loop does not stop to decode


def _unverified(entry: Entry) -> None:
    pass


class Other(NamedTuple):
    """Another *request* whose stored answer may do: *decode* makes the answer of it, or None if it
    is none; *verify* makes its call again to verify a hit."""

    request: Request
    decode: Callable[[Any], Any]
    verify: Callable[[Entry], object] = _unverified


class Hit(NamedTuple):
    """A fresh answer from the cache: *value* is a new object each time, *age* is in seconds."""

    value: Any
    age: float
    entry: Entry
    other: Other | None = None
    """The request that it is the answer to, if that is another."""

    def __repr__(self) -> str:
        return f"Hit(age={self.age:.1f})"


def same(value: Any) -> Any:
    """Return *value*: encodes and decodes where the stored value is the response itself."""
    return value


class Reader:
    """Lookups of a cache in one store. Thread-safe."""

    def __init__(
        self,
        store: FailOpenStore,
        ledger: Ledger,
        settings: Settings,
        misses: Misses,
        explain: Callable[[Request], object],
        generations: Generations,
    ) -> None:
        self._store = store
        self._generations = generations
        self._ledger = ledger
        self._settings = settings
        self._misses = misses
        self._explain = explain
        self._recordings: str | None = (
            getattr(store.inner, "path", None) if keeps_recordings(store.inner) else None
        )
        # A dict in this process has no way to fail, so it needs no circuit breaker.
        self._get = store.inner.get if type(store.inner) is MemoryStore else store.get

    def lookup(
        self,
        request: Request,
        decode: Callable[[Any], Any] = same,
        other: Other | None = None,
        *,
        defer: Defer | None = None,
        get: Callable[[str], Entry | None] | None = None,
        took: float | None = None,
    ) -> Hit | None:
        """The fresh answer to *request*, or else to *other*, counted; None for a miss.

        *decode* makes the answer from the stored value. In mode ``replay`` age does not matter,
        and a miss raises CacheMissError; StoreError if the store fails. *defer* is given a function
        that counts the miss, or raises it, instead of that being done. *get* hands out what was
        read before, in *took* seconds, in place of the store.
        """
        mode = self._settings.current_mode()
        if mode == "off":
            return None
        if mode == "replay":
            get = self._store.get_or_raise
        get = get or self._get
        began = perf_counter() if self._ledger.listeners and took is None else None
        if request.depends_on is not None:
            ttl = self._settings.current_ttl()
            self._generations.begin(request, ttl, make=mode != "replay")
        entry = None if mode == "refresh" else get(request.key)
        if entry is None and request.older and mode != "refresh":
            request, entry = _get_older(request, get)
        took = took if began is None else perf_counter() - began
        if entry is not None:
            hit = self.read(request, entry, decode, any_age=mode == "replay")
            if hit is not None:
                self._ledger.hit(request.key, entry, request.tags, took)
                return hit
        if other is not None and mode != "refresh" and (found := get(other.request.key)):
            hit = self.read(other.request, found, other.decode, any_age=mode == "replay")
            if hit is not None and hit.value is not None:
                self._ledger.hit(other.request.key, found, request.tags, took)
                return hit._replace(other=other)
        if defer is not None:
            defer(partial(self._count_miss, request, mode, entry, took))
            return None
        self._count_miss(request, mode, entry, took)
        return None

    def lookup_many(
        self,
        requests: Sequence[Request],
        decode: Callable[[Any], Any] = same,
        *,
        defer: Defer | None = None,
    ) -> list[Hit | None]:
        """``lookup`` of each, in one round trip where the store can do that."""
        if self._settings.current_mode() != "on":
            return [self.lookup(request, decode, defer=defer) for request in requests]
        keys = [key for request in requests for key in (request.key, *request.older)]
        began = perf_counter()
        found = self._store.get_many(keys)
        took = (perf_counter() - began) / max(1, len(requests))
        return [
            self.lookup(request, decode, defer=defer, get=found.get, took=took)
            for request in requests
        ]

    async def alookup(
        self,
        request: Request,
        decode: Callable[[Any], Any] = same,
        other: Other | None = None,
        *,
        defer: Defer | None = None,
    ) -> Hit | None:
        """``lookup``, in a thread where the store would block the event loop."""
        if not self._store.blocking:
            return self.lookup(request, decode, other, defer=defer)
        if self._is_plain(request):
            entry = self._glance(request.key)
            if entry is not None:
                return self.lookup_in(entry, request, decode, defer=defer)
            if self._store.reads_on_loop and running_loop() is not None:
                return await self._lookup_on_loop(request, decode, other, defer)
        return await self._store.off_loop(lambda: self.lookup(request, decode, other, defer=defer))

    async def _lookup_on_loop(
        self,
        request: Request,
        decode: Callable[[Any], Any],
        other: Other | None,
        defer: Defer | None,
    ) -> Hit | None:
        """``alookup`` that needs a thread only where more has to be done than to read one entry."""
        began = perf_counter() if self._ledger.listeners else None
        entry = await self._store.aget(request.key)
        took = None if began is None else perf_counter() - began

        def lookup() -> Hit | None:
            return self.lookup(request, decode, other, defer=defer, get=get, took=took)

        def get(key: str) -> Entry | None:
            return entry if key == request.key else self._get(key)

        if entry is None:
            is_all = other is None and not request.older
        else:
            is_all = self._is_ready(entry) and entry.payload.size <= _LARGE
        return lookup() if is_all else await self._store.off_loop(lookup)

    def glance(self, request: Request) -> Entry | None:
        """The fresh entry for *request*, if an event loop may wait for it; None says nothing."""
        return self._glance(request.key) if self._is_plain(request) else None

    def _glance(self, key: str) -> Entry | None:
        entry = self._store.peek(key) or self._store.glance(key)
        return entry if entry is not None and self._is_ready(entry) else None

    def _is_plain(self, request: Request) -> bool:
        """Whether to look *request* up is no more than to read its entry."""
        return request.depends_on is None and self._settings.current_mode() == "on"

    def _is_ready(self, entry: Entry) -> bool:
        """Whether *entry* is an answer without asking the store for more: for the generations that
        it depends on, or to remove it because it is stale."""
        return not entry.depends_on and self._settings.is_fresh(entry, self._settings.clock())

    def lookup_in(
        self,
        entry: Entry,
        request: Request,
        decode: Callable[[Any], Any] = same,
        *,
        defer: Defer | None = None,
    ) -> Hit | None:
        """``lookup`` where *entry* is what ``glance`` found."""
        return self.lookup(request, decode, defer=defer, get=lambda key: entry)

    async def alookup_many(
        self,
        requests: Sequence[Request],
        decode: Callable[[Any], Any] = same,
        *,
        defer: Defer | None = None,
    ) -> list[Hit | None]:
        """``lookup_many``, in a thread where the store would block the event loop."""
        return await self._store.off_loop(lambda: self.lookup_many(requests, decode, defer=defer))

    def recheck(self, request: Request) -> Entry | None:
        """The fresh entry that another caller stored since this one missed; not counted."""
        if self._settings.current_mode() != "on":
            return None
        entry = self._get(request.key)
        if entry is None or not self._settings.is_fresh(entry, self._settings.clock()):
            return None
        return entry if self._generations.allow(request, entry) else None

    def recheck_many(self, requests: Sequence[Request]) -> list[Entry | None]:
        """``recheck`` of each, in one round trip where the store can do that."""
        if self._settings.current_mode() != "on":
            return [None] * len(requests)
        found = self._store.get_many([request.key for request in requests])
        now = self._settings.clock()
        return [
            entry
            if (entry := found.get(request.key)) is not None
            and self._settings.is_fresh(entry, now)
            and self._generations.allow(request, entry)
            else None
            for request in requests
        ]

    def read(
        self,
        request: Request,
        entry: Entry,
        decode: Callable[[Any], Any] = same,
        *,
        any_age: bool = False,
    ) -> Hit | None:
        """The answer in *entry*, or None if it is stale or cannot be read."""
        now = self._settings.clock()
        if not (self._settings.is_fresh(entry, now) or any_age):
            if entry.is_expired(now):  # else a reader with a longer ttl may still want it
                self._store.discard(request.key, entry.stored_at)
            self._ledger.expired(request.key)
            return None
        if (entry.depends_on or request.depends_on is not None) and not self._generations.allow(
            request, entry
        ):
            return None
        try:
            payload = entry.payload
            value = payload.decode() if payload.is_plain else decoded(payload, request)
            return Hit(value if decode is same else decode(value), now - entry.stored_at, entry)
        # whatever is stored there, the caller can still call the model
        except Exception as exc:  # noqa: BLE001
            self._unreadable(request, entry, exc, any_age=any_age)
            return None

    def _count_miss(
        self, request: Request, mode: Mode, entry: Entry | None, took: float | None
    ) -> None:
        """Count a miss; in mode ``replay`` raise it."""
        self._ledger.miss(request.key, request.model, request.tags, took)
        if request.text is not None:
            self._note_miss(request, mode, entry)
        if mode == "replay":
            raise CacheMissError(request.key, self._why(request), where=self._recordings)

    def _why(self, request: Request) -> object:
        """Why *request* missed, in a cache that stores requests."""
        if self._settings.redaction is None:
            return None
        try:
            return self._explain(request)
        except Exception:  # noqa: BLE001  # the miss is what the caller has to hear of
            return None

    def _note_miss(self, request: Request, mode: Mode, entry: Entry | None) -> None:
        now, state = self._settings.clock(), "absent"
        if mode == "refresh":
            state = "refreshed"
        elif entry is not None:
            state = self._state(request, entry, now)
        self._misses.add(request, now, state)

    def _state(self, request: Request, entry: Entry, now: float) -> str:
        """Why *entry* did not answer *request*, as in Explanation."""
        if not self._settings.is_fresh(entry, now):
            return "expired"
        return "unreadable" if self._generations.allow(request, entry) else "invalidated"

    def _unreadable(self, request: Request, entry: Entry, exc: Exception, *, any_age: bool) -> None:
        """Count an *entry* that cannot be read, and delete it unless another process may read
        it."""
        self._ledger.error("read")
        if any_age:
            self._ledger.miss(request.key, request.model, request.tags)
            raise CacheMissError(
                request.key, unreadable=reason_of(exc), where=self._recordings
            ) from exc
        if not (isinstance(exc, EntryUnreadable) and exc.newer):
            self._store.discard(request.key, entry.stored_at)
        if self._ledger.skip("unreadable"):
            _log.warning("a stored answer cannot be read, so it is a miss: %s", reason_of(exc))


def decoded(payload: Payload, request: Request) -> Any:
    """The value of *payload*, with instances of the classes that *request* names, or else of those
    registered last."""
    if payload.is_plain:
        return payload.decode()
    with named_in(request.params):
        return payload.decode()


def _get_older(
    request: Request, get: Callable[[str], Entry | None]
) -> tuple[Request, Entry | None]:
    """The entry from before the encryption key was changed, and the request under its key."""
    for key in request.older:
        entry = get(key)
        if entry is not None:
            return request._replace(key=key), entry
    return request, None


def reason_of(exc: Exception) -> str:
    """What may be logged of *exc*: our own errors hold no content, others might."""
    return str(exc) if isinstance(exc, (EntryUnreadable, ValueNotCacheable)) else type(exc).__name__
