"""The charts of a report as pictures (extra ``plot``)."""

from pathlib import Path
from typing import Any

try:
    import matplotlib
except ModuleNotFoundError as exc:
    if exc.name != "matplotlib":  # installed but broken: let that error speak
        raise
    raise ImportError(
        "pictures need matplotlib: pip install 'llm-cache-mem[plot]'", name="matplotlib"
    ) from None

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from llm_cache_mem.bench.charts import Bars, Lines, charts
from llm_cache_mem.bench.report import Document
from llm_cache_mem.bench.words import percent

__all__ = ["draw", "plot"]

_GAIN, _LOSS = "#1f7a4d", "#b3392f"


def plot(document: Document, folder: Path) -> list[Path]:
    """Write a PNG into *folder*, which is made if need be, for each chart of *document*; their
    paths. OSError if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chart in charts(document):
        path = folder / f"{chart.name}.png"
        draw(chart).savefig(path, dpi=150)
        written.append(path)
    return written


def draw(chart: Bars | Lines) -> Figure:
    """*chart* as a figure of its own: no window, no global state."""
    with matplotlib.rc_context(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        tall = 1.2 + 0.28 * len(chart.bars) if isinstance(chart, Bars) else 4.0
        figure = Figure(figsize=(8, tall), layout="constrained")
        axes: Any = figure.add_subplot()
        axes.set_title(chart.title, loc="left")
        _bars(axes, chart) if isinstance(chart, Bars) else _lines(axes, chart)
        return figure


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


def _lines(axes: Any, chart: Lines) -> None:
    for name, values in chart.lines.items():
        axes.plot(range(len(values)), values, marker="o", label=name)
    axes.set_xticks(range(len(chart.ticks)), chart.ticks)
    axes.set_xlabel(chart.across)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(frameon=False)
