"""Tables on a terminal or in a pipe: where there is little room names give way, and no number is
ever cut."""

import os
import sys

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

__all__ = ["out", "print_table"]

_WIDE = 1000  # columns of a pipe: nothing is cut there
_LEAST = 8  # columns that are left to a name


def out() -> Console:
    """Standard output, closed or not; as wide as it is, or as COLUMNS says."""
    piped = not (sys.stdout is not None and sys.stdout.isatty()) and not os.environ.get("COLUMNS")
    return Console(width=_WIDE if piped else None, highlight=False)


def print_table(table: Table) -> None:
    """Print *table*; where it is too wide, columns that may wrap are cut to eight, and beyond that
    the terminal wraps the lines."""
    console, needed = out(), 0
    for column in table.columns:
        longest = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
        needed += (longest if column.no_wrap else min(longest, _LEAST)) + sum(table.padding[1::2])
    (console if console.width >= needed else Console(width=needed, highlight=False)).print(table)
