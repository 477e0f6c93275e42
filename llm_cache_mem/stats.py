"""Counters, and the picture of them that users see: what was asked, what was answered from the cache, what that saved."""

from _thread import RLock  # re-entrant: a signal handler may ask in the middle of it
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from llm_cache_mem import log
from llm_cache_mem.entry import Entry
from llm_cache_mem.fork import reset_after_fork
from llm_cache_mem.stats_provider import PaidCall, ProviderCacheStats, ProviderLedger, total

__all__ = ["CacheStats", "Event", "Ledger", "ModelStats", "Saving"]


class Event(NamedTuple):
    """One thing that happened, for ``on_event=``; it never holds a prompt or an answer."""

    name: str
    """hit, miss, stored, skipped, coalesced, expired, evicted or error."""
    at: float
    """Unix seconds."""
    key: str | None = None
    model: str | None = None
    seconds: float | None = None
    """For hit and coalesced what was saved, for stored what the call took."""
    tokens: int | None = None
    """As *seconds*: input and output together."""
    usd: float | None = None
    """As *seconds*, in dollars; None where nobody knows."""
    reason: str | None = None
    """Why it was skipped, or which operation failed."""
    number: int = 1
    """How many, of evicted and expired."""
    usage: tuple[int, ...] | None = None
    """For hit, coalesced and stored what Entry.usage is."""


class Saving(NamedTuple):
    """What one way of saving brought. *calls* that it served, *tokens* that were not paid for or only at a discount; *unpriced* calls."""

    source: str
    calls: int
    tokens: int
    seconds: float
    usd: float
    unpriced: int


class ModelStats(NamedTuple):
    """What one model's hits and coalesced calls saved, and the part of it that is the latter's. What nobody recorded counts as 0."""

    hits: int = 0
    coalesced: int = 0
    input_tokens_saved: int = 0
    output_tokens_saved: int = 0
    seconds_saved: float = 0.0
    saved_usd: float = 0.0
    unpriced_hits: int = 0
    coalesced_tokens: int = 0
    coalesced_seconds: float = 0.0
    coalesced_usd: float = 0.0
    coalesced_unpriced: int = 0

    @property
    def tokens_saved(self) -> int:
        """Input and output tokens that were not paid for."""
        return self.input_tokens_saved + self.output_tokens_saved


class CacheStats(NamedTuple):
    """A snapshot of the counters. ``str()`` is aligned text; a notebook shows a table."""

    hits: int
    """Lookups that were answered."""
    misses: int
    """Lookups that were not. The calls paid for are ``misses - coalesced``."""
    size: int
    """Entries that the namespace of the cache holds."""
    stored: int
    skipped: Mapping[str, int]
    """Answers and requests that were not stored, by reason."""
    evictions: int
    """Entries removed to make room."""
    expirations: int
    """Entries removed because they were too old."""
    coalesced: int
    """Lookups that missed and then joined a call in flight."""
    errors: int
    """Failures of the store that cost a miss or a dropped write."""
    by_model: Mapping[str, ModelStats]
    provider_by_model: Mapping[str, ProviderCacheStats] = MappingProxyType({})
    """What the provider's own prompt cache saved on the calls that were paid for, by model."""

    @property
    def provider(self) -> ProviderCacheStats:
        """What the provider's prompt cache did, over all models."""
        return total(self.provider_by_model)

    @property
    def hit_rate(self) -> float:
        """Hits over lookups, from 0 to 1; 0.0 before the first."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0

    @property
    def tokens_saved(self) -> int:
        """Input and output tokens of the calls that were not made."""
        return sum(model.tokens_saved for model in self.by_model.values())

    @property
    def seconds_saved(self) -> float:
        """Seconds that the calls not made took when they were made; for a coalesced call less what it waited."""
        return sum(model.seconds_saved for model in self.by_model.values())

    @property
    def saved_usd(self) -> float:
        """Dollars that the calls not made really cost when they were made."""
        return sum(model.saved_usd for model in self.by_model.values())

    @property
    def unpriced_hits(self) -> int:
        """Calls saved whose price nobody knows: what they saved is not in ``saved_usd``."""
        return sum(model.unpriced_hits for model in self.by_model.values())

    def as_dict(self) -> dict[str, Any]:
        """Everything above as plain JSON, for machines."""
        totals = ("hit_rate", "tokens_saved", "seconds_saved", "saved_usd", "unpriced_hits")
        models = {name: {**model._asdict(), "tokens_saved": model.tokens_saved} for name, model in self.by_model.items()}
        there = {name: model.as_dict() for name, model in self.provider_by_model.items()}
        plain = {**self._asdict(), "skipped": dict(self.skipped), "by_model": models, "provider_by_model": there}
        return plain | {"provider": self.provider.as_dict()} | {name: getattr(self, name) for name in totals}

    def savings(self) -> tuple[Saving, Saving, Saving]:
        """What each way of saving brought, side by side: hits, coalesced calls, and the provider's prompt cache."""
        models = self.by_model.values()
        joined_seconds, joined_usd = sum(m.coalesced_seconds for m in models), sum(m.coalesced_usd for m in models)
        joined_tokens, joined_unpriced = sum(m.coalesced_tokens for m in models), sum(m.coalesced_unpriced for m in models)
        seconds, usd = self.seconds_saved - joined_seconds, self.saved_usd - joined_usd
        there = self.provider
        return (
            Saving("hits", self.hits, self.tokens_saved - joined_tokens, seconds, usd, self.unpriced_hits - joined_unpriced),
            Saving("coalesced", self.coalesced, joined_tokens, joined_seconds, joined_usd, joined_unpriced),
            Saving("provider's cache", there.cached_calls, there.read_tokens, there.seconds_saved, there.saved_usd, there.unpriced_calls),
        )

    def __str__(self) -> str:
        from llm_cache_mem.stats_tables import as_text  # only those who look at it need it

        return as_text(self)

    def _repr_html_(self) -> str:
        from llm_cache_mem.stats_tables import as_html

        return as_html(self)


class _Saved:
    """The running sums of one model's hits, or of its coalesced calls."""

    __slots__ = ("calls", "input_tokens", "output_tokens", "seconds", "unpriced", "usd")

    def __init__(self) -> None:
        self.calls = self.input_tokens = self.output_tokens = self.unpriced = 0
        self.seconds = self.usd = 0.0

    def add(self, usage: tuple[int, ...] | None, seconds: float | None, cost: float | None) -> None:
        self.calls += 1
        if usage is not None:
            self.input_tokens += usage[0]
            self.output_tokens += usage[1]
        if seconds is not None:
            self.seconds += seconds
        if cost is not None:
            self.usd += cost
        else:
            self.unpriced += 1


class Ledger:
    """Counts what happens, under one lock, and tells ``on_event``. Thread-safe."""

    def __init__(self, clock: Callable[[], float], on_event: Callable[[Event], object] | None) -> None:
        self._clock = clock
        self._on_event = on_event
        self._lock = RLock()
        self.hits = self.misses = self.stored = self.evictions = self.expirations = self.coalesced = self.errors = 0
        self._skipped: dict[str, int] = {}
        self._saved: dict[str, _Saved] = {}
        self._joined: dict[str, _Saved] = {}
        self._provider = ProviderLedger()
        self.watched = False
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = RLock()

    def hit(self, key: str, entry: Entry) -> None:
        with self._lock:
            self.hits += 1
            saved = self._saved.get(entry.model or "") or _of_model(self._saved, entry.model)
            saved.add(entry.usage, entry.seconds, entry.cost_usd)
        if self._on_event is not None:
            self._tell_saving("hit", key, entry)

    def joined(self, key: str, entry: Entry | None, model: str | None, waited: float | None = None) -> None:
        """A lookup that missed was answered by a call in flight, after *waited* seconds; *entry* is what that call stored, if it did."""
        with self._lock:
            self.coalesced += 1
            saved = _of_model(self._joined, entry.model if entry is not None else model)
            if entry is not None:
                seconds = None if entry.seconds is None or waited is None else max(0.0, entry.seconds - waited)
                saved.add(entry.usage, seconds, entry.cost_usd)
            else:
                saved.add(None, None, None)
        if self._on_event is not None:
            if entry is not None:
                self._tell_saving("coalesced", key, entry)
            else:
                self._tell("coalesced", key=key, model=model)

    def paid(self, call: PaidCall, *, observed: bool = False) -> bool:
        """A provider was paid for *call*, which went through the cache or was *observed* by a tracker; whether that is news."""
        with self._lock:
            return self._provider.add(call, observed=observed)

    def watch(self) -> None:
        """A tracker will tell of calls too; those that both it and the cache tell of count once."""
        with self._lock:
            self.watched = True
            self._provider.watch()

    def miss(self, key: str, model: str | None) -> None:
        with self._lock:
            self.misses += 1
        if self._on_event is not None:
            self._tell("miss", key=key, model=model)

    def kept(self, key: str, entry: Entry, evicted: int, expired: int) -> None:
        """An answer was stored, which made room by removing others."""
        with self._lock:
            self.stored += 1
            self.evictions += evicted
            self.expirations += expired
        if self._on_event is not None:
            self._tell_saving("stored", key, entry)
            if evicted:
                self._tell("evicted", number=evicted)
            if expired:
                self._tell("expired", number=expired)

    def expired(self, key: str | None, number: int = 1) -> None:
        with self._lock:
            self.expirations += number
        if self._on_event is not None:
            self._tell("expired", key=key, number=number)

    def skip(self, reason: str, key: str | None = None, model: str | None = None) -> bool:
        """Something was not stored; whether this is the first time for *reason*."""
        with self._lock:
            count = self._skipped.get(reason, 0) + 1
            self._skipped[reason] = count
        if self._on_event is not None:
            self._tell("skipped", key=key, model=model, reason=reason)
        return count == 1

    def error(self, operation: str) -> None:
        with self._lock:
            self.errors += 1
        if self._on_event is not None:
            self._tell("error", reason=operation)

    def snapshot(self, size: int) -> CacheStats:
        with self._lock:
            models = {name: _model_stats(self._saved.get(name), self._joined.get(name)) for name in {**self._saved, **self._joined}}
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
            )

    def _tell_saving(self, name: str, key: str, entry: Entry) -> None:
        tokens = entry.usage[0] + entry.usage[1] if entry.usage is not None else None
        self._tell(name, key=key, model=entry.model, seconds=entry.seconds, tokens=tokens, usd=entry.cost_usd, usage=entry.usage)

    def _tell(self, name: str, **fields: Any) -> None:
        try:
            self._on_event(Event(name, self._clock(), **fields))  # type: ignore[misc]  # callers have tested it
        except Exception:  # noqa: BLE001  # a listener's fault must not break the call that is being served
            log.warning(__name__, "on_event raised at %r; the call goes on", name, exc_info=True)


def _of_model(sums: dict[str, _Saved], model: str | None) -> _Saved:
    name = model or ""
    saved = sums.get(name)
    if saved is None:
        saved = sums[name] = _Saved()
    return saved


def _model_stats(hits: _Saved | None, joined: _Saved | None) -> ModelStats:
    one, two = hits or _Saved(), joined or _Saved()
    return ModelStats(
        hits=one.calls,
        coalesced=two.calls,
        input_tokens_saved=one.input_tokens + two.input_tokens,
        output_tokens_saved=one.output_tokens + two.output_tokens,
        seconds_saved=one.seconds + two.seconds,
        saved_usd=one.usd + two.usd,
        unpriced_hits=one.unpriced + two.unpriced,
        coalesced_tokens=two.input_tokens + two.output_tokens,
        coalesced_seconds=two.seconds,
        coalesced_usd=two.usd,
        coalesced_unpriced=two.unpriced,
    )
