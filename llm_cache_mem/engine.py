"""The engine under LLMCache: from a key to a fresh answer, and from an answer to an entry.

LLMCache is this with the calls that users make; the layers for frameworks and SDKs stand on what is here.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from llm_cache_mem import log, pricing, usage
from llm_cache_mem.codec import Payload, register
from llm_cache_mem.entry import Entry
from llm_cache_mem.errors import CacheMissError, EntryUnreadable, RequestNotCacheable, ValueNotCacheable
from llm_cache_mem.flight import Flight, SingleFlight, is_nested
from llm_cache_mem.options import UNSET, Mode, current
from llm_cache_mem.request import Keyer, Request
from llm_cache_mem.stats import Ledger
from llm_cache_mem.stats_provider import PaidCall
from llm_cache_mem.stores import MemoryStore, Removed, Store
from llm_cache_mem.stores.base import NOTHING_REMOVED
from llm_cache_mem.stores.guard import GuardedStore
from llm_cache_mem.streams import AsyncReplay, AsyncTee, Recording, Replay, Tee

if TYPE_CHECKING:  # only caches that need them load them
    from llm_cache_mem.explain import Explanation
    from llm_cache_mem.fleet import Fleet, Turn
    from llm_cache_mem.redaction import Redaction

__all__ = ["Answered", "Engine", "Hit", "Settings"]

T = TypeVar("T")

_FUTURE_SECONDS = 60.0  # an entry from further ahead was written by a clock that is wrong: a miss


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
    redaction: "Redaction | None" = None
    """For caches that keep requests: what is taken out of them before."""


class Hit(NamedTuple):
    """A fresh answer from the cache: *value* is a new object each time, *age* is in seconds."""

    value: Any
    age: float
    entry: Entry

    def __repr__(self) -> str:
        return f"Hit(age={self.age:.1f})"


class Answered(NamedTuple):
    """A request with the *response* to it, and the *value* that is to be stored for that."""

    request: Request
    value: Any
    response: Any


class _Paid(NamedTuple):
    """A response with what it took: *model* is who answered, *cost* in dollars."""

    response: Any
    usage: usage.Usage | None
    model: str | None
    cost: pricing.Bill
    seconds: float | None


class _Answer(NamedTuple):
    """What a flight ends with: the leader's *response*, and what followers make their own copies from."""

    response: Any
    payload: Payload | None
    entry: Entry | None
    late: bool = False  # found by the second look: another leader had just stored it


def _same(value: Any) -> Any:
    return value


class Engine:
    """Freshness, admission, single-flight and accounting around one store. Thread-safe."""

    def __init__(self, store: Store, keyer: Keyer, ledger: Ledger, settings: Settings, *, beside: "Engine | None" = None) -> None:
        self._settings = settings
        self._keyer = keyer
        self._ledger = ledger
        self._clock = settings.clock
        self._ttl_seconds = settings.ttl_seconds
        self._default_mode = settings.mode
        # *beside*: an engine on the same store with other rules; what clears the one must reach the calls under way in the other
        self._flights: SingleFlight = SingleFlight(settings.wait_seconds) if beside is None else beside._flights
        self._listeners: tuple[Callable[[Request, Any, float | None], object], ...] = ()
        self._epoch = 0  # moves on with every delete and clear
        self._store: GuardedStore = GuardedStore(store, strict=settings.strict, on_error=ledger.error) if beside is None else beside._store
        self._fleet = self._join_fleet(beside) if settings.coalesce == "fleet" and not isinstance(store, MemoryStore) else None
        self._recordings: str | None = getattr(store, "path", None) if getattr(store, "records", False) else None
        # A dict in this process has no way to fail, so reading it needs no guard.
        self._fetch = store.get if type(store) is MemoryStore else self._store.get

    @property
    def ledger(self) -> Ledger:
        """The counters, for those who see calls that do not pass through the cache."""
        return self._ledger

    @property
    def price(self) -> pricing.Pricer:
        """What a call costs, by the prices that this cache was given."""
        return self._settings.price

    def listen(self, listener: Callable[[Request, Any, float | None], object]) -> None:
        """Tell *listener* of each call that is paid for from now on: request, response, seconds. It must not raise."""
        self._listeners = (*self._listeners, listener)

    @property
    def is_off(self) -> bool:
        """Whether calls in this context go past the cache."""
        return self._mode() == "off"

    @property
    def patience(self) -> float:
        """How many seconds a call may wait for another to answer it; 0.0 where calls are not coalesced."""
        return self._settings.wait_seconds if self._settings.coalesce and self._mode() == "on" else 0.0

    @property
    def epoch(self) -> int:
        """A number that moves on with every delete and clear: a stream that began in another epoch is not to be stored."""
        return self._epoch

    # -- Requests

    def request(self, messages: Any, params: Mapping[str, Any], *, kind: str = "value") -> Request:
        """The request and the key of its entry among those of *kind*. RequestNotCacheable if it has no single wire form."""
        return self._keyer.request(messages, params, kind)

    def request_or_none(self, messages: Any, params: Mapping[str, Any], *, kind: str = "value") -> Request | None:
        """As ``request``; None says: call without the cache. A request that has no key is counted as skipped.

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

    @property
    def is_replay(self) -> bool:
        """Whether calls in this context may only be answered from the cache: what cannot be is to raise."""
        return self._mode() == "replay"

    def explanation(self, request: Request) -> "Explanation":
        """What stands between *request* and a stored answer; nothing is counted. StoreError if the store cannot tell."""
        from llm_cache_mem.explain import Kept, explain  # only misses that somebody asks about need it
        from llm_cache_mem.redaction import Redaction

        state, entry = "absent", self._store.demand(request.key)
        if entry is not None:
            try:
                entry.payload.thaw()
                state = "fresh" if self._is_fresh(entry, self._clock()) else "expired"
            except EntryUnreadable:
                state = "unreadable"
        redaction = self._settings.redaction or Redaction()
        kept = request.kept or self._keyer.kept(request.messages, request.params)
        asked = Kept.under(request.key, redaction.json(kept))
        found = explain(asked, (Kept.under(key, one.request) for key, one in self.entries() if key != request.key), self._keyer.hashed)
        return found._replace(state=state)

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """The stored keys of this namespace with their entries, least recently used first. StoreError if they cannot be listed."""
        return self._store.entries(self._keyer.prefix())

    def bypass(self, reason: str, text: str = "a call goes uncached: %s", *args: object) -> None:
        """Count a call that is let through uncached as skipped for *reason*, and log the first of each."""
        if self._ledger.skip(reason):
            log.warning(__name__, text, *(args or (reason,)))

    # -- Reading and storing

    def lookup(self, request: Request, load: Callable[[Any], Any] = _same) -> Hit | None:
        """The fresh answer to *request*, if there is one and it may be read; counted. *load* makes it from the stored value.

        In mode ``replay`` age does not matter, and CacheMissError says that there is none; StoreError, that nobody can tell.
        """
        return self._lookup(request, load, self._fetch)

    def lookup_many(self, requests: Sequence[Request], load: Callable[[Any], Any] = _same) -> list[Hit | None]:
        """``lookup`` of each, in one round trip where the store can do that."""
        if self._mode() != "on":
            return [self.lookup(request, load) for request in requests]
        held = self._store.get_many([key for request in requests for key in (request.key, *request.older)])
        return [self._lookup(request, load, held.get) for request in requests]

    def recall(self, messages: Any, params: Mapping[str, Any], default: Any) -> Any:
        """The value that ``lookup(request(messages, params))`` finds, or *default*; the usual hit or miss takes a shorter way to it."""
        key = self._keyer.usual_key(messages, params) if self._default_mode == "on" else None
        if key is not None:
            entry = self._fetch(key)
            if entry is None:
                model = params.get("model")
                self._ledger.miss(key, model if isinstance(model, str) else None)
                return default
            now, expires_at, ttl = self._clock(), entry.expires_at, self._ttl_seconds
            if (expires_at is None or now < expires_at) and (ttl is None or now - entry.stored_at < ttl) and entry.stored_at <= now:
                try:
                    value = entry.payload.thaw()
                except EntryUnreadable:
                    pass  # the long way finds out what it means
                else:
                    self._ledger.hit(key, entry)
                    return value
        hit = self.lookup(self.request(messages, params))
        return default if hit is None else hit.value

    async def alookup(self, request: Request, load: Callable[[Any], Any] = _same) -> Hit | None:
        """As ``lookup``, in a thread where it would wait."""
        if not self._store.blocking:
            return self.lookup(request, load)
        held = self._store.held(request.key)
        if held is not None:
            return self._lookup(request, load, lambda key: held)
        return await self._off_loop(lambda: self.lookup(request, load))

    async def alookup_many(self, requests: Sequence[Request], load: Callable[[Any], Any] = _same) -> list[Hit | None]:
        """As ``lookup_many``, in a thread where it would wait."""
        return await self._off_loop(lambda: self.lookup_many(requests, load))

    def store(self, request: Request, value: Any) -> None:
        """Store *value* as the answer to *request*, whatever admission would say. Raises ValueNotCacheable."""
        if self._writes():
            self._flights.forget(request.key)  # a call under way would store the older answer over it
            self._commit(request, self._entry(request, _payload(request, value), self._priced(request, value, None)), None)

    def keep(
        self,
        request: Request,
        value: Any,
        *,
        response: Any,
        seconds: float | None = None,
        epoch: int | None = None,
        flight: Flight | None = None,
    ) -> Entry | None:
        """Store *value*, which stands for *response*, if that is worth keeping; the entry, or None if it was not stored.

        With *epoch*, what it was when the call began, nothing is stored if anything was deleted meanwhile; with *flight*, that of
        the call, if this key was.
        """
        paid = self._paid(request, response, seconds)
        if epoch is not None and epoch != self._epoch:
            return None
        return self._keep(request, self._pack(request, value, _same), paid, flight)

    async def akeep(
        self,
        request: Request,
        value: Any,
        *,
        response: Any,
        seconds: float | None = None,
        epoch: int | None = None,
        flight: Flight | None = None,
    ) -> Entry | None:
        """As ``keep``, in a thread where it would wait."""
        await self._prices_loaded()
        return await self._off_loop(lambda: self.keep(request, value, response=response, seconds=seconds, epoch=epoch, flight=flight))

    def keep_many(self, answers: Sequence[Answered], *, seconds: float | None = None, epoch: int | None = None) -> int:
        """``keep`` each of *answers*, in one round trip where the store can do that; how many were stored."""
        paid = [self._paid(each.request, each.response, seconds) for each in answers]
        if epoch is not None and epoch != self._epoch:
            return 0
        found = [
            (each.request, self._admitted(each.request, self._pack(each.request, each.value, _same), price))
            for each, price in zip(answers, paid, strict=True)
        ]
        return self._commit_many([(request, entry) for request, entry in found if entry is not None])

    async def akeep_many(self, answers: Sequence[Answered], *, seconds: float | None = None, epoch: int | None = None) -> int:
        """As ``keep_many``, in a thread where it would wait."""
        await self._prices_loaded()
        return await self._off_loop(lambda: self.keep_many(answers, seconds=seconds, epoch=epoch))

    def discard(self, request: Request) -> bool:
        """Forget the answer to *request*; whether there was one. A call in flight will not store it either."""
        self._epoch += 1
        self._flights.forget(request.key)
        found = [self._store.delete(key) for key in (request.key, *request.older)]
        return any(found)

    # -- Calls

    def turn(self, request: Request) -> "Turn | None":
        """With ``coalesce="fleet"``, a turn to call for *request* that no other process has meanwhile; None: there is nobody to ask."""
        return self._fleet.turn(request.key) if self._fleet is not None and self._mode() == "on" else None

    def call(
        self, request: Request, fn: Callable[[], Any], *, dump: Callable[[Any], Any] = _same, load: Callable[[Any], Any] = _same
    ) -> Any:
        """The stored answer to *request*, or that of ``fn()``, of which concurrent callers make one.

        *dump* makes the stored value from a response and *load* a response from a stored value. What *fn* raises is raised.
        """
        if self._mode() == "off":
            return fn()
        hit = self.lookup(request, load)
        if hit is not None:
            return hit.value
        if not self._settings.coalesce:
            return self._make(request, fn, dump, None).response
        turn, began = self.turn(request), self._clock()
        answer, joined = self._flights.run(request.key, lambda flight: self._lead(request, fn, dump, flight, turn))
        if not joined and not answer.late:
            return answer.response
        try:
            return self._share(request, answer, load, began)
        except Exception:  # noqa: BLE001  # no copy can be made: this caller makes its own call
            return fn()

    async def acall(
        self, request: Request, fn: Callable[[], Awaitable[Any]], *, dump: Callable[[Any], Any] = _same, load: Callable[[Any], Any] = _same
    ) -> Any:
        """``call`` for a coroutine function."""
        if self._mode() == "off":
            return await fn()
        hit = await self.alookup(request, load)
        if hit is not None:
            return hit.value
        if not self._settings.coalesce:
            return (await self._amake(request, fn, dump, None)).response
        turn, began = self.turn(request), self._clock()
        answer, joined = await self._flights.arun(request.key, lambda flight: self._alead(request, fn, dump, flight, turn))
        if not joined and not answer.late:
            return answer.response
        try:
            return self._share(request, answer, load, began)
        except Exception:  # noqa: BLE001  # as in call
            return await fn()

    def stream(self, request: Request, fn: Callable[[], Iterable[T]]) -> Iterator[T]:
        """The stored stream, or that of ``fn()``, which is stored when it has passed through to its clean end.

        Each caller that misses makes a call of its own: no one waits for another's consumer.
        """
        hit = self.lookup(request, list)
        if hit is not None:
            return Replay(hit.value)
        began, epoch, asked = self._clock(), self._epoch, copy_context()
        source = fn()
        if not _is_stream(source, "__iter__"):
            return self._no_stream(request, source)  # type: ignore[no-any-return]  # whatever fn gave
        return Tee(source, lambda recording: asked.run(self._finish, request, recording, began, epoch))

    async def astream(
        self, request: Request, fn: Callable[[], Awaitable[AsyncIterable[T]]], asked: Context | None = None
    ) -> AsyncIterator[T]:
        """``stream`` for an async iterable; *asked* is the context whose options count, if it is not this one."""
        asked = asked or copy_context()
        hit = await self._off_loop(lambda: asked.run(self.lookup, request, list))
        if hit is not None:
            return AsyncReplay(hit.value)
        began, epoch = self._clock(), self._epoch
        source = await fn()
        if not _is_stream(source, "__aiter__"):
            return self._no_stream(request, source)  # type: ignore[no-any-return]  # whatever fn gave

        async def finish(recording: Recording) -> None:
            await self._prices_loaded()
            await self._off_loop(lambda: asked.run(self._finish, request, recording, began, epoch))

        return AsyncTee(source, finish)

    def _no_stream(self, request: Request, answer: Any) -> Any:
        self._skip(request, "value", "an answer was not stored: a stream was asked for, and it is none")
        return answer

    # -- Calls whose answer goes on after they have returned

    def share(self, request: Request, work: Callable[[Flight], T], lane: object) -> tuple[T, bool]:
        """What ``work(flight)`` returns, and whether it was another caller's of the same *lane*; see ``Flight.outlast``.

        For callers that missed. *work* takes a second look first (``late``), and what it returns sees to it that the answer is
        kept (``keep``), and that who joined it is counted (``count_joined``).
        """
        if not self._settings.coalesce:
            return work(self._flights.solo(request.key)), False
        return self._flights.run(request.key, work, lane)

    async def ashare(self, request: Request, work: Callable[[Flight], Awaitable[T]], lane: object) -> tuple[T, bool]:
        """``share`` for a coroutine function."""
        if not self._settings.coalesce:
            return await work(self._flights.solo(request.key)), False
        return await self._flights.arun(request.key, work, lane)

    def late(self, request: Request, load: Callable[[Any], Any]) -> Hit | None:
        """The answer that another caller stored between this one's miss and its winning the lead; not counted."""
        answer = self._second_look(request)
        if answer is None or answer.entry is None:
            return None
        return self._read(request, answer.entry, load, replay=False)

    async def alate(self, request: Request, load: Callable[[Any], Any]) -> Hit | None:
        """As ``late``, in a thread where it would wait."""
        return await self._off_loop(lambda: self.late(request, load))

    def count_joined(self, request: Request, entry: Entry | None, seconds: float) -> None:
        """Count a caller that was answered by another's call after *seconds*; *entry* is what that call stored, if it did."""
        self._ledger.joined(request.key, entry, request.model, seconds)

    def _join_fleet(self, beside: "Engine | None") -> "Fleet":
        if beside is not None and beside._fleet is not None:
            return beside._fleet
        if self._store.leasing is None:
            name = type(self._store.inner).__name__
            raise ValueError(f"coalesce='fleet' needs a store through which processes can agree (SQLite, Redis, Memcached); {name} cannot")
        from llm_cache_mem.fleet import Fleet  # loaded by those who share calls

        return Fleet(self._store, self._settings.wait_seconds)

    # -- Inside: modes and freshness

    def _mode(self) -> Mode:
        return current().mode or self._default_mode  # type: ignore[return-value]  # UNSET is falsy

    def _writes(self) -> bool:
        return self._mode() in ("on", "refresh")

    def _ttl(self) -> float | None:
        asked = current().ttl_seconds
        return self._ttl_seconds if asked is UNSET else asked  # type: ignore[return-value]  # UNSET is the only Unset

    def _is_fresh(self, entry: Entry, now: float) -> bool:
        """Whether the entry's own expiry and this reader's ttl both allow it: the stricter wins."""
        expires_at, age, ttl = entry.expires_at, now - entry.stored_at, self._ttl()
        return (expires_at is None or now < expires_at) and (ttl is None or age < ttl) and age >= -_FUTURE_SECONDS

    # -- Inside: reading

    def _lookup(self, request: Request, load: Callable[[Any], Any], fetch: Callable[[str], Entry | None]) -> Hit | None:
        mode = self._mode()
        if mode == "off":
            return None
        fetch = self._store.demand if mode == "replay" else fetch
        entry = None if mode == "refresh" else fetch(request.key)
        if request.older and entry is None and mode != "refresh":
            request, entry = self._fetch_older(request, fetch)
        if entry is not None:
            hit = self._read(request, entry, load, replay=mode == "replay")
            if hit is not None:
                self._ledger.hit(request.key, entry)
                return hit
        self._ledger.miss(request.key, request.model)
        if mode == "replay":
            raise CacheMissError(request.key, self._explained(request), where=self._recordings)
        return None

    def _explained(self, request: Request) -> object:
        """Why *request* missed, if this cache keeps requests."""
        if self._settings.redaction is None:
            return None
        try:
            return self.explanation(request)
        except Exception:  # noqa: BLE001  # the miss is what is to be told
            return None

    def _fetch_older(self, request: Request, fetch: Callable[[str], Entry | None]) -> tuple[Request, Entry | None]:
        """The entry from before the encryption key was changed, and the request as it was called then."""
        for key in request.older:
            entry = fetch(key)
            if entry is not None:
                return request._replace(key=key), entry
        return request, None

    def _read(self, request: Request, entry: Entry, load: Callable[[Any], Any], *, replay: bool) -> Hit | None:
        """The answer in *entry*, if it is fresh and can be read."""
        now = self._clock()
        if not (self._is_fresh(entry, now) or replay):
            if entry.expires_at is not None and now >= entry.expires_at:  # else a more patient reader may still want it
                self._store.discard(request.key, entry.stored_at)
            self._ledger.expired(request.key)
            return None
        try:
            value = entry.payload.thaw()
            return Hit(value if load is _same else load(value), now - entry.stored_at, entry)
        except Exception as exc:  # noqa: BLE001  # whatever is stored there, the caller can still call the model
            return self._read_again(request, entry, exc, load, now, replay=replay)

    def _read_again(
        self, request: Request, entry: Entry, exc: Exception, load: Callable[[Any], Any], now: float, *, replay: bool
    ) -> Hit | None:
        """After *exc*: a class that this very request names may have been all that was missing; if not, it is a miss."""
        here_only = isinstance(exc, EntryUnreadable) and exc.newer
        if here_only and _register_classes(request.params):
            try:
                return Hit(load(entry.payload.thaw()), now - entry.stored_at, entry)
            except Exception as again:  # noqa: BLE001  # as above
                exc = again
        self._ledger.error("read")
        if replay:
            self._ledger.miss(request.key, request.model)
            raise CacheMissError(request.key, unreadable=_reason(exc), where=self._recordings) from exc
        if not here_only:
            self._store.discard(request.key, entry.stored_at)
        self.bypass("unreadable", "a stored answer cannot be read and counts as a miss: %s", _reason(exc))
        return None

    def _second_look(self, request: Request) -> _Answer | None:
        """Whether another leader stored the answer between this caller's miss and its winning the lead."""
        if self._mode() != "on":
            return None
        entry = self._fetch(request.key)
        if entry is None or not self._is_fresh(entry, self._clock()):
            return None
        return _Answer(None, entry.payload, entry, late=True)

    def _share(self, request: Request, answer: _Answer, load: Callable[[Any], Any], began: float) -> Any:
        """A follower's own copy of the leader's answer. Raises if none can be made."""
        if answer.payload is None:  # nothing but the object that the leader's caller may be changing by now
            raise EntryUnreadable("the answer has no stored form")
        shared = load(answer.payload.thaw())
        self._ledger.joined(request.key, answer.entry, request.model, self._clock() - began)
        return shared

    # -- Inside: calling and storing

    def _lead(self, request: Request, fn: Callable[[], Any], dump: Callable[[Any], Any], flight: Flight, turn: "Turn | None") -> _Answer:
        if turn is None or is_nested(flight):
            return self._second_look(request) or self._make(request, fn, dump, flight)
        try:
            return turn.take(lambda: self._second_look(request)) or self._make(request, fn, dump, flight)
        finally:
            turn.release()

    async def _alead(
        self,
        request: Request,
        fn: Callable[[], Awaitable[Any]],
        dump: Callable[[Any], Any],
        flight: Flight,
        turn: "Turn | None",
    ) -> _Answer:
        if turn is None or is_nested(flight):
            found = await self._off_loop(lambda: self._second_look(request))
            return found or await self._amake(request, fn, dump, flight)
        try:
            return await turn.atake(lambda: self._second_look(request)) or await self._amake(request, fn, dump, flight)
        finally:
            turn.release()

    def _make(self, request: Request, fn: Callable[[], Any], dump: Callable[[Any], Any], flight: Flight | None) -> _Answer:
        """Call, and store the answer."""
        began = self._clock()
        response = fn()
        seconds = max(0.0, self._clock() - began)
        payload = self._pack(request, response, dump)
        return _Answer(response, payload, self._keep(request, payload, self._paid(request, response, seconds), flight))

    async def _amake(
        self, request: Request, fn: Callable[[], Awaitable[Any]], dump: Callable[[Any], Any], flight: Flight | None
    ) -> _Answer:
        began = self._clock()
        response = await fn()
        seconds = max(0.0, self._clock() - began)
        payload = self._pack(request, response, dump)
        await self._prices_loaded()
        entry = await self._off_loop(lambda: self._keep(request, payload, self._paid(request, response, seconds), flight))
        return _Answer(response, payload, entry)

    def _pack(self, request: Request, response: Any, dump: Callable[[Any], Any]) -> Payload | None:
        """The stored form of *response*; None, counted as skipped, if it has none."""
        try:
            return _payload(request, response if dump is _same else dump(response))
        except Exception as exc:  # noqa: BLE001  # the answer is paid for and goes to the caller all the same
            reason = "it is a coroutine: aget_or_call is for async functions" if hasattr(response, "__await__") else _reason(exc)
            self._skip(request, "value", "an answer was not stored: %s", reason)
            return None

    def _priced(self, request: Request, response: Any, seconds: float | None) -> _Paid:
        used, answered_by = usage.read_usage(response), usage.read_model(response)
        cost = pricing.Bill() if used is None else pricing.bill(self._settings.price, (answered_by, request.model), used)
        return _Paid(response, used, answered_by, cost, seconds)

    def _paid(self, request: Request, response: Any, seconds: float | None) -> _Paid:
        """What the provider was paid for *response*, which is counted, whether or not it will be stored."""
        paid = self._priced(request, response, seconds)
        if paid.usage is not None:
            identity = usage.identify(response) if self._ledger.watched else None
            model = request.model or paid.model
            self._ledger.paid(PaidCall(model, paid.usage, seconds, paid.cost.read_usd, paid.cost.premium_usd, identity))
        for tell in self._listeners:
            tell(request, response, seconds)
        return paid

    def _keep(self, request: Request, payload: Payload | None, paid: _Paid, flight: Flight | None) -> Entry | None:
        """Store *payload* if the response is worth keeping; the entry, or None if it was not stored."""
        entry = self._admitted(request, payload, paid)
        return None if entry is None else self._commit_or_skip(request, entry, flight)

    def _admitted(self, request: Request, payload: Payload | None, paid: _Paid) -> Entry | None:
        """The entry to store, if the response is worth keeping."""
        if payload is None or not self._writes():
            return None
        reason = self._settings.admit(paid.response)
        if reason is not None:
            hint = "" if self._settings.own_admit else "; LLMCache(admit='any') stores such ones too"
            self._skip(request, reason, "a response was not stored: %s%s", reason, hint)
            return None
        return self._entry(request, payload, paid)

    def _entry(self, request: Request, payload: Payload, paid: _Paid) -> Entry:
        now, ttl = self._clock(), self._ttl()
        expires_at, model = None if ttl is None else now + ttl, request.model or paid.model
        return Entry(payload, now, expires_at, model, paid.usage, paid.cost.usd, paid.seconds, self._kept(request))

    def _kept(self, request: Request) -> bytes | None:
        """The request as it may be stored, if this cache keeps requests."""
        redaction = self._settings.redaction
        return None if redaction is None or request.kept is None else redaction.json(request.kept)

    def _commit(self, request: Request, entry: Entry, flight: Flight | None) -> Entry | None:
        """Put *entry* into the store, unless its key was deleted while the call was under way."""
        if not self._fits(request, entry):
            return None

        def put() -> Any:
            return self._store.put(request.key, entry)

        removed = put() if flight is None else flight.commit(put)
        if removed is None:
            return None
        self._kept_entry(request, entry, removed)
        return entry

    def _commit_or_skip(self, request: Request, entry: Entry, flight: Flight | None) -> Entry | None:
        try:
            return self._commit(request, entry, flight)
        except ValueNotCacheable as exc:  # only seen when it is written out: too large for any store
            self._skip(request, "value", "an answer was not stored: %s", exc)
            return None

    def _commit_many(self, made: Sequence[tuple[Request, Entry]]) -> int:
        """Put what was *made* into the store at once; how many of them."""
        fitting = {request.key: (request, entry) for request, entry in made if self._fits(request, entry)}
        try:
            removed = self._store.put_many({key: entry for key, (_, entry) in fitting.items()}) if fitting else None
        except ValueNotCacheable:  # one of them: which one, shows when they go one by one
            return sum(self._commit_or_skip(request, entry, None) is not None for request, entry in fitting.values())
        if removed is None:
            return 0
        for request, entry in fitting.values():
            self._kept_entry(request, entry, removed)
            removed = NOTHING_REMOVED  # counted once
        return len(fitting)

    def _fits(self, request: Request, entry: Entry) -> bool:
        most = self._settings.max_bytes
        if most is None or entry.size + len(request.key) <= most:
            return True
        self._skip(request, "too large", "an answer was not stored: it alone is over max_bytes=%s", most)
        return False

    def _kept_entry(self, request: Request, entry: Entry, removed: Removed) -> None:
        for key in request.older:  # or the older answer would be found again when this one is gone
            self._store.discard(key, None)
        self._ledger.kept(request.key, entry, removed.evicted, removed.expired)

    def _finish(self, request: Request, recording: Recording, began: float, epoch: int) -> None:
        """Store a stream that has ended cleanly, unless something was deleted while it ran."""
        if recording.fault is not None:
            self._skip(request, "value", "a stream was not stored: %s", recording.fault)
            return
        chunks = recording.chunks()
        self.keep(request, chunks, response=chunks, seconds=max(0.0, self._clock() - began), epoch=epoch)

    def _skip(self, request: Request, reason: str, text: str, *args: object) -> None:
        if self._ledger.skip(reason, request.key, request.model):
            log.warning(__name__, text, *args)

    async def _off_loop(self, call: Callable[[], T]) -> T:
        """*call*, in a thread if the store would block the event loop."""
        if not self._store.blocking:
            return call()
        import asyncio  # loaded by then: somebody is awaiting us

        return await asyncio.to_thread(call)

    async def _prices_loaded(self) -> None:
        """The first price may need a slow import, which must not stall the event loop."""
        if not pricing.loaded(self._settings.price):
            import asyncio

            await asyncio.to_thread(pricing.load, self._settings.price)


def _is_stream(source: Any, protocol: str) -> bool:
    return hasattr(source, protocol) and not isinstance(source, (str, bytes, Mapping))


def _payload(request: Request, value: Any) -> Payload:
    """*value* at rest; classes that the request names may be part of it. Raises ValueNotCacheable."""
    try:
        return Payload.of(value)
    except ValueNotCacheable:
        if not _register_classes(request.params):
            raise
        return Payload.of(value)


def _register_classes(params: Mapping[str, Any]) -> bool:
    """Register the classes that a request names, as in ``response_format=Invoice``; whether there were any."""
    found = False
    for value in params.values():
        if isinstance(value, type):
            try:
                register(value)
            except TypeError:  # not one that values are made of, such as dict
                continue
            found = True
    return found


def _reason(exc: Exception) -> str:
    """What may be logged of *exc*: our own errors hold no content, others might."""
    return str(exc) if isinstance(exc, (EntryUnreadable, ValueNotCacheable)) else type(exc).__name__
