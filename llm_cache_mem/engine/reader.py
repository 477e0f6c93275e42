"""Reading through a cache: from a request to the fresh answer that a store holds for it,
counted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

from llm_cache_mem._util import log
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.diagnostics.misses import Misses
from llm_cache_mem.errors import (
    CacheMissError,
    EntryUnreadable,
    RequestNotCacheable,
    ValueNotCacheable,
)
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.request import Keyer, Request
from llm_cache_mem.options import UNSET, Mode, current
from llm_cache_mem.responses import usage
from llm_cache_mem.stores import MemoryStore
from llm_cache_mem.stores.base import keeps_recordings
from llm_cache_mem.stores.circuit_breaker import FailOpenStore
from llm_cache_mem.values.entry import Entry

if TYPE_CHECKING:  # only caches that need them load them
    from llm_cache_mem.diagnostics.explain import Explanation

__all__ = ["Hit", "Reader", "Settings", "reason_of", "register_classes", "same"]

T = TypeVar("T")

_FUTURE_SECONDS = 60.0  # an entry from further ahead was written by a clock that is wrong: a miss


class _Redacts(Protocol):
    """A Redaction. (For a name in quotes a NamedTuple starts the compiler, which takes 3 ms.)"""

    def json(self, text: str, /) -> bytes: ...


class Settings(NamedTuple):
    """What an Engine works by, checked and resolved."""

    ttl_seconds: float | None
    max_bytes: int | None
    mode: Mode
    admit: Callable[[Any], str | None]
    own_admit: bool
    price: Callable[[str, usage.Usage], float | None]
    coalesce: bool | Literal["fleet"]
    wait_seconds: float
    strict: bool
    clock: Callable[[], float]
    redaction: _Redacts | None = None
    """For caches that keep requests: what is taken out of them before."""


class Hit(NamedTuple):
    """A fresh answer from the cache: *value* is a new object each time, *age* is in seconds."""

    value: Any
    age: float
    entry: Entry

    def __repr__(self) -> str:
        return f"Hit(age={self.age:.1f})"


def same(value: Any) -> Any:
    """*value*: what ``load`` and ``dump`` are where the stored value is the response itself."""
    return value


class Reader:
    """Requests, freshness, modes and misses of a cache on one store. Thread-safe."""

    def __init__(
        self, store: FailOpenStore, keyer: Keyer, ledger: Ledger, settings: Settings
    ) -> None:
        self._store = store
        self._keyer = keyer
        self._ledger = ledger
        self._settings = settings
        self._clock = settings.clock
        self._ttl_seconds = settings.ttl_seconds
        self._default_mode = settings.mode
        self._misses = Misses()
        self._recordings: str | None = (
            getattr(store.inner, "path", None) if keeps_recordings(store.inner) else None
        )
        # A dict in this process has no way to fail, so it needs no guard.
        self._in_memory = type(store.inner) is MemoryStore
        self._fetch, self._put = (
            (store.inner.get, store.inner.put) if self._in_memory else (store.get, store.put)
        )

    @property
    def ledger(self) -> Ledger:
        """The counters, for those who see calls that do not pass through the cache."""
        return self._ledger

    @property
    def is_off(self) -> bool:
        """Whether calls in this context go past the cache."""
        return self._mode() == "off"

    @property
    def is_replay(self) -> bool:
        """Whether calls in this context may only be answered from the cache: what cannot be is to
        raise."""
        return self._mode() == "replay"

    @property
    def keeps_requests(self) -> bool:
        """Whether requests are stored beside their answers, so that misses can be explained."""
        return self._keyer.keeps

    def request(self, messages: Any, params: Mapping[str, Any], *, kind: str = "value") -> Request:
        """The request and the key of its entry among those of *kind*. RequestNotCacheable if it has
        no single wire form."""
        return self._keyer.request(messages, params, kind)

    def request_or_none(
        self, messages: Any, params: Mapping[str, Any], *, kind: str = "value"
    ) -> Request | None:
        """As ``request``; None says: call without the cache. A request that has no key is counted
        as skipped.

        In mode ``replay``, where nothing may be called, RequestNotCacheable is raised after all.
        """
        if self._mode() == "off":
            return None
        try:
            return self._keyer.request(messages, params, kind)
        except RequestNotCacheable as exc:
            if self._mode() == "replay":  # nothing leaves the process
                raise
            self.bypass("request", "a call goes uncached: %s", exc)
            return None

    def bypass(self, reason: str, text: str = "a call goes uncached: %s", *args: object) -> None:
        """Count a call that is let through uncached as skipped for *reason*, and log the first of
        each."""
        if self._ledger.skip(reason):
            log.warning(__name__, text, *(args or (reason,)))

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """The stored keys of this namespace with their entries, least recently used first.
        StoreError if they cannot be listed."""
        return self._store.entries(self._keyer.prefix())

    def explanation(self, request: Request, *, until: float | None = None) -> "Explanation":
        """What stands between *request* and an answer stored *until* then (None: now). Counts
        nothing. StoreError if the store fails."""
        from llm_cache_mem.diagnostics.explain import (
            StoredRequest,
            explain,
        )  # only misses that somebody asks about need it
        from llm_cache_mem.diagnostics.redaction import Redaction

        state, entry = "absent", self._store.get_or_raise(request.key)
        if entry is not None:
            try:
                entry.payload.thaw()
                state = "fresh" if self._is_fresh(entry, self._clock()) else "expired"
            except EntryUnreadable:
                state = "unreadable"
        redaction = self._settings.redaction or Redaction()
        kept = request.kept or self._keyer.kept(request.messages, request.params)
        asked = StoredRequest.from_key(request.key, redaction.json(kept))
        listed = self._store.entries(digest.prefix(digest.parse(request.key).namespace))
        others = (
            (key, one)
            for key, one in listed
            if key != request.key and (until is None or one.stored_at <= until)
        )
        found = explain(
            asked,
            (StoredRequest.from_key(key, one.request) for key, one in others),
            self._keyer.hashed,
        )
        return found._replace(state=state)

    def explanations(self, most: int) -> "list[Explanation]":
        """Why the last lookups that found nothing did so, the latest first, at most *most*; as
        ``explanation`` otherwise."""
        found = []
        for miss in self._misses.last(most):
            state, reason = self._misses.cause(miss)
            found.append(
                self.explanation(miss.request, until=miss.at)._replace(state=state, reason=reason)
            )
        return found

    def lookup(self, request: Request, load: Callable[[Any], Any] = same) -> Hit | None:
        """The fresh answer to *request*, if there is one and it may be read; counted. *load* makes
        it from the stored value.

        In mode ``replay`` age does not matter, and CacheMissError says that there is none;
        StoreError, that nobody can tell.
        """
        return self._lookup(request, load, self._fetch)

    def lookup_many(
        self, requests: Sequence[Request], load: Callable[[Any], Any] = same
    ) -> list[Hit | None]:
        """``lookup`` of each, in one round trip where the store can do that."""
        if self._mode() != "on":
            return [self.lookup(request, load) for request in requests]
        held = self._store.get_many(
            [key for request in requests for key in (request.key, *request.older)]
        )
        return [self._lookup(request, load, held.get) for request in requests]

    def recall(self, messages: Any, params: Mapping[str, Any], default: Any) -> Any:
        """The value that ``lookup(request(messages, params))`` finds, or *default*; the usual hit
        or miss takes a shorter way to it."""
        key = self._keyer.usual_key(messages, params) if self._default_mode == "on" else None
        if key is not None:
            entry = self._fetch(key)
            if entry is None:
                model = params.get("model")
                self._ledger.miss(key, model if isinstance(model, str) else None)
                return default
            now, expires_at, ttl = self._clock(), entry.expires_at, self._ttl_seconds
            if (
                (expires_at is None or now < expires_at)
                and (ttl is None or now - entry.stored_at < ttl)
                and entry.stored_at <= now
            ):
                try:
                    value = entry.payload.thaw()
                except EntryUnreadable:
                    pass  # the long way finds out what it means
                else:
                    self._ledger.hit(key, entry)
                    return value
        hit = self.lookup(self.request(messages, params))
        return default if hit is None else hit.value

    async def alookup(self, request: Request, load: Callable[[Any], Any] = same) -> Hit | None:
        """As ``lookup``, in a thread where it would wait."""
        if not self._store.blocking:
            return self.lookup(request, load)
        held = self._store.peek(request.key)
        if held is not None:
            return self._lookup(request, load, lambda key: held)
        return await self._off_loop(lambda: self.lookup(request, load))

    async def alookup_many(
        self, requests: Sequence[Request], load: Callable[[Any], Any] = same
    ) -> list[Hit | None]:
        """As ``lookup_many``, in a thread where it would wait."""
        return await self._off_loop(lambda: self.lookup_many(requests, load))

    # -- Inside: modes and freshness

    def _mode(self) -> Mode:
        return current().mode or self._default_mode  # type: ignore[return-value]  # UNSET is falsy

    def _ttl(self) -> float | None:
        asked = current().ttl_seconds
        # UNSET is the only Unset
        return self._ttl_seconds if asked is UNSET else asked  # type: ignore[return-value]

    def _is_fresh(self, entry: Entry, now: float) -> bool:
        """Whether the entry's own expiry and this reader's ttl both allow it: the stricter wins."""
        expires_at, age, ttl = entry.expires_at, now - entry.stored_at, self._ttl()
        return (
            (expires_at is None or now < expires_at)
            and (ttl is None or age < ttl)
            and age >= -_FUTURE_SECONDS
        )

    # -- Inside: reading

    def _lookup(
        self, request: Request, load: Callable[[Any], Any], fetch: Callable[[str], Entry | None]
    ) -> Hit | None:
        mode = self._mode()
        if mode == "off":
            return None
        fetch = self._store.get_or_raise if mode == "replay" else fetch
        entry = None if mode == "refresh" else fetch(request.key)
        if request.older and entry is None and mode != "refresh":
            request, entry = self._fetch_older(request, fetch)
        if entry is not None:
            hit = self._read(request, entry, load, replay=mode == "replay")
            if hit is not None:
                self._ledger.hit(request.key, entry)
                return hit
        self._ledger.miss(request.key, request.model)
        if request.kept is not None:
            self._note_miss(request, mode, entry)
        if mode == "replay":
            raise CacheMissError(request.key, self._explained(request), where=self._recordings)
        return None

    def _note_miss(self, request: Request, mode: Mode, entry: Entry | None) -> None:
        now, state = self._clock(), "absent"
        if mode == "refresh":
            state = "refreshed"
        elif entry is not None:
            state = "unreadable" if self._is_fresh(entry, now) else "expired"
        self._misses.add(request, now, state)

    def _explained(self, request: Request) -> object:
        """Why *request* missed, if this cache keeps requests."""
        if self._settings.redaction is None:
            return None
        try:
            return self.explanation(request)
        except Exception:  # noqa: BLE001  # the miss is what is to be told
            return None

    def _fetch_older(
        self, request: Request, fetch: Callable[[str], Entry | None]
    ) -> tuple[Request, Entry | None]:
        """The entry from before the encryption key was changed, and the request as it was called
        then."""
        for key in request.older:
            entry = fetch(key)
            if entry is not None:
                return request._replace(key=key), entry
        return request, None

    def _read(
        self, request: Request, entry: Entry, load: Callable[[Any], Any], *, replay: bool
    ) -> Hit | None:
        """The answer in *entry*, if it is fresh and can be read."""
        now = self._clock()
        if not (self._is_fresh(entry, now) or replay):
            if entry.is_expired(now):  # else a more patient reader may still want it
                self._store.discard(request.key, entry.stored_at)
            self._ledger.expired(request.key)
            return None
        try:
            value = entry.payload.thaw()
            return Hit(value if load is same else load(value), now - entry.stored_at, entry)
        # whatever is stored there, the caller can still call the model
        except Exception as exc:  # noqa: BLE001
            return self._read_again(request, entry, exc, load, now, replay=replay)

    def _read_again(
        self,
        request: Request,
        entry: Entry,
        exc: Exception,
        load: Callable[[Any], Any],
        now: float,
        *,
        replay: bool,
    ) -> Hit | None:
        """After *exc*: a class that this very request names may have been all that was missing; if
        not, it is a miss."""
        here_only = isinstance(exc, EntryUnreadable) and exc.newer
        if here_only and register_classes(request.params):
            try:
                return Hit(load(entry.payload.thaw()), now - entry.stored_at, entry)
            except Exception as again:  # noqa: BLE001  # as above
                exc = again
        self._ledger.error("read")
        if replay:
            self._ledger.miss(request.key, request.model)
            raise CacheMissError(
                request.key, unreadable=reason_of(exc), where=self._recordings
            ) from exc
        if not here_only:
            self._store.discard(request.key, entry.stored_at)
        self.bypass(
            "unreadable", "a stored answer cannot be read and counts as a miss: %s", reason_of(exc)
        )
        return None

    def _skip(self, request: Request, reason: str, text: str, *args: object) -> None:
        if request.kept is not None:
            self._misses.set_outcome(request.key, reason)
        if self._ledger.skip(reason, request.key, request.model):
            log.warning(__name__, text, *args)

    async def _off_loop(self, call: Callable[[], T]) -> T:
        """*call*, in a thread if the store would block the event loop."""
        if not self._store.blocking:
            return call()
        import asyncio  # loaded by then: somebody is awaiting us

        return await asyncio.to_thread(call)


def register_classes(params: Mapping[str, Any]) -> bool:
    """Register the classes that a request names, as in ``response_format=Invoice``; whether there
    were any."""
    found = False
    for value in params.values():
        if isinstance(value, type):
            from llm_cache_mem.values.classes import register

            try:
                register(value)
            except TypeError:  # not one that values are made of, such as dict
                continue
            found = True
    return found


def reason_of(exc: Exception) -> str:
    """What may be logged of *exc*: our own errors hold no content, others might."""
    return str(exc) if isinstance(exc, (EntryUnreadable, ValueNotCacheable)) else type(exc).__name__
