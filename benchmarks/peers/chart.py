"""The chart: hits and misses in memory, as multiples of llm-cache-mem on a logarithmic scale, with
the side on which others are faster."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from benchmarks.peers.contestant import OURS
from benchmarks.peers.tables import Row, Table

__all__ = ["draw"]

MARKS = (("S", "#7cc4b8", "o"), ("M", "#2a9487", "s"), ("L", "#0b4f4a", "D"))
FASTER = "#f6ddd6"
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "svg.hashsalt": OURS,
}


def draw(tables: Sequence[Table], path: Path) -> None:
    """Write the chart of the hits (built anew) and the misses among *tables* to *path*, an SVG."""
    named = {table.name: table for table in tables}
    hits, misses = named["hits-fresh"], named["misses"]
    rows = sorted((row for row in hits.rows if not row.reference), key=_middle)
    rows.sort(key=lambda row: not row.name.startswith(f"{OURS} "))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 1.9 + 0.36 * len(rows)), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for panel, table, title in (
            (panels[0], hits, "Hit, request built anew"),
            (panels[1], misses, "Miss and put"),
        ):
            _panel(panel, table, title, rows)
        panels[0].set_yticks(range(len(rows)), [row.name for row in rows])
        panels[0].invert_yaxis()
        figure.suptitle(
            f"CPU time in memory, as a multiple of {OURS}: less is better, logarithmic scale,"
            " shaded where others are faster",
            x=0.01,
            ha="left",
            fontsize=10.5,
        )
        handles = [
            Line2D([], [], color=color, marker=mark, linestyle="", label=name)
            for name, color, mark in _legend()
        ]
        handles.append(
            Line2D(
                [],
                [],
                color="#2a9487",
                marker="s",
                linestyle="",
                fillstyle="none",
                label="hollow: callers share answers",
            )
        )
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            fontsize=9,
        )
        figure.savefig(path, format="svg", metadata={"Date": None})


def _legend() -> Sequence[tuple[str, str, str]]:
    words = {
        "S": "S: 0.3 KB, one message",
        "M": "M: 8.7 KB, ten turns",
        "L": "L: 206 KB, 100 turns",
    }
    return [(words[name], color, mark) for name, color, mark in MARKS]


def _middle(row: Row) -> float:
    cell = row.cells[1]
    return cell.ratio if cell is not None and cell.ratio is not None else 0.0


def _panel(axes: Any, table: Table, title: str, rows: Sequence[Row]) -> None:
    found = {row.name: row for row in table.rows}
    ratios = [
        cell.ratio or 1.0
        for row in found.values()
        if not row.reference
        for cell in row.cells
        if cell is not None
    ]
    low, high = min(0.5, *ratios) / 1.4, max(2.0, *ratios) * 1.4
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.axvspan(low, 1, color=FASTER, linewidth=0)
    axes.axvline(1, color="#555555", linewidth=1)
    for place, name in enumerate(row.name for row in rows):
        axes.axhline(place, color="#dddddd", linewidth=0.6, zorder=0)
        if name not in found:
            continue
        style = "full" if found[name].own == "yes" else "none"
        for (_, color, mark), cell in zip(MARKS, found[name].cells, strict=True):
            if cell is not None:
                axes.plot(
                    cell.ratio or 1.0,
                    place,
                    marker=mark,
                    color=color,
                    fillstyle=style,
                    markersize=7,
                    markeredgewidth=1.6,
                    zorder=3,
                )
    axes.set_xticks(
        [tick for tick in TICKS if low < tick < high],
        [f"{tick:g}×" for tick in TICKS if low < tick < high],
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color="#eeeeee", linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    ours = [
        f"{size} {cell.value:,.0f} µs"
        for (size, *_), cell in zip(MARKS, table.rows[0].cells, strict=True)
        if cell is not None
    ]
    axes.set_title(f"{title}\n1× = {', '.join(ours)}", loc="left", fontsize=10)
