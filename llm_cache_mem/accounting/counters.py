"""Counters: what was asked, what was answered from the cache, what that saved; stats.py makes the
picture of them."""

import logging
from collections.abc import Callable
from threading import RLock  # re-entrant: a signal handler may ask in the middle of it
from typing import TYPE_CHECKING, Any

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.values.entry import Entry

if TYPE_CHECKING:  # loaded by those who look at the counters, or are told of events
    from llm_cache_mem.accounting.provider import PaidCall, ProviderLedger
    from llm_cache_mem.accounting.stats import CacheStats, Event, ModelStats

__all__ = ["Ledger"]

_log = logging.getLogger(__name__)


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

    def __init__(
        self, clock: Callable[[], float], on_event: "Callable[[Event], object] | None"
    ) -> None:
        self._clock = clock
        self._on_event = on_event
        self._lock = RLock()
        self.hits = self.misses = self.stored = self.evictions = self.expirations = (
            self.coalesced
        ) = self.errors = 0
        self._skipped: dict[str, int] = {}
        self._saved: dict[str, _Saved] = {}
        self._joined: dict[str, _Saved] = {}
        self._provider: ProviderLedger | None = None
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

    def coalesced_with(
        self, key: str, entry: Entry | None, model: str | None, waited: float
    ) -> None:
        """A lookup that missed was answered by a call in flight, after *waited* seconds; *entry* is
        what that call stored, if it did."""
        with self._lock:
            self.coalesced += 1
            saved = _of_model(self._joined, entry.model if entry is not None else model)
            if entry is not None:
                seconds = None if entry.seconds is None else max(0.0, entry.seconds - waited)
                saved.add(entry.usage, seconds, entry.cost_usd)
            else:
                saved.add(None, None, None)
        if self._on_event is not None:
            if entry is not None:
                self._tell_saving("coalesced", key, entry)
            else:
                self._tell("coalesced", key=key, model=model)

    def paid(self, call: "PaidCall", *, observed: bool = False) -> bool:
        """A provider was paid for *call*, which went through the cache or was *observed* by a
        tracker; whether that is news."""
        with self._lock:
            return self._of_provider().add(call, observed=observed)

    def watch(self) -> None:
        """A tracker will tell of calls too; those that both it and the cache tell of count once."""
        with self._lock:
            self.watched = True
            self._of_provider().watch()

    def miss(self, key: str, model: str | None) -> None:
        with self._lock:
            self.misses += 1
        if self._on_event is not None:
            self._tell("miss", key=key, model=model)

    def put(self, key: str, entry: Entry, evicted: int, expired: int) -> None:
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

    def snapshot(self, size: int) -> "CacheStats":
        from llm_cache_mem.accounting.stats import CacheStats

        with self._lock:
            models = {
                name: _model_stats(self._saved.get(name), self._joined.get(name))
                for name in {**self._saved, **self._joined}
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
                provider_by_model=self._provider.by_model() if self._provider is not None else {},
            )

    def _of_provider(self) -> "ProviderLedger":
        if self._provider is None:
            from llm_cache_mem.accounting.provider import (
                ProviderLedger,
            )  # loaded with the first call that is paid for

            self._provider = ProviderLedger()
        return self._provider

    def _tell_saving(self, name: str, key: str, entry: Entry) -> None:
        tokens = entry.usage[0] + entry.usage[1] if entry.usage is not None else None
        self._tell(
            name,
            key=key,
            model=entry.model,
            seconds=entry.seconds,
            tokens=tokens,
            usd=entry.cost_usd,
            usage=entry.usage,
        )

    def _tell(self, name: str, **fields: Any) -> None:
        from llm_cache_mem.accounting.stats import Event

        try:
            # callers have tested it
            self._on_event(Event(name, self._clock(), **fields))  # type: ignore[misc]
        # a listener's fault must not break the call that is being served
        except Exception:  # noqa: BLE001
            _log.warning("on_event raised at %r; the call goes on", name, exc_info=True)


def _of_model(sums: dict[str, _Saved], model: str | None) -> _Saved:
    name = model or ""
    saved = sums.get(name)
    if saved is None:
        saved = sums[name] = _Saved()
    return saved


def _model_stats(hits: _Saved | None, joined: _Saved | None) -> "ModelStats":
    from llm_cache_mem.accounting.stats import ModelStats

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
