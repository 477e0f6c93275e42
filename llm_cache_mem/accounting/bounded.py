"""Bound the tables that are kept by a name from outside, such as a model or a tag."""

from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["LONGEST_NAME", "MOST_NAMES", "OTHER", "bounded_name", "slot"]

T = TypeVar("T")

OTHER: Final = "other"
"""Where everything is summed that has no place of its own."""
MOST_NAMES: Final = 1000
LONGEST_NAME: Final = 256


def bounded_name(table: dict[str, T], name: str, most: int = MOST_NAMES) -> str:
    """The name under which *name* is counted in *table*: itself, or OTHER if it is new to a full
    table or too long. Hold the table's lock."""
    if name in table or (len(table) < most and len(name) <= LONGEST_NAME):
        return name
    return OTHER


def slot(table: dict[str, T], name: str, make: Callable[[], T], most: int = MOST_NAMES) -> T:
    """What *table* holds for *name*, made if it is missing, or for OTHER as ``bounded_name``
    says."""
    found = table.get(name)
    if found is None:
        name = bounded_name(table, name, most)
        found = table.get(name)
        if found is None:
            found = table[name] = make()
    return found
