"""The tables as a page of Markdown, of which nothing is written by hand."""

from collections.abc import Iterable, Sequence

from benchmarks.peers.captions import INTRODUCTION, said
from benchmarks.peers.contestant import OURS
from benchmarks.peers.tables import Cell, Column, Row, Table, ahead, is_best

__all__ = ["page", "table_text"]

OWN = "own"


def page(tables: Sequence[Table]) -> str:
    """The page of all *tables*."""
    parts = [INTRODUCTION.strip(), *(_section(table) for table in tables), _who(tables)]
    return "\n\n".join(parts) + "\n"


def _section(table: Table) -> str:
    parts = [f"## {said(table).title}", said(table).about, table_text(table), *_sentences(table)]
    if table.environment:
        parts.append(f"*{table.environment}*")
    return "\n\n".join(part for part in parts if part)


def _sentences(table: Table) -> Iterable[str]:
    if table.rows:
        yield _losses(table)
    if table.absent:
        yield (
            "Not run: "
            + "; ".join(f"{absent.name} ({absent.reason})" for absent in table.absent)
            + "."
        )


def _losses(table: Table) -> str:
    found = ahead(table).values()
    if not found:
        return f"No other cache is ahead of {OURS} here."
    named = [
        f"{row.name} ({', '.join(columns)}{f': {row.spares}' if row.spares else ''})"
        for row, columns in found
    ]
    return f"Ahead of {OURS}: {'; '.join(named)}.\n\n{said(table).losing}"


def table_text(table: Table) -> str:
    """The rows of *table*."""
    own = any(row.own for row in table.rows)
    heads = ["", *([OWN] if own else []), *(_heading(column) for column in table.columns)]
    lines = [heads, ["---"] * len(heads)]
    for row in table.rows:
        lines.append(
            [
                f"*{row.name}*" if row.reference else row.name,
                *([row.own] if own else []),
                *_cells(table, row),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if table.rows else ""


def _heading(column: Column) -> str:
    return f"{column.name}, {column.unit}" if column.unit else column.name


def _cells(table: Table, row: Row) -> Iterable[str]:
    for number, cell in enumerate(row.cells):
        if cell is None:
            yield "—"
            continue
        text = _text(cell, table.columns[number].unit)
        yield f"**{text}**" if not row.reference and is_best(table, number, cell) else text


def _text(cell: Cell, unit: str) -> str:
    value = _number(cell.value) if unit else f"{cell.value:g}"
    return value if cell.ratio is None or cell.ratio == 1 else f"{value} ({_times(cell.ratio)})"


def _number(value: float) -> str:
    """Three digits that count, or all of a great number."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _times(ratio: float) -> str:
    return (
        f"{ratio:.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×" if ratio >= 0.995 else f"{ratio:.2g}×"
    )


def _who(tables: Sequence[Table]) -> str:
    rows = {(row.name, row.value): row for table in tables for row in table.rows if row.key}
    lines = [
        "| | key | answer |",
        "| --- | --- | --- |",
        *(f"| {row.name} | {row.key} | {row.value} |" for row in rows.values()),
    ]
    return "## Who does what\n\n" + "\n".join(lines)
