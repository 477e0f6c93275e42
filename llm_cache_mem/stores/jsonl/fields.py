"""Read and check the fields of a JSON line that are the same in recordings and in exports."""

import math
from typing import Any

from llm_cache_mem.responses.usage import Usage

__all__ = ["BadLine", "names_in", "number_in", "tags_in", "text_in", "usage_in"]

_MOST_TOKENS = 1 << 63


class BadLine(ValueError):
    """What is wrong with a line; the text quotes nothing from it."""


def text_in(fields: dict[str, Any], name: str) -> str | None:
    """The text in the field *name*, or None if there is none."""
    found = fields.get(name)
    if found is None or type(found) is str:
        return found
    raise BadLine(f"{name!r} is not a string")


def number_in(fields: dict[str, Any], name: str) -> float | None:
    """The number in the field *name*, or None if there is none."""
    found = fields.get(name)
    if found is None:
        return None
    try:
        if isinstance(found, int | float) and type(found) is not bool and math.isfinite(found):
            return float(found)
    except OverflowError:
        pass
    raise BadLine(f"{name!r} is not a number that fits")


def names_in(fields: dict[str, Any]) -> tuple[str, ...]:
    """The names in the field ``depends_on``; none if it is absent."""
    found = fields.get("depends_on")
    if found is None:
        return ()
    if type(found) is list and found and all(type(name) is str for name in found):
        return tuple(found)
    raise BadLine("'depends_on' is not a list of names")


def tags_in(fields: dict[str, Any]) -> tuple[str, ...]:
    """The texts in the field ``tags``; none if it is absent."""
    found = fields.get("tags")
    if found is None:
        return ()
    if type(found) is list and all(type(tag) is str and "=" in tag for tag in found):
        return tuple(found)
    raise BadLine("'tags' is not a list of texts such as 'team=search'")


def usage_in(fields: dict[str, Any]) -> Usage | None:
    """The token counts in the field ``usage``, or None if there are none."""
    found = fields.get("usage")
    if found is None:
        return None
    if (
        type(found) is not dict
        or not found
        or not all(
            type(count) is int and -_MOST_TOKENS <= count < _MOST_TOKENS for count in found.values()
        )
    ):
        raise BadLine("'usage' is not an object of token counts")
    try:
        return Usage(**found)
    except TypeError:
        raise BadLine(f"'usage' has other fields than {', '.join(Usage._fields)}") from None
