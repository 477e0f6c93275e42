"""Charts as inline SVG, coloured by the page that they stand in."""

from collections.abc import Sequence
from html import escape

from llm_cache_mem.bench.charts import Bars, Lines
from llm_cache_mem.bench.words import percent

__all__ = ["bars", "lines"]

_WIDTH, _LABEL, _VALUE, _ROW = 760, 250, 80, 26
_LEFT, _RIGHT, _TOP, _HEIGHT = 60, 150, 12, 260
_COLOURS = 7


def bars(chart: Bars) -> str:
    """Horizontal bars from a common zero, each with its value behind it."""
    values = [value for _, value in chart.bars]
    low, high = min(0.0, *values), max(0.0, *values)
    space = _WIDTH - _LABEL - 2 * _VALUE
    scale = space / ((high - low) or 1.0)
    zero = _LABEL + _VALUE - low * scale
    rows = []
    for number, (label, value) in enumerate(chart.bars):
        middle = number * _ROW + _ROW / 2
        begin, length = zero + min(0.0, value) * scale, abs(value) * scale
        text, anchor = (begin - 6, "end") if value < 0 else (begin + length + 6, "start")
        rows.append(
            f'<text x="{_LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(label)}</text><rect'
            f' class="{"loss" if value < 0 else "gain"}" x="{begin:.1f}" y="{middle - 8}"'
            f' width="{max(length, 1):.1f}" height="16" rx="2"/><text class="value" x="{text:.1f}"'
            f' y="{middle + 4}" text-anchor="{anchor}">{percent(value)}</text>'
        )
    height = len(rows) * _ROW
    axis = f'<line class="axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="{height}"/>'
    return _picture(chart.title, height, axis + "".join(rows))


def lines(chart: Lines) -> str:
    """A line for each series over the ticks, named at its end."""
    high = max((value for series in chart.lines.values() for value in series), default=0.0) or 1.0
    width = _WIDTH - _LEFT - _RIGHT
    across = [
        _LEFT + width * number / max(1, len(chart.ticks) - 1) for number in range(len(chart.ticks))
    ]

    def up(value: float) -> float:
        return _TOP + _HEIGHT * (1 - value / high)

    parts = []
    for step in range(5):
        value = high * step / 4
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + width}" y1="{up(value):.1f}"'
            f' y2="{up(value):.1f}"/>'
        )
        parts.append(
            f'<text class="value" x="{_LEFT - 8}" y="{up(value) + 4:.1f}"'
            f' text-anchor="end">{percent(value)}</text>'
        )
    for place, tick in zip(across, chart.ticks, strict=True):
        parts.append(
            f'<text class="value" x="{place:.1f}" y="{_TOP + _HEIGHT + 20}"'
            f' text-anchor="middle">{escape(tick)}</text>'
        )
    parts.append(
        f'<text class="value" x="{_LEFT + width / 2}" y="{_TOP + _HEIGHT + 38}"'
        f' text-anchor="middle">{escape(chart.across)}</text>'
    )
    labels = _apart([up(series[-1]) for series in chart.lines.values()])
    for number, ((name, series), label) in enumerate(zip(chart.lines.items(), labels, strict=True)):
        points = " ".join(
            f"{place:.1f},{up(value):.1f}" for place, value in zip(across, series, strict=True)
        )
        colour = f"c{number % _COLOURS}"
        dots = "".join(
            f'<circle class="{colour}" cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3"/>'
            for p in points.split()
        )
        parts.append(f'<polyline class="{colour}" points="{points}"/>{dots}')
        parts.append(
            f'<text class="{colour}" x="{_LEFT + width + 10}"'
            f' y="{label + 4:.1f}">{escape(name)}</text>'
        )
    return _picture(chart.title, _TOP + _HEIGHT + 48, "".join(parts))


def _apart(places: Sequence[float], gap: float = 16.0) -> list[float]:
    """*places* moved down as far as it takes for texts at them not to cover one another."""
    moved = list(places)
    last = float("-inf")
    for number in sorted(range(len(places)), key=lambda number: places[number]):
        moved[number] = last = max(places[number], last + gap)
    return moved


def _picture(title: str, height: float, inside: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img"'
        f' aria-label="{escape(title)}">{inside}</svg>'
    )
