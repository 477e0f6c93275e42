"""Sum what the requests with one tag, such as ``team=search``, saved and cost."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from llm_cache_mem.accounting.stats import TagStats
from llm_cache_mem.accounting.sums import Sums

__all__ = ["TagSums", "tags_of"]


class TagSums:
    """Running sums of the requests with one tag: *saved* by hits and coalesced calls, *paid* for
    the calls made. Not thread-safe."""

    def __init__(self) -> None:
        self.hits = self.misses = self.coalesced = self.skipped = 0
        self.saved, self.paid = Sums(), Sums()

    def hit(self, *saved: Any, calls: int = 1) -> None:
        self.hits += calls
        self.saved.add(*saved, calls=calls)

    def merge(self, other: "TagSums") -> None:
        """Add the hits of *other*, which has nothing else."""
        self.hits += other.hits
        self.saved.merge(other.saved)

    def coalesce(self, *saved: Any) -> None:
        self.coalesced += 1
        self.saved.add(*saved)

    def stats(self) -> TagStats:
        saved, paid = self.saved, self.paid
        return TagStats(
            hits=self.hits,
            misses=self.misses,
            coalesced=self.coalesced,
            skipped=self.skipped,
            input_tokens_saved=saved.input_tokens,
            output_tokens_saved=saved.output_tokens,
            seconds_saved=saved.seconds,
            saved_usd=saved.cost_usd,
            unpriced_hits=saved.unpriced,
            calls=paid.calls,
            input_tokens=paid.input_tokens,
            output_tokens=paid.output_tokens,
            paid_usd=paid.cost_usd,
            unpriced_calls=paid.unpriced,
        )


def tags_of(tags: tuple[str, ...]) -> Mapping[str, str]:
    """Texts such as ``team=search`` as a mapping."""
    if not tags:
        return _NO_TAGS
    return {name: value for name, _, value in (tag.partition("=") for tag in tags)}


_NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})
