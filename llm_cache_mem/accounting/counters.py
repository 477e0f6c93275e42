"""Ledger: counts the requests of a cache, and what answering them from the cache saved."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import chain
from threading import RLock  # re-entrant: a signal handler may ask in the middle of it
from typing import Any

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.accounting.bounded import bounded_name, slot
from llm_cache_mem.accounting.counts import Pending
from llm_cache_mem.accounting.provider import PaidCall, ProviderLedger
from llm_cache_mem.accounting.stats import CacheStats, Event, ModelStats
from llm_cache_mem.accounting.sums import Sums
from llm_cache_mem.accounting.tags import TagSums, tags_of
from llm_cache_mem.keys.digest import place_of
from llm_cache_mem.options import current
from llm_cache_mem.values.entry import Entry

__all__ = ["Ledger"]

_log = logging.getLogger(__name__)

_BACKLOG = 1024
"""The most hits that are added to the sums when they are read, rather than at once."""


class Ledger:
    """Counts events under one lock, and passes them to *on_event* and to other listeners.
    Thread-safe.

    *tags* are those of the request, *store_seconds* how long the store took, if that was measured:
    see ``listeners``.
    """

    def __init__(
        self, clock: Callable[[], float], on_event: Callable[[Event], object] | None
    ) -> None:
        self._clock = clock
        self.listeners: tuple[Callable[[Event], object], ...] = ()
        """The listeners of events. Without any, nothing is measured for them."""
        if on_event is not None:
            self.listen(on_event)
        self._lock = RLock()
        self.hits = self.misses = self.stored = self.evictions = self.expirations = (
            self.coalesced
        ) = self.errors = 0
        self._skipped: dict[str, int] = {}
        self._hits: dict[str, Sums] = {}
        self._coalesced: dict[str, Sums] = {}
        self._tags: dict[str, TagSums] = {}
        self._provider = ProviderLedger()
        self._backlog: list[tuple[Entry, tuple[str, ...]]] = []
        self._inherited = 0  # of the backlog: what a parent process counts
        self._settled = 0  # how often the backlog was added to the sums
        self._pending: Pending | None = None
        self._note: Callable[..., object] | None = None
        self._prefix: Callable[[], str] = str
        self._settling = RLock()
        self.watched = False
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = RLock()
        self._settling = RLock()
        self._inherited = len(self._backlog)
        if self._pending is not None:
            self._pending = Pending()

    def listen(self, listener: Callable[[Event], object]) -> None:
        """Call *listener* with each event from now on."""
        self.listeners = (*self.listeners, listener)

    def unlisten(self, listener: Callable[[Event], object]) -> None:
        """Call *listener* no more."""
        self.listeners = tuple(other for other in self.listeners if other != listener)

    @property
    def counts_calls(self) -> bool:
        """Whether ``called`` has anything to do for calls without tags."""
        return bool(self.listeners) or self._pending is not None

    def keep_pending(self, note: Callable[..., object], prefix: Callable[[], str]) -> None:
        """Collect what is counted from now on for ``take_pending``, and call *note* when there is
        something to take: with ``stored=True`` after a write, with ``at_once=True`` where there is
        much. *prefix* is that of keys in this context, for
        requests without one."""
        self._pending, self._note, self._prefix = Pending(), note, prefix

    def take_pending(self) -> Pending:
        """What was counted since this was asked last."""
        self._settle()
        with self._lock:
            taken, self._pending = self._pending, Pending()
        return taken or Pending()

    def hit(
        self,
        key: str,
        entry: Entry,
        tags: tuple[str, ...] = (),
        store_seconds: float | None = None,
    ) -> None:
        with self._lock:
            self.hits += 1
            self._backlog.append((entry, tags))
            waiting = len(self._backlog)
            if self._pending is not None:
                entry.key = key
        if waiting == 1 and self._note is not None:
            self._note()
        elif waiting % _BACKLOG == 0:
            self._settle()
        if self.listeners:
            self._tell_saving("hit", key, entry, tags, store_seconds)

    def _settle(self) -> None:
        """Add what the latest hits saved to the sums.

        They stay in the backlog until the sums are ready: an interrupt loses none before that.
        """
        with self._settling:  # a function for prices may do what it likes, so it is not the lock
            settled, backlog = self._settled, self._backlog[:]
            first = self._inherited
            inherited, own = Counter(backlog[:first]), Counter(backlog[first:])
            for entry, _ in chain(inherited, own):
                entry.accounted()
            with self._lock:
                if self._settled == settled:  # else that function has asked for the sums
                    ready = _Saved(inherited, None), _Saved(own, self._pending)
                    self._settled += 1
                    self._inherited = 0
                    del self._backlog[: len(backlog)]
                    for saved in ready:
                        saved.add_to(self._hits, self._tags)
        if self._note is not None and self._pending is not None and self._pending.is_full:
            self._note(at_once=True)

    def coalesced_with(
        self,
        key: str,
        entry: Entry | None,
        model: str | None,
        waited: float,
        tags: tuple[str, ...] = (),
    ) -> None:
        """Count a lookup that missed and was answered by a call in flight, after *waited* seconds;
        *entry* is the one that this call stored, or None."""
        with self._lock:
            self.coalesced += 1
            sums = _of_model(self._coalesced, entry.model if entry is not None else model)
            saved: tuple[Any, float | None, float | None] = (None, None, None)
            if entry is not None:
                seconds = None if entry.seconds is None else max(0.0, entry.seconds - waited)
                saved = (entry.usage, seconds, entry.cost_usd)
            sums.add(*saved)
            for tag in tags:
                self._of_tag(tag).coalesce(*saved)
            if self._pending is not None:
                counts = self._pending.of(_namespace_of(key), model)
                counts.coalesced += 1
                one = Sums()
                one.add(*saved)
                counts.save(one)
                self._pending.hit(key)
        if self._note is not None:
            self._note()
        if self.listeners:
            if entry is not None:
                self._tell_saving("coalesced", key, entry, tags)
            else:
                self._tell("coalesced", tags, key=key, model=model)

    def paid(self, call: PaidCall, *, observed: bool = False) -> bool:
        """Count *call*, which a provider was paid for and which went through the cache or was
        *observed* by a tracker; whether it had not been counted yet."""
        with self._lock:
            return self._provider.add(call, observed=observed)

    def watch(self) -> None:
        """Expect calls from a tracker too; those that the cache reports as well count once."""
        with self._lock:
            self.watched = True
            self._provider.watch()

    def called(self, key: str, tags: tuple[str, ...], call: PaidCall, usd: float | None) -> None:
        """Count for its *tags* that *call* was made, at the price of *usd*; ``paid`` counts it for
        its model."""
        with self._lock:
            for tag in tags:
                self._of_tag(tag).paid.add(call.usage, call.seconds, usd)
            if self._pending is not None:
                self._pending.of(_namespace_of(key), call.model).pay(usd)
        if self._note is not None:
            self._note()
        if self.listeners:
            self._tell(
                "called",
                tags,
                key=key,
                model=call.model,
                seconds=call.seconds,
                tokens=None if call.usage is None else call.usage[0] + call.usage[1],
                usd=usd,
                usage=call.usage,
            )

    def miss(
        self,
        key: str,
        model: str | None,
        tags: tuple[str, ...] = (),
        store_seconds: float | None = None,
    ) -> None:
        with self._lock:
            self.misses += 1
            for tag in tags:
                self._of_tag(tag).misses += 1
            if self._pending is not None:
                self._pending.of(_namespace_of(key), model).misses += 1
        if self._note is not None:
            self._note()
        if self.listeners:
            self._tell("miss", tags, key=key, model=model, store_seconds=store_seconds)

    def put(
        self,
        key: str,
        entry: Entry,
        evicted: int,
        expired: int,
        store_seconds: float | None = None,
    ) -> None:
        """Count a stored *entry*, and those that were removed to make room for it."""
        with self._lock:
            self.stored += 1
            self.evictions += evicted
            self.expirations += expired
            if self._pending is not None:
                self._pending.of(_namespace_of(key), entry.model).stored += 1
        if self._note is not None:
            self._note(stored=True)
        if self.listeners:
            self._tell_saving("stored", key, entry, entry.tags, store_seconds)
            if evicted:
                self._tell("evicted", number=evicted)
            if expired:
                self._tell("expired", number=expired)

    def expired(self, key: str | None, number: int = 1) -> None:
        with self._lock:
            self.expirations += number
        if self.listeners:
            self._tell("expired", key=key, number=number)

    def skip(
        self,
        reason: str,
        key: str | None = None,
        model: str | None = None,
        tags: tuple[str, ...] | None = None,
    ) -> bool:
        """Count something that was not stored; whether it is the first for *reason*. *tags*: None
        for those of this context."""
        tags = current().tags if tags is None else tags
        with self._lock:
            name = bounded_name(self._skipped, reason)
            count = self._skipped[name] = self._skipped.get(name, 0) + 1
            for tag in tags:
                self._of_tag(tag).skipped += 1
            if self._pending is not None:
                place = _namespace_of(self._prefix() if key is None else key)
                self._pending.of(place, model).skipped += 1
        if self._note is not None:
            self._note()
        if self.listeners:
            self._tell("skipped", tags, key=key, model=model, reason=reason)
        return count == 1

    def error(self, operation: str) -> None:
        with self._lock:
            self.errors += 1
        if self.listeners:
            self._tell("error", current().tags, reason=operation)

    def snapshot(self, size: int, total_size: int | None = None) -> CacheStats:
        self._settle()
        with self._lock:
            models = {
                name: _model_stats(self._hits.get(name), self._coalesced.get(name))
                for name in {**self._hits, **self._coalesced}
            }
            return CacheStats(
                hits=self.hits,
                misses=self.misses,
                size=size,
                stored=self.stored,
                skipped=dict(self._skipped),
                evictions=self.evictions,
                expirations=self.expirations,
                coalesced=self.coalesced,
                errors=self.errors,
                by_model=models,
                provider_by_model=self._provider.by_model(),
                by_tag={tag: sums.stats() for tag, sums in self._tags.items()},
                total_size=total_size,
            )

    def _of_tag(self, tag: str) -> TagSums:
        return slot(self._tags, tag, TagSums)

    def _tell_saving(
        self,
        name: str,
        key: str,
        entry: Entry,
        tags: tuple[str, ...],
        store_seconds: float | None = None,
    ) -> None:
        # by position, because it is the path of every hit: in the order of Event
        at, usage = self._clock(), entry.usage
        tokens = None if usage is None else usage[0] + usage[1]
        age = max(0.0, at - entry.stored_at) if name == "hit" else None
        saved = (key, entry.model, entry.seconds, tokens, entry.cost_usd, None, 1, usage)
        self._pass_on(Event(name, at, *saved, age, store_seconds, tags_of(tags), *place_of(key)))

    def _tell(
        self, name: str, tags: tuple[str, ...] = (), *, key: str | None = None, **fields: Any
    ) -> None:
        namespace, layer = (None, None) if key is None else place_of(key)
        fields |= {"tags": tags_of(tags), "namespace": namespace, "layer": layer}
        self._pass_on(Event(name, self._clock(), key, **fields))

    def _pass_on(self, event: Event) -> None:
        for listener in self.listeners:
            try:
                listener(event)
            # a listener's fault must not break the call that is being served
            except Exception:  # noqa: BLE001
                _log.warning("on_event raised at %r; the call goes on", event.name, exc_info=True)


class _Saved:
    """What *hits* of which the accounts are read saved: by the beginning of their keys and by
    model, and by tag. With *pending*, by key too; else keys are not looked at."""

    def __init__(
        self, hits: Mapping[tuple[Entry, tuple[str, ...]], int], pending: Pending | None
    ) -> None:
        places: dict[tuple[str, str | None], Sums] = {}
        by_key: dict[str, int] = {}  # with those that are pending already
        self._pending, self._places, self._by_key = pending, places, by_key
        self._tags: dict[str, TagSums] = {}
        start, known = ("", {}) if pending is None else ("?", pending.hits)
        for (entry, tags), calls in hits.items():
            if pending is not None:
                key = entry.key
                by_key[key] = (by_key[key] if key in by_key else known.get(key, 0)) + calls
                if not key.startswith(start):
                    start = key[: key.find(":", key.find(":") + 1) + 1]
            model, usage, usd = entry.accounted()
            sums = places.get((start, model))
            if sums is None:
                sums = places[start, model] = Sums()
            sums.add(usage, entry.seconds, usd, calls=calls)
            for tag in tags:
                slot(self._tags, tag, TagSums).hit(usage, entry.seconds, usd, calls=calls)

    def add_to(self, models: dict[str, Sums], tags: dict[str, TagSums]) -> None:
        """Add it to the sums of all *models* and *tags*, and to what is pending."""
        for (start, model), sums in self._places.items():
            _of_model(models, model).merge(sums)
            if self._pending is not None:
                self._pending.add_hits(_namespace_of(start), model, sums)
        for tag, saved in self._tags.items():
            slot(tags, tag, TagSums).merge(saved)
        if self._pending is not None:
            self._pending.hits.update(self._by_key)


def _namespace_of(key: str) -> str:
    return place_of(key)[0]


def _of_model(sums: dict[str, Sums], model: str | None) -> Sums:
    return slot(sums, model or "", Sums)


def _model_stats(hits: Sums | None, coalesced: Sums | None) -> ModelStats:
    hits, coalesced = hits or Sums(), coalesced or Sums()
    return ModelStats(
        hits=hits.calls,
        coalesced=coalesced.calls,
        input_tokens_saved=hits.input_tokens + coalesced.input_tokens,
        output_tokens_saved=hits.output_tokens + coalesced.output_tokens,
        seconds_saved=hits.seconds + coalesced.seconds,
        saved_usd=hits.cost_usd + coalesced.cost_usd,
        unpriced_hits=hits.unpriced + coalesced.unpriced,
        coalesced_tokens=coalesced.input_tokens + coalesced.output_tokens,
        coalesced_seconds=coalesced.seconds,
        coalesced_usd=coalesced.cost_usd,
        coalesced_unpriced=coalesced.unpriced,
    )
