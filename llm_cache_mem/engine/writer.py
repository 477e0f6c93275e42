"""Storing through a cache: from a paid answer to an entry, if it is worth keeping and nobody has
forgotten it meanwhile."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from llm_cache_mem.accounting import pricing
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.engine.reader import Reader, Settings, reason_of, register_classes, same
from llm_cache_mem.engine.single_flight import Flight, SingleFlight
from llm_cache_mem.errors import EntryUnreadable, ValueNotCacheable
from llm_cache_mem.keys.request import Keyer, Request
from llm_cache_mem.responses import usage
from llm_cache_mem.stores import Removed
from llm_cache_mem.stores.base import NOTHING_REMOVED
from llm_cache_mem.stores.circuit_breaker import FailOpenStore
from llm_cache_mem.values.entry import Account, Entry
from llm_cache_mem.values.payload import Payload

__all__ = ["Answered", "Writer"]

_UNKNOWN = pricing.Bill()


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


class Writer(Reader):
    """Admission, accounting and entries of a cache on one store; *flights* are the calls under
    way."""

    def __init__(
        self,
        store: FailOpenStore,
        flights: SingleFlight,
        keyer: Keyer,
        ledger: Ledger,
        settings: Settings,
    ) -> None:
        super().__init__(store, keyer, ledger, settings)
        self._flights = flights
        self._listeners: tuple[Callable[[Request, Any, float | None], object], ...] = ()
        self._account = self._account_of  # one for all entries
        self._epoch = 0  # moves on with every delete and clear

    @property
    def price(self) -> pricing.Pricer:
        """What a call costs, by the prices that this cache was given."""
        return self._settings.price

    def listen(self, listener: Callable[[Request, Any, float | None], object]) -> None:
        """Tell *listener* of each call that is paid for from now on: request, response, seconds. It
        must not raise."""
        self._listeners = (*self._listeners, listener)

    @property
    def epoch(self) -> int:
        """A number that moves on with every delete and clear: a stream that began in another epoch
        is not to be stored."""
        return self._epoch

    def store(self, request: Request, value: Any) -> None:
        """Store *value* as the answer to *request*, whatever admission would say. Raises
        ValueNotCacheable."""
        if self._writes():
            self._flights.forget(
                request.key
            )  # a call under way would store the older answer over it
            payload = _payload(request, value)
            if self._reads_late and type(value) is dict and request.model is not None:
                entry = self._unread_entry(request.model, payload)
            else:
                entry = self._entry(request, payload, self._priced(request, value, None))
            self._commit(request, entry, None)

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
        """Store *value*, which stands for *response*, if that is worth keeping; the entry, or None
        if it was not stored.

        With *epoch*, what it was when the call began, nothing is stored if anything was deleted
        meanwhile; with *flight*, that of the call, if this key was.
        """
        paid = self._paid(request, response, seconds)
        if epoch is not None and epoch != self._epoch:
            return None
        return self._keep(request, self._pack(request, value, same), paid, flight)

    def keep_at_rest(
        self, request: Request, payload: Payload, seconds: float | None = None
    ) -> Entry | None:
        """``keep`` of a value that is at rest already, that nobody paid for here, and that is to be
        stored whatever admission would say."""
        if not self._writes():
            return None
        return self._commit_or_skip(
            request, self._entry(request, payload, _Paid(None, None, None, _UNKNOWN, seconds)), None
        )

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
        return await self._off_loop(
            lambda: self.keep(
                request, value, response=response, seconds=seconds, epoch=epoch, flight=flight
            )
        )

    def keep_many(
        self, answers: Sequence[Answered], *, seconds: float | None = None, epoch: int | None = None
    ) -> int:
        """``keep`` each of *answers*, in one round trip where the store can do that; how many were
        stored."""
        paid = [self._paid(each.request, each.response, seconds) for each in answers]
        if epoch is not None and epoch != self._epoch:
            return 0
        found = [
            (
                each.request,
                self._admitted(each.request, self._pack(each.request, each.value, same), price),
            )
            for each, price in zip(answers, paid, strict=True)
        ]
        return self._commit_many(
            [(request, entry) for request, entry in found if entry is not None]
        )

    async def akeep_many(
        self, answers: Sequence[Answered], *, seconds: float | None = None, epoch: int | None = None
    ) -> int:
        """As ``keep_many``, in a thread where it would wait."""
        await self._prices_loaded()
        return await self._off_loop(lambda: self.keep_many(answers, seconds=seconds, epoch=epoch))

    def discard(self, request: Request) -> bool:
        """Forget the answer to *request*; whether there was one. A call in flight will not store it
        either."""
        self._epoch += 1
        self._flights.forget(request.key)
        found = [self._store.delete(key) for key in (request.key, *request.older)]
        return any(found)

    # -- Inside

    def _writes(self) -> bool:
        return self._mode() in ("on", "refresh")

    def _pack(self, request: Request, response: Any, dump: Callable[[Any], Any]) -> Payload | None:
        """The stored form of *response*; None, counted as skipped, if it has none."""
        try:
            return _payload(request, response if dump is same else dump(response))
        # the answer is paid for and goes to the caller all the same
        except Exception as exc:  # noqa: BLE001
            reason = (
                "it is a coroutine: aget_or_call is for async functions"
                if hasattr(response, "__await__")
                else reason_of(exc)
            )
            self._skip(request, "value", "an answer was not stored: %s", reason)
            return None

    def _priced(self, request: Request, response: Any, seconds: float | None) -> _Paid:
        if response is None:
            return _Paid(None, None, None, _UNKNOWN, seconds)
        used, answered_by = usage.read_usage(response), usage.read_model(response)
        cost = (
            _UNKNOWN
            if used is None
            else pricing.bill(self._settings.price, (answered_by, request.model), used)
        )
        return _Paid(response, used, answered_by, cost, seconds)

    def _paid(self, request: Request, response: Any, seconds: float | None) -> _Paid:
        """What the provider was paid for *response*, which is counted, whether or not it will be
        stored."""
        paid = self._priced(request, response, seconds)
        if paid.usage is not None:
            from llm_cache_mem.accounting.provider import (
                PaidCall,
            )  # loaded with the first call that is paid for

            identity = usage.identify(response) if self._ledger.watched else None
            model = request.model or paid.model
            self._ledger.paid(
                PaidCall(
                    model, paid.usage, seconds, paid.cost.read_usd, paid.cost.premium_usd, identity
                )
            )
        for tell in self._listeners:
            tell(request, response, seconds)
        return paid

    def _keep(
        self, request: Request, payload: Payload | None, paid: _Paid, flight: Flight | None
    ) -> Entry | None:
        """Store *payload* if the response is worth keeping; the entry, or None if it was not
        stored."""
        entry = self._admitted(request, payload, paid)
        return None if entry is None else self._commit_or_skip(request, entry, flight)

    def _admitted(self, request: Request, payload: Payload | None, paid: _Paid) -> Entry | None:
        """The entry to store, if the response is worth keeping."""
        if payload is None or not self._writes():
            return None
        reason = self._settings.admit(paid.response)
        if reason is not None:
            hint = (
                "" if self._settings.own_admit else "; LLMCache(admit='any') stores such ones too"
            )
            self._skip(request, reason, "a response was not stored: %s%s", reason, hint)
            return None
        return self._entry(request, payload, paid)

    def _entry(self, request: Request, payload: Payload, paid: _Paid) -> Entry:
        now, ttl = self._clock(), self._ttl()
        expires_at, model = None if ttl is None else now + ttl, request.model or paid.model
        return Entry(
            payload,
            now,
            expires_at,
            model,
            paid.usage,
            paid.cost.usd,
            paid.seconds,
            None if request.kept is None else self._kept(request.kept),
        )

    @property
    def _reads_late(self) -> bool:
        """Whether what a stored value cost may be read from it when it is first asked for: memory
        keeps it just as it is here."""
        return (
            self._in_memory
            and self._settings.redaction is None
            and pricing.steady(self._settings.price)
        )

    def _unread_entry(self, model: str, payload: Payload) -> Entry:
        now, ttl = self._clock(), self._ttl()
        return Entry.unread(payload, now, None if ttl is None else now + ttl, model, self._account)

    def _account_of(self, entry: Entry) -> Account:
        """The usage and the cost of the call that made *entry*, from its value."""
        try:
            paid = self._priced(Request("", entry.model, (), {}), entry.payload.thaw(), None)
        except EntryUnreadable:
            return None, None
        return paid.usage, paid.cost.usd

    def _kept(self, text: str) -> bytes | None:
        """A request as it may be stored, if this cache keeps requests."""
        redaction = self._settings.redaction
        return None if redaction is None else redaction.json(text)

    def _commit(self, request: Request, entry: Entry, flight: Flight | None) -> Entry | None:
        """Put *entry* into the store, unless its key was deleted while the call was under way."""
        if not self._fits(request, entry):
            return None
        put, key = self._put, request.key
        removed = put(key, entry) if flight is None else flight.commit(partial(put, key, entry))
        if removed is None:
            return None
        self._kept_entry(request, entry, removed)
        return entry

    def _commit_or_skip(
        self, request: Request, entry: Entry, flight: Flight | None
    ) -> Entry | None:
        try:
            return self._commit(request, entry, flight)
        except (
            ValueNotCacheable
        ) as exc:  # only seen when it is written out: too large for any store
            self._skip(request, "value", "an answer was not stored: %s", exc)
            return None

    def _commit_many(self, made: Sequence[tuple[Request, Entry]]) -> int:
        """Put what was *made* into the store at once; how many of them."""
        fitting = {
            request.key: (request, entry) for request, entry in made if self._fits(request, entry)
        }
        try:
            removed = (
                self._store.put_many({key: entry for key, (_, entry) in fitting.items()})
                if fitting
                else None
            )
        except ValueNotCacheable:  # one of them: which one, shows when they go one by one
            return sum(
                self._commit_or_skip(request, entry, None) is not None
                for request, entry in fitting.values()
            )
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
        self._skip(
            request, "too large", "an answer was not stored: it alone is over max_bytes=%s", most
        )
        return False

    def _kept_entry(self, request: Request, entry: Entry, removed: Removed) -> None:
        for key in request.older:  # or the older answer would be found again when this one is gone
            self._store.discard(key, None)
        if request.kept is not None:
            self._misses.set_outcome(request.key, "stored")
        self._ledger.kept(request.key, entry, removed.evicted, removed.expired)

    async def _prices_loaded(self) -> None:
        await pricing.aload(self._settings.price)


def _payload(request: Request, value: Any) -> Payload:
    """*value* at rest; classes that the request names may be part of it. Raises
    ValueNotCacheable."""
    try:
        return Payload.of(value)
    except ValueNotCacheable:
        if not register_classes(request.params):
            raise
        return Payload.of(value)
