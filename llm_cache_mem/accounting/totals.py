"""The totals that a store keeps: what all processes that share it have counted, for people and
machines."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from llm_cache_mem.accounting.counts import HIDDEN_MODEL, Counts, Place
from llm_cache_mem.accounting.render import Row, as_html, as_text, avoided, saved, shown

__all__ = ["StoreTotals", "label"]


class StoreTotals(NamedTuple):
    """The sums of all processes by namespace and model. ``str()`` leads with the calls avoided; a
    notebook shows tables."""

    since: float | None
    """When the first process began to add to them, in Unix seconds; None: nothing was counted."""
    counts: Mapping[Place, Counts]

    def of(self, namespace: str) -> "StoreTotals":
        """Those of one namespace."""
        some = {place: sums for place, sums in self.counts.items() if place[0] == namespace}
        return self._replace(counts=some)

    @property
    def total(self) -> Counts:
        """All of it together."""
        return sum(self.counts.values(), Counts())

    @property
    def by_namespace(self) -> dict[str, Counts]:
        """The sums of each namespace, the one with most calls first."""
        return self._by(0)

    @property
    def by_model(self) -> dict[str, Counts]:
        """The sums of each model, the one with most calls first."""
        return self._by(1)

    def _by(self, part: int) -> dict[str, Counts]:
        sums: dict[str, Counts] = {}
        for place, counts in self.counts.items():
            sums[place[part]] = sums.get(place[part], Counts()) + counts
        return dict(sorted(sums.items(), key=lambda item: (-item[1].asked, item[0])))

    def as_dict(self) -> dict[str, Any]:
        """Everything above as plain JSON."""
        return {
            "since": self.since,
            **self.total.as_dict(),
            "by_namespace": {name: sums.as_dict() for name, sums in self.by_namespace.items()},
            "by_model": {name: sums.as_dict() for name, sums in self.by_model.items()},
        }

    def __str__(self) -> str:
        return as_text(self._headline(), self._facts(), self.tables())

    def _repr_html_(self) -> str:
        return as_html(self._headline(), self._facts(), self.tables())

    def _headline(self) -> str:
        return avoided(self.total.avoided, self.total.asked)

    def _facts(self) -> Iterator[tuple[str, str]]:
        """The figures by name, those that are not zero."""
        total = self.total
        if self.since is not None:
            at = datetime.fromtimestamp(self.since).astimezone()
            yield "since", at.isoformat(sep=" ", timespec="minutes")
        counts = (
            ("hits", total.hits),
            ("misses", total.misses),
            ("coalesced", total.coalesced),
            ("stored", total.stored),
            ("skipped", total.skipped),
            ("calls made", total.calls),
            ("tokens saved", total.tokens_saved),
        )
        yield from ((name, f"{count:,}") for name, count in counts if count)
        if total.seconds_saved >= 0.05:
            yield "seconds saved", f"{total.seconds_saved:,.1f}"
        if total.avoided:
            yield "dollars saved", saved(total.saved_usd, total.unpriced, total.avoided)
        if total.calls:
            yield "dollars paid", saved(total.paid_usd, total.unpriced_calls, total.calls)

    def tables(self) -> Iterator[list[Row]]:
        """The same by namespace and by model."""
        for name, groups, unnamed in (
            ("namespace", self.by_namespace, "(default)"),
            ("model", self.by_model, "(no model)"),
        ):
            if groups:
                yield shown(
                    (name, "avoided", "asked", "tokens", "seconds", "saved", "paid"),
                    *((label(each, unnamed), *_cells(sums)) for each, sums in groups.items()),
                )


def label(name: str, unnamed: str) -> str:
    """How a table names a namespace or a model, *unnamed* where it has no name."""
    return "(encrypted)" if name == HIDDEN_MODEL else name or unnamed


def _cells(sums: Counts) -> tuple[str | int | float, ...]:
    usd = saved(sums.saved_usd, sums.unpriced, sums.avoided) if sums.avoided else "0"
    paid = saved(sums.paid_usd, sums.unpriced_calls, sums.calls) if sums.calls else "0"
    return sums.avoided, sums.asked, sums.tokens_saved, sums.seconds_saved, usd, paid
