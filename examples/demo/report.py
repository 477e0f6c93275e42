"""Summarise the records of a run, and show the summary in tables."""

from collections import Counter
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any, NamedTuple

from rich.table import Table

from llm_cache_mem.accounting.render import avoided

__all__ = ["Summary", "Totals", "phases_table", "summarise", "totals_table"]

Record = dict[str, Any]

_COLUMNS = ("hits", "coalesced", "paid", "seconds")


class Totals(NamedTuple):
    """Sums over records. *dollars* leaves out calls without a known price, which *unpriced*
    counts."""

    calls: int = 0
    tokens: int = 0
    dollars: float = 0.0
    seconds: float = 0.0
    unpriced: int = 0


class Phase(NamedTuple):
    name: str
    asked: int
    hits: int
    coalesced: int
    paid: int
    skipped: int
    seconds: float

    @property
    def avoided(self) -> int:
        return self.hits + self.coalesced


class Example(NamedTuple):
    question: str
    answer: str
    paid_ms: float
    hit_ms: float


class Summary(NamedTuple):
    """A run: its phases, what was paid and saved, median milliseconds of misses and hits, and how
    many cached answers differed.

    *example* is a question paid for before the restart and answered from the database after it.
    """

    phases: list[Phase]
    all: Phase
    skipped: dict[str, int]
    paid: Totals
    saved: Totals
    p50_ms: dict[str, float]
    answers_compared: int
    answers_different: int
    example: Example | None

    def as_dict(self) -> dict[str, Any]:
        plain = self._asdict()
        plain |= {"phases": [phase._asdict() for phase in self.phases], "all": self.all._asdict()}
        example = None if self.example is None else self.example._asdict()
        return plain | {
            "paid": self.paid._asdict(),
            "saved": self.saved._asdict(),
            "example": example,
        }


def summarise(records: list[Record]) -> Summary:
    names = dict.fromkeys(record["phase"] for record in records)
    phases = [
        _phase(name, [record for record in records if record["phase"] == name]) for name in names
    ]
    paid = [record for record in records if record["paid"]]
    not_paid = [record for record in records if not record["paid"]]
    compared, different = _compare(records)
    return Summary(
        phases=phases,
        all=_phase("all", records),
        skipped=dict(Counter(record["skipped"] for record in records if record["skipped"])),
        paid=_totals(paid, "seconds"),
        saved=_totals(not_paid, "saved_seconds"),
        p50_ms=dict(_medians(records)),
        answers_compared=compared,
        answers_different=different,
        example=_example(records),
    )


def _phase(name: str, records: list[Record]) -> Phase:
    outcomes = Counter(record["outcome"] for record in records)
    paid = sum(record["paid"] for record in records)
    skipped = sum(record["skipped"] is not None for record in records)
    seconds = sum(
        record["seconds"] for record in records if record["outcome"] != "coalesced"
    )  # coalesced calls wait for one that is counted
    hits, coalesced = outcomes["hit"], outcomes["coalesced"]
    return Phase(name, len(records), hits, coalesced, paid, skipped, seconds)


def _totals(records: list[Record], seconds: str) -> Totals:
    prices = [record["usd"] for record in records if record["usd"] is not None]
    tokens = sum(record["tokens"] or 0 for record in records)
    return Totals(
        len(records),
        tokens,
        sum(prices),
        sum(record.get(seconds) or 0.0 for record in records),
        len(records) - len(prices),
    )


def _medians(records: list[Record]) -> Iterator[tuple[str, float]]:
    """Yield medians over the questions asked one at a time: concurrent ones wait for each
    other."""
    alone = [record for record in records if not record["at_once"]]
    groups = {"miss": [r for r in alone if r["outcome"] == "paid"]}
    for store in ("memory", "SQLite"):
        groups[f"hit, {store}"] = [
            r for r in alone if r["outcome"] == "hit" and r["store"] == store
        ]
    for name, members in groups.items():
        if members:
            yield name, 1000 * median(record["seconds"] for record in members)


def _compare(records: Iterable[Record]) -> tuple[int, int]:
    """Return how many answers came from the cache, and how many of those differ from every answer
    paid for."""
    paid_for: dict[str, set[str]] = {}
    for record in records:
        if record["paid"]:
            paid_for.setdefault(record["request"], set()).add(record["answer"])
    free = [record for record in records if not record["paid"]]
    return len(free), sum(
        record["answer"] not in paid_for.get(record["request"], ()) for record in free
    )


def _example(records: list[Record]) -> Example | None:
    """Return the first hit on an answer that an earlier process paid for."""
    paid = {record["request"]: record for record in records if record["paid"]}
    for hit in records:
        first = paid.get(hit["request"])
        if (
            hit["outcome"] == "hit"
            and hit["text"]
            and first is not None
            and first["session"] < hit["session"]
        ):
            return Example(
                hit["question"], hit["text"], 1000 * first["seconds"], 1000 * hit["seconds"]
            )
    return None


def phases_table(summary: Summary) -> Table:
    """A table of the phases that leads with the calls avoided; zeros are left blank."""
    whole = summary.all
    table = Table(title=avoided(whole.avoided, whole.asked), title_justify="left", show_footer=True)
    table.add_column("", footer="all")
    table.add_column("calls avoided", justify="right", footer=_avoided(whole))
    for heading in _COLUMNS:
        value = getattr(whole, heading)
        table.add_column(heading, justify="right", footer=_number(value))
    for phase in summary.phases:
        counts = (_number(getattr(phase, name)) for name in _COLUMNS)
        table.add_row(phase.name, _avoided(phase), *counts)
    return table


def _avoided(phase: Phase) -> str:
    return f"{phase.avoided:,} of {phase.asked:,} ({phase.avoided / phase.asked:.0%})"


def _number(value: float) -> str:
    shown = f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
    return "" if shown in ("0", "0.0") else shown


def totals_table(summary: Summary, dollars: str) -> Table:
    """Return a table of what was paid and saved. *dollars* is the label of the row of costs."""
    table = Table(title="Totals", title_justify="left")
    table.add_column("")
    for heading in ("without the cache", "paid", "saved", "share saved"):
        table.add_column(heading, justify="right")
    rows = (
        ("calls to the model", "calls", "{:,}"),
        ("tokens", "tokens", "{:,}"),
        (dollars, "dollars", "${:,.4f}"),
    )
    for name, field, form in (*rows, ("seconds of waiting", "seconds", "{:,.1f}")):
        paid, saved = getattr(summary.paid, field), getattr(summary.saved, field)
        share = f"{saved / (paid + saved):.0%}" if paid + saved else "—"
        unknown = field == "dollars" and summary.paid.unpriced + summary.saved.unpriced
        cells = (
            ["—"] * 3
            if unknown and not paid + saved
            else [form.format(v) for v in (paid + saved, paid, saved)]
        )
        table.add_row(name, *cells, share)
    return table
