"""What the charts of a report show, as plain series: pages and pictures draw the same."""

from collections.abc import Iterator
from typing import NamedTuple

from llm_cache_mem.bench.report import Document
from llm_cache_mem.bench.words import bound, size, span

__all__ = ["Bars", "Lines", "charts"]


class Bars(NamedTuple):
    """A value for each label; shares, 1 being all."""

    name: str
    title: str
    bars: list[tuple[str, float]]


class Lines(NamedTuple):
    """Lines over the same *ticks*; shares, 1 being all. *across* names what the ticks are."""

    name: str
    title: str
    across: str
    ticks: list[str]
    lines: dict[str, list[float]]


def charts(document: Document) -> Iterator[Bars | Lines]:
    """The charts of *document* that have something to show."""
    yield Bars("savings", "Share of the uncached bill that is saved", list(_savings(document)))
    yield from _hit_rates(document)
    if document["policies"]:
        ticks = [size(row["max_size"]) for row in document["policies"]]
        calls = document["trace"]["calls"]
        lines = {"best possible": [row["best"] / calls for row in document["policies"]]}
        for name in document["policies"][0]["hits"]:
            lines[name] = [row["hits"][name] / calls for row in document["policies"]]
        yield Lines(
            "policies",
            "Hit rate by eviction policy, entries living for ever",
            "entries",
            ticks,
            lines,
        )


def _savings(document: Document) -> Iterator[tuple[str, float]]:
    several = len({row["policy"] for row in document["client"]}) > 1
    for row in document["client"]:
        name = (
            f"{bound(row['max_size'], row['ttl_seconds'])}{', ' + row['policy'] if several else ''}"
        )
        yield f"client: {name}", row["saved_share"]
        for both in row["with_provider"][:1]:
            yield f"  + prompt cache {span(both['ttl_seconds'])}", both["write_all"]["saved_share"]
    for row in document["provider"]:
        yield (
            f"prompt cache {span(row['ttl_seconds'])}, all written",
            row["write_all"]["saved_share"],
        )
        yield (
            f"prompt cache {span(row['ttl_seconds'])}, no surcharge",
            row["free_writes"]["saved_share"],
        )


def _hit_rates(document: Document) -> Iterator[Lines]:
    rows = document["client"]
    sizes = list(dict.fromkeys(row["max_size"] for row in rows))
    if len(sizes) < 2:
        return
    lines: dict[str, list[float]] = {}
    several = len({row["policy"] for row in rows}) > 1
    for row in rows:
        name = f"ttl {span(row['ttl_seconds'])}{', ' + row['policy'] if several else ''}"
        lines.setdefault(name, []).append(row["hit_rate"])
    yield Lines(
        "hit_rates",
        "Hit rate of the client cache by its size",
        "entries",
        [size(entries) for entries in sizes],
        lines,
    )
