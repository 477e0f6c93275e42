"""Write through a cache: from an answer to an entry, if it is worth storing."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.accounting import pricing
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.diagnostics.misses import Misses
from llm_cache_mem.engine.billing import NOT_READ, Billing, Paid
from llm_cache_mem.engine.flight import Flight
from llm_cache_mem.engine.generations import Generations
from llm_cache_mem.engine.reader import reason_of, same
from llm_cache_mem.engine.settings import Settings
from llm_cache_mem.engine.single_flight import SingleFlight
from llm_cache_mem.errors import ValueNotCacheable
from llm_cache_mem.keys.request import Request
from llm_cache_mem.responses import usage
from llm_cache_mem.stores import MemoryStore, Removed
from llm_cache_mem.stores.base import NOTHING_REMOVED
from llm_cache_mem.stores.fail_open import FailOpenStore
from llm_cache_mem.values.classes import named_in
from llm_cache_mem.values.entry import Account, Entry
from llm_cache_mem.values.payload import Payload

__all__ = ["Answered", "Writer"]

_OVERTAKEN = {
    "invalidated": "what it depends on was invalidated during the call",
    "generation": "the store does not tell whether what it depends on is still valid",
}

_log = logging.getLogger(__name__)


@without_content
class Answered(NamedTuple):
    """A *request*, the *response* to it, and the *value* to store for that."""

    request: Request
    value: Any
    response: Any


class Writer:
    """Admission, accounting and entries of a cache in one store. Thread-safe."""

    def __init__(
        self,
        store: FailOpenStore,
        flights: SingleFlight,
        ledger: Ledger,
        settings: Settings,
        misses: Misses,
        generations: Generations,
    ) -> None:
        self._store = store
        self._generations = generations
        self._flights = flights
        self._ledger = ledger
        self._settings = settings
        self._misses = misses
        self.billing = Billing(ledger, settings)
        self._account = self.billing.account
        self.epoch = 0
        self.clears = 0  # how often a namespace was cleared
        # As in Reader: a dict in this process has no way to fail.
        self._in_memory = isinstance(store.inner, MemoryStore)  # others need accounts at once
        self._defers = False
        self._put = store.inner.put if type(store.inner) is MemoryStore else store.put

    def put(self, request: Request, value: Any, *, seconds: float | None = None) -> Entry | None:
        """Store *value*, or a Payload, as the answer to *request*, whatever admission would say.

        Returns the entry, or None if nothing is stored in this mode or the store failed. Raises
        ValueNotCacheable.
        """
        if not self._writes():
            return None
        self._flights.forget(request.key)  # a call under way would store an older answer over it
        if request.depends_on is not None:
            self._generations.begin(request, self._settings.current_ttl())
            if self._overtaken(request):
                return None
        payload = encoded(request, value)
        paid = NOT_READ if seconds is None else Paid(None, None, NOT_READ.bill, seconds)
        account = None
        if payload is not value:
            if not self._defers:  # prices that can wait always can
                self._defers = self._in_memory and pricing.can_wait(self._settings.price)
            if self._defers and payload.is_plain:
                account = self._account
            else:
                paid = self.billing.read(request.model, value, seconds)
        return self._put_entry(request, self._entry(request, payload, paid, account), None)

    def store(
        self,
        request: Request,
        value: Any,
        *,
        response: Any,
        seconds: float | None = None,
        epoch: int | None = None,
        flight: Flight | None = None,
        price_rate: float = 1.0,
    ) -> Entry | None:
        """Count the call that gave *response*, and store *value* for it if it is worth storing.

        Returns the entry, or None if it was not stored. With *epoch*, that of when the call began,
        nothing is stored if anything was deleted since; with *flight*, if this key was.
        *price_rate* is the part of the usual price that was paid.
        """
        paid = self.billing.count(request, response, seconds, price_rate)
        if epoch is not None and epoch != self.epoch:
            return None
        entry = self._admitted(request, self.encode(request, value), response, paid)
        return None if entry is None else self._put_or_skip(request, entry, flight)

    def take_over(
        self, request: Request, response: Any, encode: Callable[[Any], Any] = same
    ) -> Entry | None:
        """``store`` for a *response* that another cache has given, so that no call is counted."""
        paid = self.billing.read(request.model, response, None)
        entry = self._admitted(request, self.encode(request, response, encode), response, paid)
        return None if entry is None else self._put_or_skip(request, entry, None)

    def store_encoded(
        self,
        request: Request,
        payload: Payload | None,
        response: Any,
        report: Callable[[Any], Any],
        seconds: float,
        flight: Flight | None,
    ) -> Entry | None:
        """``store`` where *payload* is what ``encode`` gave, and *report* is as in
        ``Engine.call``."""
        reported = response if report is same else self._reported(response, report)
        paid = self.billing.count(request, reported, seconds)
        judged = response if self._settings.own_admit else reported
        entry = self._admitted(request, payload, judged, paid)
        return None if entry is None else self._put_or_skip(request, entry, flight)

    def store_many(
        self,
        answers: Sequence[Answered],
        *,
        seconds: float | None = None,
        epoch: int | None = None,
    ) -> int:
        """``store`` each of *answers*, in one round trip where the store can do that; how many."""
        paid = [self.billing.count(each.request, each.response, seconds) for each in answers]
        if epoch is not None and epoch != self.epoch:
            return 0
        made = []
        for each, bill in zip(answers, paid, strict=True):
            payload = self.encode(each.request, each.value)
            entry = self._admitted(each.request, payload, each.response, bill)
            if entry is not None:
                made.append((each.request, entry))
        return self._put_many(made)

    def store_parts(
        self,
        parts: Sequence[Answered],
        response: Any,
        *,
        seconds: float,
        epoch: int,
    ) -> list[Entry | None]:
        """``store`` each of *parts*, which one call has answered with *response*: it is counted
        once, and each entry has its share. Values may be Payloads."""
        self.billing.count(parts[0].request, response, seconds)
        if epoch != self.epoch:
            return [None] * len(parts)
        entries = []
        for part in parts:
            paid = self.billing.read(part.request.model, part.response, seconds / len(parts))
            payload = self.encode(part.request, part.value)
            entries.append(self._admitted(part.request, payload, part.response, paid))
        asked = [part.request for part in parts]
        self._put_many([(r, e) for r, e in zip(asked, entries, strict=True) if e is not None])
        return entries

    def replace(
        self, request: Request, entry: Entry, payload: Payload, response: Any, seconds: float
    ) -> bool:
        """Store *payload* in place of *entry*, if that is still the answer to *request*; whether it
        was. *response* is what its price is read from; its call is counted already."""
        flight = self._flights.solo(request.key)  # which a delete from now on forgets
        held = self._store.get(request.key)
        if held is None or held.stored_at != entry.stored_at or not self._writes():
            return False
        if held.depends_on and not self._generations.holds(request.key, held):
            return False
        made = self._entry(request, payload, self.billing.read(request.model, response, seconds))
        made.depends_on, made.generation = held.depends_on, held.generation
        return self._put_or_skip(request, made, flight) is not None

    async def astore(self, request: Request, value: Any, **call: Any) -> Entry | None:
        """``store``, in a thread where the store would block the event loop."""
        await self.billing.load_prices()
        return await self._store.off_loop(lambda: self.store(request, value, **call))

    async def astore_many(self, answers: Sequence[Answered], **call: Any) -> int:
        """``store_many``, in a thread where the store would block the event loop."""
        await self.billing.load_prices()
        return await self._store.off_loop(lambda: self.store_many(answers, **call))

    def delete(self, request: Request) -> bool:
        """Delete the answer to *request*; whether there was one. A call under way will not store
        its answer either. StoreError if the store fails."""
        self.epoch += 1
        self._flights.forget(request.key)
        found = [self._store.delete(key) for key in (request.key, *request.older)]
        return any(found)

    def clear(self, prefix: str) -> int:
        """Delete all entries whose keys begin with *prefix*; how many. Otherwise as ``delete``."""
        self.epoch += 1
        self.clears += 1
        self._flights.forget()
        return self._store.clear(prefix)

    def encode(
        self, request: Request, response: Any, encode: Callable[[Any], Any] = same
    ) -> Payload | None:
        """The stored form of *response*; None, counted as skipped, if it has none."""
        try:
            return encoded(request, response if encode is same else encode(response))
        except Exception as exc:  # noqa: BLE001  # the answer is paid for and goes to the caller
            reason = reason_of(exc)
            if hasattr(response, "__await__"):
                reason = "it is a coroutine: aget_or_call is for async functions"
            self.skip(request, "value", "an answer was not stored: %s", reason)
            return None

    def skip(self, request: Request, reason: str, text: str, *args: object) -> None:
        """Count that the answer to *request* is not stored; log the first of each *reason*."""
        if request.text is not None:
            self._misses.set_outcome(request.key, reason)
        if self._ledger.skip(reason, request.key, request.model, request.tags):
            _log.warning(text, *args)

    # -- Inside

    def _writes(self) -> bool:
        return self._settings.current_mode() in ("on", "refresh")

    def _reported(self, response: Any, report: Callable[[Any], Any]) -> Any:
        try:
            return report(response)
        except Exception as exc:  # noqa: BLE001  # the answer is paid for and goes to the caller
            return usage.Report(refused=f"unreadable ({type(exc).__name__})")

    def _admitted(
        self, request: Request, payload: Payload | None, response: Any, paid: Paid
    ) -> Entry | None:
        """The entry to store, if the response is worth it."""
        if payload is None or not self._writes():
            return None
        reason = self._settings.admit(response)
        if reason is not None:
            hint = "" if self._settings.own_admit else "; LLMCache(admit='any') stores these too"
            self.skip(request, reason, "a response was not stored: %s%s", reason, hint)
            return None
        return None if self._overtaken(request) else self._entry(request, payload, paid)

    def _overtaken(self, request: Request) -> bool:
        """Whether the answer to *request* is not to be stored for what it depends on; counted."""
        reason = self._generations.overtaken(request)
        if reason is not None:
            self.skip(request, reason, "an answer was not stored: %s", _OVERTAKEN[reason])
        return reason is not None

    def _entry(
        self, request: Request, payload: Payload, paid: Paid, account: Account | None = None
    ) -> Entry:
        now, ttl = self._settings.clock(), self._settings.current_ttl()
        redaction, needs = self._settings.redaction, request.depends_on
        return Entry(
            payload,
            stored_at=now,
            expires_at=None if ttl is None else now + ttl,
            model=request.model or paid.model,
            usage=paid.usage,
            cost_usd=paid.bill.usd,
            seconds=paid.seconds,
            request=(
                None if request.text is None or redaction is None else redaction.json(request.text)
            ),
            tags=request.tags,
            account=account,
            depends_on=() if needs is None else needs.names,
            generation="" if needs is None else needs.mark or "",
        )

    def _put_entry(self, request: Request, entry: Entry, flight: Flight | None) -> Entry | None:
        """Put *entry* into the store, unless its key was deleted while the call was under way."""
        if self._settings.max_bytes is not None and not self._fits(request, entry):
            return None
        began = perf_counter() if self._ledger.listeners else None
        if flight is None:
            removed = self._put(request.key, entry)
        else:
            removed = flight.commit(partial(self._put, request.key, entry))
        if removed is None:
            return None
        took = None if began is None else perf_counter() - began
        self._count_stored(request, entry, removed, took)
        return entry

    def _put_or_skip(self, request: Request, entry: Entry, flight: Flight | None) -> Entry | None:
        try:
            return self._put_entry(request, entry, flight)
        except ValueNotCacheable as exc:  # only seen when it is written out: too large to store
            self.skip(request, "value", "an answer was not stored: %s", exc)
            return None

    def _put_many(self, made: Sequence[tuple[Request, Entry]]) -> int:
        """Put the entries that were *made* into the store at once; how many of them."""
        fitting = {
            request.key: (request, entry) for request, entry in made if self._fits(request, entry)
        }
        if not fitting:
            return 0
        try:
            removed = self._store.put_many({key: entry for key, (_, entry) in fitting.items()})
        except ValueNotCacheable:  # one of them; storing them one by one shows which
            stored = [self._put_or_skip(*pair, None) for pair in fitting.values()]
            return sum(entry is not None for entry in stored)
        if removed is None:
            return 0
        for request, entry in fitting.values():
            self._count_stored(request, entry, removed)
            removed = NOTHING_REMOVED  # counted once
        return len(fitting)

    def _fits(self, request: Request, entry: Entry) -> bool:
        most = self._settings.max_bytes
        if most is None or entry.size + len(request.key) <= most:
            return True
        self.skip(
            request, "too large", "an answer was not stored: it alone is over max_bytes=%s", most
        )
        return False

    def _count_stored(
        self, request: Request, entry: Entry, removed: Removed, store_seconds: float | None = None
    ) -> None:
        for key in request.older:  # or an older answer would be found when this one is gone
            self._store.discard(key, None)
        if request.text is not None:
            self._misses.set_outcome(request.key, "stored")
        self._ledger.put(request.key, entry, removed.evicted, removed.expired, store_seconds)


def encoded(request: Request, value: Any) -> Payload:
    """*value* as bytes; classes that the request names may be part of it. Raises
    ValueNotCacheable."""
    if type(value) is Payload:
        return value
    try:
        return Payload.of(value)
    except ValueNotCacheable:
        with named_in(request.params) as found:
            if not found:
                raise
            return Payload.of(value)
