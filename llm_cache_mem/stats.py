"""Counters, and the picture of them that users see: what was asked, what was answered from the cache, what that saved."""

from _thread import RLock  # re-entrant: a signal handler may ask in the middle of it
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from llm_cache_mem import log
from llm_cache_mem.entry import Entry
from llm_cache_mem.fork import reset_after_fork

__all__ = ["CacheStats", "Event", "Ledger", "ModelStats"]


class Event(NamedTuple):
    """One thing that happened, for ``on_event=``; it never holds a prompt or an answer.

    *name*: hit, miss, stored, skipped, coalesced, expired, evicted or error. *at*: Unix seconds. *seconds*, *tokens* and *usd*: for
    hit and coalesced what was saved, for stored what the call cost. *reason*: why it was skipped, or which operation failed.
    *number*: how many (of evicted and expired).
    """

    name: str
    at: float
    key: str | None = None
    model: str | None = None
    seconds: float | None = None
    tokens: int | None = None
    usd: float | None = None
    reason: str | None = None
    number: int = 1


class ModelStats(NamedTuple):
    """What one model's hits and coalesced calls saved. Seconds and tokens that nobody recorded count as 0."""

    hits: int = 0
    coalesced: int = 0
    input_tokens_saved: int = 0
    output_tokens_saved: int = 0
    seconds_saved: float = 0.0
    saved_usd: float = 0.0
    unpriced_hits: int = 0

    @property
    def tokens_saved(self) -> int:
        """Input and output tokens that were not paid for."""
        return self.input_tokens_saved + self.output_tokens_saved


class CacheStats(NamedTuple):
    """A snapshot of the counters. ``str()`` is aligned text; a notebook shows a table.

    *hits* and *misses* count lookups; *hit_rate* is their share, from 0 to 1. *coalesced*: lookups that missed and then joined
    a call in flight, so the calls paid for are ``misses - coalesced``. *skipped*: answers and requests not stored, by reason.
    *seconds_saved* counts hits only: who joins a call waits for it. *saved_usd* is what the stored calls really cost;
    *unpriced_hits* are those of hits and coalesced calls whose price nobody knows.
    """

    hits: int
    misses: int
    size: int
    stored: int
    skipped: Mapping[str, int]
    evictions: int
    expirations: int
    coalesced: int
    errors: int
    by_model: Mapping[str, ModelStats]

    @property
    def hit_rate(self) -> float:
        """Hits over lookups; 0.0 before the first."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0

    @property
    def tokens_saved(self) -> int:
        """Input and output tokens of the calls that were not made."""
        return sum(model.tokens_saved for model in self.by_model.values())

    @property
    def seconds_saved(self) -> float:
        """Seconds that the calls not made took when they were made."""
        return sum(model.seconds_saved for model in self.by_model.values())

    @property
    def saved_usd(self) -> float:
        """Dollars that the calls not made cost when they were made."""
        return sum(model.saved_usd for model in self.by_model.values())

    @property
    def unpriced_hits(self) -> int:
        """Calls saved whose price nobody knows: what they saved is not in ``saved_usd``."""
        return sum(model.unpriced_hits for model in self.by_model.values())

    def as_dict(self) -> dict[str, Any]:
        """Everything above as plain JSON, for machines."""
        totals = ("hit_rate", "tokens_saved", "seconds_saved", "saved_usd", "unpriced_hits")
        models = {name: {**model._asdict(), "tokens_saved": model.tokens_saved} for name, model in self.by_model.items()}
        plain = {**self._asdict(), "skipped": dict(self.skipped), "by_model": models}
        return plain | {name: getattr(self, name) for name in totals}

    def __str__(self) -> str:
        rows = list(_summary(self))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        if self.by_model:
            lines += ["", *_aligned(_model_rows(self))]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from html import escape  # slow to import, and only notebooks ask

        rows = [f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in _summary(self)]
        table = f"<table>{''.join(rows)}</table>"
        if self.by_model:
            head, *body = _model_rows(self)
            cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
            lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
            table += f"<table><tr>{cells}</tr>{lines}</table>"
        return table


def _summary(stats: CacheStats) -> Iterator[tuple[str, str]]:
    yield "hits", f"{stats.hits:,}"
    yield "misses", f"{stats.misses:,}"
    yield "hit rate", f"{stats.hit_rate:.1%}"
    yield "size", f"{stats.size:,}"
    yield "stored", f"{stats.stored:,}"
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(stats.skipped.items()))
    yield "skipped", reasons or "0"
    yield "evictions", f"{stats.evictions:,}"
    yield "expirations", f"{stats.expirations:,}"
    yield "coalesced", f"{stats.coalesced:,}"
    yield "errors", f"{stats.errors:,}"
    yield "tokens saved", f"{stats.tokens_saved:,}"
    yield "seconds saved", f"{stats.seconds_saved:,.1f}"
    unpriced = f" (and {stats.unpriced_hits:,} hits of unknown price)" if stats.unpriced_hits else ""
    yield "dollars saved", f"${stats.saved_usd:,.4f}{unpriced}"


def _model_rows(stats: CacheStats) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("model", "hits", "coalesced", "tokens saved", "seconds saved", "dollars saved", "unpriced")]
    for name, model in sorted(stats.by_model.items(), key=lambda item: -item[1].saved_usd):
        rows.append(
            (
                name or "(no model)",
                f"{model.hits:,}",
                f"{model.coalesced:,}",
                f"{model.tokens_saved:,}",
                f"{model.seconds_saved:,.1f}",
                f"${model.saved_usd:,.4f}",
                f"{model.unpriced_hits:,}",
            )
        )
    return rows


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


class _Saved:
    """The running sums of one model."""

    __slots__ = ("coalesced", "hits", "input_tokens", "output_tokens", "seconds", "unpriced", "usd")

    def __init__(self) -> None:
        self.hits = self.coalesced = self.input_tokens = self.output_tokens = self.unpriced = 0
        self.seconds = self.usd = 0.0

    def add(self, usage: tuple[int, ...] | None, seconds: float | None, cost: float | None) -> None:
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
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = RLock()

    def hit(self, key: str, entry: Entry) -> None:
        with self._lock:
            self.hits += 1
            saved = self._saved.get(entry.model or "") or self._of_model(entry.model)
            saved.hits += 1
            saved.add(entry.usage, entry.seconds, entry.cost_usd)
        if self._on_event is not None:
            self._tell_saving("hit", key, entry)

    def joined(self, key: str, entry: Entry | None, model: str | None) -> None:
        """A lookup that missed was answered by a call in flight; *entry* is what that call stored, if it did."""
        with self._lock:
            self.coalesced += 1
            saved = self._of_model(entry.model if entry is not None else model)
            saved.coalesced += 1
            if entry is not None:
                saved.add(entry.usage, None, entry.cost_usd)  # who joins a call waits for it: no seconds are saved
            else:
                saved.unpriced += 1
        if self._on_event is not None:
            if entry is not None:
                self._tell_saving("coalesced", key, entry)
            else:
                self._tell("coalesced", key=key, model=model)

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
            models = {
                name: ModelStats(s.hits, s.coalesced, s.input_tokens, s.output_tokens, s.seconds, s.usd, s.unpriced)
                for name, s in self._saved.items()
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
            )

    def _of_model(self, model: str | None) -> _Saved:
        name = model or ""
        saved = self._saved.get(name)
        if saved is None:
            saved = self._saved[name] = _Saved()
        return saved

    def _tell_saving(self, name: str, key: str, entry: Entry) -> None:
        tokens = entry.usage[0] + entry.usage[1] if entry.usage is not None else None
        self._tell(name, key=key, model=entry.model, seconds=entry.seconds, tokens=tokens, usd=entry.cost_usd)

    def _tell(self, name: str, **fields: Any) -> None:
        try:
            self._on_event(Event(name, self._clock(), **fields))  # type: ignore[misc]  # callers have tested it
        except Exception:  # noqa: BLE001  # a listener's fault must not break the call that is being served
            log.warning(__name__, "on_event raised at %r; the call goes on", name, exc_info=True)
