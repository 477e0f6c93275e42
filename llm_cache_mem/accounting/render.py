"""Tables of counters: aligned text for a terminal, HTML for a notebook."""

from collections.abc import Iterable, Mapping
from itertools import chain, repeat

from llm_cache_mem._util.terminal import visible

__all__ = [
    "Row",
    "aligned",
    "as_html",
    "as_text",
    "avoided",
    "by_reason",
    "dollars",
    "headed",
    "saved",
    "shown",
    "table",
]

Row = tuple[str, ...]
"""The cells of one row; the first row of a table is its head."""

_ZERO = ("0", "0.0")
_LEFT, _RIGHT = "text-align:left", "text-align:right"


def as_text(headline: str, facts: Iterable[tuple[str, str]], tables: Iterable[list[Row]]) -> str:
    """The *headline*, then *facts* by name, one a line, and each of the *tables*."""
    facts = list(facts)
    width = max((len(name) for name, _ in facts), default=0)
    lines = [f"{name:<{width}}  {visible(value)}" for name, value in facts]
    lines = [headline, "", *lines] if facts else [headline]
    for rows in tables:
        lines += ["", *aligned(rows)]
    return "\n".join(lines)


def as_html(headline: str, facts: Iterable[tuple[str, str]], tables: Iterable[list[Row]]) -> str:
    """The same as HTML tables, with every name escaped."""
    rows = [
        f"<tr><th style='{_LEFT}'>{_escaped(name)}</th>"
        f"<td style='{_RIGHT}'>{_escaped(value)}</td></tr>"
        for name, value in facts
    ]
    return f"<p><strong>{_escaped(headline)}</strong></p><table>{''.join(rows)}</table>" + "".join(
        map(table, tables)
    )


def avoided(calls: int, asked: int) -> str:
    """The headline of statistics: how many of the calls *asked* for were not made."""
    if not asked:
        return "no calls yet"
    return f"{calls:,} of {asked:,} calls avoided ({calls / asked:.0%})"


def shown(head: Row, *rows: tuple[str | int | float, ...]) -> list[Row]:
    """A table of *rows* without the columns that are zero in every row."""
    cells = [head, *(tuple(map(_cell, row)) for row in rows)]
    columns = [
        column for column in zip(*cells, strict=True) if any(c not in _ZERO for c in column[1:])
    ]
    return list(zip(*columns, strict=True))


def _cell(value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def by_reason(skipped: Mapping[str, int]) -> str:
    """The counts in *skipped* by reason, on one line."""
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(skipped.items()))


def headed(title: str, html: str) -> str:
    """*html* under *title*, set as code."""
    return f"<p><code>{_escaped(title)}</code></p>{html}"


def aligned(rows: list[Row]) -> list[str]:
    """A table as lines: the first column to the left, numbers to the right."""
    rows = [tuple(map(visible, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def table(rows: Iterable[Row], *, texts: int = 1) -> str:
    """A table as HTML, without colours, so that it suits every theme; the first *texts* columns are
    text, the others numbers."""
    lines = []
    for row, tag in zip(rows, chain(["th"], repeat("td")), strict=False):
        cells = (
            f"<{tag} style='{_LEFT if place < texts else _RIGHT}'>{_escaped(cell)}</{tag}>"
            for place, cell in enumerate(row)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def dollars(amount: float) -> str:
    """*amount* with more digits the smaller it is: a call may cost a thousandth of a cent."""
    size = abs(amount)
    digits = 2 if size >= 1 or size == 0 else 4 if size >= 0.001 else 6
    return f"{'-' if amount < 0 else ''}${size:,.{digits}f}"


def saved(usd: float, unpriced: int, calls: int) -> str:
    """The price of *calls*, of which *unpriced* have no known one and are not in *usd*."""
    if unpriced and unpriced >= calls:
        return "—"
    return f"{dollars(usd)} (+ {unpriced:,} unpriced)" if unpriced else dollars(usd)


def _escaped(text: str) -> str:
    from html import escape  # slow to import, and only notebooks need it

    return escape(text)
