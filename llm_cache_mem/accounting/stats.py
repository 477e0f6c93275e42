"""Statistics of a cache: requests, answers from the cache, and what those saved."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from llm_cache_mem.accounting.provider import ProviderCacheStats, total
from llm_cache_mem.accounting.render import (
    Row,
    as_html,
    as_text,
    avoided,
    by_reason,
    saved,
    shown,
)
from llm_cache_mem.accounting.verified import VerifiedStats

__all__ = ["CacheStats", "Event", "ModelStats", "Saving", "TagStats", "VerifiedStats"]


class Event(NamedTuple):
    """An event for ``on_event=``; it never holds a prompt or an answer."""

    name: str
    """hit, miss, called (the model answered), stored, skipped, coalesced, expired, evicted or
    error."""
    at: float
    """Unix seconds."""
    key: str | None = None
    model: str | None = None
    seconds: float | None = None
    """For hit and coalesced the seconds saved, for called and stored the duration of the call."""
    tokens: int | None = None
    """As *seconds*: the sum of input and output tokens."""
    usd: float | None = None
    """As *seconds*: dollars; None if unknown."""
    reason: str | None = None
    """Why it was skipped, or which operation failed."""
    number: int = 1
    """How many entries, for evicted and expired."""
    usage: tuple[int, ...] | None = None
    """For hit, coalesced, called and stored: as Entry.usage."""
    age: float | None = None
    """For a hit, the seconds since the answer was stored."""
    store_seconds: float | None = None
    """For hit, miss and stored: how long the store took."""
    tags: Mapping[str, str] = MappingProxyType({})
    """The tags of the request, from ``options(tags=...)``."""
    namespace: str | None = None
    """The namespace of *key*; a long one is ``~`` and a hash."""
    layer: str | None = None
    """The layer that the request came through: core, http, langchain, llama_index, tool, or that of
    another integration."""


class Saving(NamedTuple):
    """The savings from one *source*: *calls* that it served, *tokens* not paid for or only at a
    discount; *unpriced* calls."""

    source: str
    calls: int
    tokens: int
    seconds: float
    usd: float
    unpriced: int


class ModelStats(NamedTuple):
    """What hits and coalesced calls of one model saved, in all and by coalesced calls alone.
    Unknown amounts count as 0."""

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


class TagStats(NamedTuple):
    """What the requests with one tag saved, and what the calls cost that were made for them.
    Unknown amounts count as 0."""

    hits: int = 0
    misses: int = 0
    """As in CacheStats: those that were then coalesced are among them."""
    coalesced: int = 0
    skipped: int = 0
    input_tokens_saved: int = 0
    output_tokens_saved: int = 0
    seconds_saved: float = 0.0
    saved_usd: float = 0.0
    unpriced_hits: int = 0
    calls: int = 0
    """The calls that were made."""
    input_tokens: int = 0
    output_tokens: int = 0
    paid_usd: float = 0.0
    unpriced_calls: int = 0

    @property
    def tokens_saved(self) -> int:
        """Input and output tokens that were not paid for."""
        return self.input_tokens_saved + self.output_tokens_saved


class CacheStats(NamedTuple):
    """A snapshot of the counters. ``str()`` leads with the calls avoided; a notebook
    shows tables."""

    hits: int
    """Lookups that were answered."""
    misses: int
    """Lookups that were not. The calls made are ``misses - coalesced``, or fewer if several callers
    shared the failure of one."""
    size: int
    """Entries that the namespace of the cache holds, with the small ones that ``depends_on`` and
    ``invalidate`` store for each name."""
    stored: int
    skipped: Mapping[str, int]
    """Answers and requests that were not stored, by reason."""
    evictions: int
    """Entries removed to make room."""
    expirations: int
    """Entries removed because they were too old, and lookups for which an entry was too old."""
    coalesced: int
    """Lookups that missed, and that a call already in progress answered."""
    errors: int
    """Failures of the store that cost a miss or a dropped write."""
    by_model: Mapping[str, ModelStats]
    provider_by_model: Mapping[str, ProviderCacheStats] = MappingProxyType({})
    """What the provider's own prompt cache saved on calls that were made, by model."""
    by_tag: Mapping[str, TagStats] = MappingProxyType({})
    """By tag, such as ``team=search``. A request with several tags counts for each. Past 1,000
    tags, as past 1,000 models, the rest is summed as ``other``."""

    verified: Mapping[str, VerifiedStats] = MappingProxyType({})
    """What came of verified hits, by model and kind of entry, such as ``gpt-4.1-mini value``."""
    total_size: int | None = None
    """Entries in all namespaces of the store; None where a server would have to count them."""

    @property
    def provider(self) -> ProviderCacheStats:
        """What the provider's prompt cache did for all models."""
        return total(self.provider_by_model)

    @property
    def avoided(self) -> int:
        """Calls that were not made: hits and coalesced calls."""
        return self.hits + self.coalesced

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
        """Seconds that the saved calls took when they were made; for coalesced calls less the time
        they waited."""
        return sum(model.seconds_saved for model in self.by_model.values())

    @property
    def saved_usd(self) -> float:
        """Dollars that the saved calls cost when they were made."""
        return sum(model.saved_usd for model in self.by_model.values())

    @property
    def unpriced_hits(self) -> int:
        """Saved calls of unknown price, which are not in ``saved_usd``."""
        return sum(model.unpriced_hits for model in self.by_model.values())

    def as_dict(self) -> dict[str, Any]:
        """Everything above as plain JSON, for machines."""
        totals = (
            "avoided",
            "hit_rate",
            "tokens_saved",
            "seconds_saved",
            "saved_usd",
            "unpriced_hits",
        )
        models = {
            name: {**model._asdict(), "tokens_saved": model.tokens_saved}
            for name, model in self.by_model.items()
        }
        there = {name: model.as_dict() for name, model in self.provider_by_model.items()}
        plain = {
            **self._asdict(),
            "skipped": dict(self.skipped),
            "by_model": models,
            "provider_by_model": there,
            "verified": {name: stats.as_dict() for name, stats in self.verified.items()},
            "by_tag": {
                tag: {**stats._asdict(), "tokens_saved": stats.tokens_saved}
                for tag, stats in self.by_tag.items()
            },
        }
        return (
            plain
            | {"provider": self.provider.as_dict()}
            | {name: getattr(self, name) for name in totals}
        )

    def savings(self) -> tuple[Saving, Saving, Saving]:
        """The savings of hits, of coalesced calls, and of the provider's prompt cache."""
        models = self.by_model.values()
        coalesced_seconds, coalesced_usd = (
            sum(m.coalesced_seconds for m in models),
            sum(m.coalesced_usd for m in models),
        )
        coalesced_tokens, coalesced_unpriced = (
            sum(m.coalesced_tokens for m in models),
            sum(m.coalesced_unpriced for m in models),
        )
        seconds, usd = self.seconds_saved - coalesced_seconds, self.saved_usd - coalesced_usd
        there = self.provider
        return (
            Saving(
                "hits",
                self.hits,
                self.tokens_saved - coalesced_tokens,
                seconds,
                usd,
                self.unpriced_hits - coalesced_unpriced,
            ),
            Saving(
                "coalesced",
                self.coalesced,
                coalesced_tokens,
                coalesced_seconds,
                coalesced_usd,
                coalesced_unpriced,
            ),
            Saving(
                "provider's cache",
                there.cached_calls,
                there.read_tokens,
                there.seconds_saved,
                there.saved_usd,
                there.unpriced_calls,
            ),
        )

    def __str__(self) -> str:
        return as_text(self._headline(), self._facts(), self._tables())

    def _repr_html_(self) -> str:
        return as_html(self._headline(), self._facts(), self._tables())

    def _headline(self) -> str:
        return avoided(self.avoided, self.hits + self.misses)

    def _facts(self) -> Iterator[tuple[str, str]]:
        """The figures by name, those that are not zero."""
        counts = (
            ("hits", self.hits),
            ("misses", self.misses),
            ("coalesced", self.coalesced),
            ("evictions", self.evictions),
            ("expirations", self.expirations),
            ("errors", self.errors),
            ("tokens saved", self.tokens_saved),
        )
        if self.hits:
            yield "hit rate", f"{self.hit_rate:.0%}"
        yield from ((name, f"{count:,}") for name, count in counts if count)
        if self.total_size not in (None, self.size):
            yield "entries", f"{self.size:,} in this namespace, {self.total_size:,} in all"
        elif self.size:
            yield "entries", f"{self.size:,}"
        if self.skipped:
            yield "skipped", by_reason(self.skipped)
        for name, stats in self.verified.items():
            if stats.checked:
                low, high = stats.interval
                share = f"{stats.agreed:,} of {stats.checked:,} agree ({low:.1%} to {high:.1%})"
                yield f"verified {name.strip()}", share
        if self.seconds_saved >= 0.05:
            yield "seconds saved", f"{self.seconds_saved:,.1f}"
        if self.avoided:
            yield "dollars saved", saved(self.saved_usd, self.unpriced_hits, self.avoided)

    def _tables(self) -> Iterator[list[Row]]:
        """The savings by source, model and tag, each where there is more than one to tell apart."""
        sources = [saving for saving in self.savings() if saving.calls or saving.usd]
        if len(sources) > 1 or self.provider.saved_usd:
            yield shown(
                ("saved by", "calls", "tokens", "seconds", "dollars"),
                *(
                    (s.source, s.calls, s.tokens, s.seconds, saved(s.usd, s.unpriced, s.calls))
                    for s in sources
                ),
            )
        if self.by_model:
            models = sorted(self.by_model.items(), key=lambda item: -item[1].saved_usd)
            yield shown(
                ("model", "hits", "coalesced", "tokens", "seconds", "dollars"),
                *(
                    (
                        name or "(no model)",
                        m.hits,
                        m.coalesced,
                        m.tokens_saved,
                        m.seconds_saved,
                        saved(m.saved_usd, m.unpriced_hits, m.hits + m.coalesced),
                    )
                    for name, m in models
                ),
            )
        if self.by_tag:
            tags = sorted(self.by_tag.items(), key=lambda item: (-item[1].paid_usd, item[0]))
            yield shown(
                ("tag", "hits", "coalesced", "calls made", "dollars paid", "dollars saved"),
                *(
                    (
                        tag,
                        t.hits,
                        t.coalesced,
                        t.calls,
                        saved(t.paid_usd, t.unpriced_calls, t.calls),
                        saved(t.saved_usd, t.unpriced_hits, t.hits + t.coalesced),
                    )
                    for tag, t in tags
                ),
            )
