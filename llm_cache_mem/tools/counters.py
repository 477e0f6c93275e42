"""Counters by tool, beside those of the cache's ledger."""

from collections.abc import Iterator, Mapping
from threading import RLock
from typing import Any, NamedTuple

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.accounting.bounded import slot
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.accounting.render import Row, as_html, as_text, avoided, shown
from llm_cache_mem.values.entry import Entry

__all__ = ["ToolCacheStats", "ToolLedger", "ToolStats", "label"]

_LABEL = "tool:"
_COUNTS = ("hits", "misses", "coalesced", "stored", "skipped")


def label(tool: str) -> str:
    """The label of *tool* in place of the model of a request."""
    return _LABEL + tool


class ToolStats(NamedTuple):
    """The counters of one tool. *seconds_saved* is that of hits only: a coalesced call waits."""

    hits: int = 0
    misses: int = 0
    coalesced: int = 0
    stored: int = 0
    skipped: int = 0
    seconds_saved: float = 0.0

    @property
    def asked(self) -> int:
        """How often the tool was asked for."""
        return self.hits + self.misses

    @property
    def avoided(self) -> int:
        """Runs that were not made: hits and coalesced calls."""
        return self.hits + self.coalesced

    @property
    def hit_rate(self) -> float:
        """Hits over lookups; 0.0 before the first."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0


class ToolCacheStats(NamedTuple):
    """A snapshot by tool. ``str()`` is aligned text; a notebook shows a table."""

    by_tool: Mapping[str, ToolStats]

    @property
    def total(self) -> ToolStats:
        """All tools together."""
        sums = [sum(column) for column in zip(*self.by_tool.values(), strict=True)]
        return ToolStats(*sums) if sums else ToolStats()

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON."""
        rows = {**self.by_tool, "": self.total}
        plain: dict[str, Any] = {
            name: {**stats._asdict(), "hit_rate": stats.hit_rate} for name, stats in rows.items()
        }
        return {"total": plain.pop(""), "by_tool": plain}

    def __str__(self) -> str:
        return as_text(self._headline(), (), self._tables())

    def _repr_html_(self) -> str:
        return as_html(self._headline(), (), self._tables())

    def _headline(self) -> str:
        return avoided(self.total.avoided, self.total.asked)

    def _tables(self) -> Iterator[list[Row]]:
        """The counters by tool, the one with most calls avoided first."""
        if self.by_tool:
            tools = sorted(self.by_tool.items(), key=lambda item: (-item[1].avoided, item[0]))
            yield shown(
                ("tool", "avoided", "asked", *_COUNTS, "seconds saved"),
                *(
                    (
                        name,
                        stats.avoided,
                        stats.asked,
                        *(getattr(stats, count) for count in _COUNTS),
                        stats.seconds_saved,
                    )
                    for name, stats in tools
                ),
            )


class ToolLedger:
    """The ledger *inner*, with counters by tool. Thread-safe."""

    def __init__(self, inner: Ledger) -> None:
        self._inner = inner
        self._lock = RLock()
        self._by_tool: dict[str, dict[str, float]] = {}
        reset_after_fork(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _after_fork(self) -> None:
        self._lock = RLock()

    def by_tool(self) -> ToolCacheStats:
        with self._lock:
            return ToolCacheStats(
                {name: ToolStats(**counts) for name, counts in self._by_tool.items()}  # type: ignore[arg-type]
            )

    def _count(self, model: str | None, what: str, by: float = 1) -> None:
        if model is None or not model.startswith(_LABEL):
            return
        with self._lock:
            counts = slot(self._by_tool, model[len(_LABEL) :], dict[str, float])
            counts[what] = counts.get(what, 0) + by

    # -- Events of an engine, as in Ledger

    def hit(self, key: str, entry: Entry, *details: Any) -> None:
        self._inner.hit(key, entry, *details)
        self._count(entry.model, "hits")
        self._count(entry.model, "seconds_saved", entry.seconds or 0.0)

    def coalesced_with(
        self, key: str, entry: Entry | None, model: str | None, *details: Any
    ) -> None:
        self._inner.coalesced_with(key, entry, model, *details)
        self._count(model, "coalesced")

    def miss(self, key: str, model: str | None, *details: Any) -> None:
        self._inner.miss(key, model, *details)
        self._count(model, "misses")

    def put(self, key: str, entry: Entry, *details: Any) -> None:
        self._inner.put(key, entry, *details)
        self._count(entry.model, "stored")

    def skip(
        self, reason: str, key: str | None = None, model: str | None = None, *details: Any
    ) -> bool:
        self._count(model, "skipped")
        return self._inner.skip(reason, key, model, *details)
