"""The charts of a report, drawn with matplotlib (extra ``plot``)."""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

try:
    import matplotlib
except ModuleNotFoundError as exc:
    if exc.name != "matplotlib":  # installed but broken: let that error speak
        raise
    raise ImportError(
        "charts need matplotlib: pip install 'llm-cache-mem[plot]'", name="matplotlib"
    ) from None

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from llm_cache_mem.bench.report import Document
from llm_cache_mem.bench.tables import duration, limits, percent, reads_prompts, size

__all__ = ["Bars", "Lines", "charts", "draw", "save_png", "to_svg"]

_GAIN, _LOSS = "#1f7a4d", "#b3392f"


class Bars(NamedTuple):
    """A bar chart: a share from 0 to 1 for each label."""

    name: str
    title: str
    bars: list[tuple[str, float]]


class Lines(NamedTuple):
    """A line chart of shares from 0 to 1 over common *ticks*; *across* labels their axis."""

    name: str
    title: str
    across: str
    ticks: list[str]
    lines: dict[str, list[float]]


def charts(document: Document) -> Iterator[Bars | Lines]:
    """Yield the charts of *document* that have data."""
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
            "Hit rate by eviction policy, without expiry",
            "entries",
            ticks,
            lines,
        )


def draw(chart: Bars | Lines) -> Figure:
    """*chart* as a matplotlib figure, without a window or global state."""
    with matplotlib.rc_context(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        tall = 1.2 + 0.28 * len(chart.bars) if isinstance(chart, Bars) else 4.0
        figure = Figure(figsize=(8, tall), layout="constrained")
        axes: Any = figure.add_subplot()
        axes.set_title(chart.title, loc="left")
        _bars(axes, chart) if isinstance(chart, Bars) else _lines(axes, chart)
        return figure


def save_png(document: Document, folder: Path) -> list[Path]:
    """Write a PNG of each chart of *document* into *folder*, creating it if needed; return the
    paths. OSError if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chart in charts(document):
        path = folder / f"{chart.name}.png"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            draw(chart).savefig(file, dpi=150, format="png")
        written.append(path)
    return written


def to_svg(chart: Bars | Lines) -> str:
    """*chart* as an SVG element for a page of HTML: its text as text, and no URL in it."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": chart.name}):
        draw(chart).savefig(text, format="svg", metadata={"Date": None})
    element = text.getvalue().partition("<svg")[2]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    return "<svg" + re.sub(r' xmlns(:xlink)?="[^"]*"', "", element)


def _savings(document: Document) -> Iterator[tuple[str, float]]:
    reads = reads_prompts(document)
    several = len({row["policy"] for row in document["client"]}) > 1
    for row in document["client"]:
        policy = f", {row['policy']}" if several else ""
        name = limits(row["max_size"], row["ttl_seconds"]) + policy
        yield f"client: {name}", row["saved_share"]
        for both in row["with_provider"][:1] if reads else ():
            yield (
                f"  + prompt cache {duration(both['ttl_seconds'])}",
                both["write_all"]["saved_share"],
            )
    for row in document["provider"] if reads else ():
        yield (
            f"prompt cache {duration(row['ttl_seconds'])}, all written",
            row["write_all"]["saved_share"],
        )
        yield (
            f"prompt cache {duration(row['ttl_seconds'])}, no surcharge",
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
        name = f"ttl {duration(row['ttl_seconds'])}{', ' + row['policy'] if several else ''}"
        lines.setdefault(name, []).append(row["hit_rate"])
    yield Lines(
        "hit_rates",
        "Hit rate of the client cache by its size",
        "entries",
        [size(entries) for entries in sizes],
        lines,
    )


def _bars(axes: Any, chart: Bars) -> None:
    names, values = [name for name, _ in chart.bars], [value for _, value in chart.bars]
    drawn = axes.barh(
        range(len(values)), values, color=[_LOSS if value < 0 else _GAIN for value in values]
    )
    axes.bar_label(drawn, [percent(value) for value in values], padding=3)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(0, color="gray", linewidth=0.8)
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("share of the bill")


def _lines(axes: Any, chart: Lines) -> None:
    for at, (name, values) in enumerate(chart.lines.items(), 1):
        wide = 1.5 + 1.7 * (len(chart.lines) - at)  # so that equal lines show side by side
        axes.plot(range(len(values)), values, marker="o", ms=wide + 3, lw=wide, label=name)
    axes.set_xticks(range(len(chart.ticks)), chart.ticks)
    axes.set_xlabel(chart.across)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("hit rate")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(frameon=False)
