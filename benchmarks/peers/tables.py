"""What a run found, as data: tables of rows of cells, kept as JSON so that everything shown is made
from the same numbers."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.contestant import OURS, Absent

__all__ = ["Cell", "Column", "Row", "Table", "ahead", "best", "load", "save"]

EVEN = 0.98  # nearer than that is no difference


@dataclass(frozen=True)
class Column:
    """A heading and the unit below it; of all that is measured here, less is better."""

    name: str
    unit: str


@dataclass(frozen=True)
class Cell:
    """A *value* in its column's unit, and how many times that of llm-cache-mem it is; None where
    there is nothing to divide."""

    value: float
    ratio: float | None = None


@dataclass(frozen=True)
class Row:
    """One contestant: its versioned *name*, a cell or None for each column, whether answers are
    *own*, and the words of Contestant."""

    name: str
    cells: Sequence[Cell | None]
    own: str = ""
    spares: str = ""
    key: str = ""
    value: str = ""
    reference: bool = False


@dataclass(frozen=True)
class Table:
    """One interleaved run. Its *name* stands for what words.py says of it, *numbers* go into that;
    *environment*: on what it ran."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    absent: Sequence[Absent] = ()
    numbers: dict[str, float] = field(default_factory=dict)
    environment: str = ""
    seconds: float = 0.0


def best(table: Table, column: int) -> float:
    """The least value of *column* among the caches."""
    return min(
        _measure(cell) for row in table.rows if not row.reference and (cell := row.cells[column])
    )


def is_best(table: Table, column: int, cell: Cell) -> bool:
    """Whether *cell* is the least of *column*, or as good as that."""
    return _measure(cell) <= best(table, column) / (EVEN if cell.ratio is not None else 1)


def ahead(table: Table) -> dict[str, tuple[Row, list[str]]]:
    """By name, the rows that are ahead of llm-cache-mem, each with the columns in which it is."""
    ours = next(row for row in table.rows if row.name.startswith(OURS))
    found: dict[str, tuple[Row, list[str]]] = {}
    for row in table.rows:
        if row.reference or row.name.startswith(OURS):
            continue
        columns = [
            column.name
            for column, cell, mine in zip(table.columns, row.cells, ours.cells, strict=True)
            if cell
            and mine
            and (cell.ratio < EVEN if cell.ratio is not None else cell.value < mine.value)
        ]
        if columns:
            found[row.name] = (row, columns)
    return found


def _measure(cell: Cell) -> float:
    return cell.value if cell.ratio is None else cell.ratio


def save(tables: Sequence[Table], path: Path) -> None:
    """Write *tables* to *path* as JSON, a row a line, so that differences can be read."""
    path.write_text(
        "[\n" + ",\n".join(_text(table) for table in tables) + "\n]\n", encoding="utf-8"
    )


def _text(table: Table) -> str:
    raw = asdict(table)
    rows = ",\n  ".join(_line(row) for row in raw.pop("rows"))
    return f'{json.dumps(raw, ensure_ascii=False)[:-1]}, "rows": [\n  {rows}\n]}}'


def _line(row: dict[str, Any]) -> str:
    cells = [
        cell and {name: cell[name] and float(f"{cell[name]:.5g}") for name in ("value", "ratio")}
        for cell in row["cells"]
    ]
    return json.dumps({**row, "cells": cells}, ensure_ascii=False)


def load(path: Path) -> list[Table]:
    """The tables at *path*; none if there is no such file."""
    if not path.exists():
        return []
    return [_table(raw) for raw in json.loads(path.read_text(encoding="utf-8"))]


def _table(raw: dict[str, Any]) -> Table:
    rows = [
        Row(**{**row, "cells": [cell and Cell(**cell) for cell in row["cells"]]})
        for row in raw["rows"]
    ]
    absent = [Absent(*named) for named in raw["absent"]]
    return Table(
        **{
            **raw,
            "columns": [Column(**column) for column in raw["columns"]],
            "rows": rows,
            "absent": absent,
        }
    )
