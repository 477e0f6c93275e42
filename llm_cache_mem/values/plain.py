"""Which values are plain JSON, and so rest as themselves; and how deep, wide and long a stored
value may be."""

from typing import Any

__all__ = ["HIGHEST_INT", "LOWEST_INT", "MAX_DEPTH", "MAX_NODES", "WRAPPER", "is_plain"]

MAX_DEPTH = 100
MAX_NODES = 250_000
HIGHEST_INT = 10**600  # PYTHONINTMAXSTRDIGITS may make int() and str() refuse 640 digits and more
LOWEST_INT = -HIGHEST_INT
WRAPPER = "$llm-cache-mem"
"""The wrapper of values that are not plain JSON."""

_STR = frozenset({str})
_CONTAINERS = frozenset({dict, list})


def is_plain(value: Any) -> bool:
    """Whether *value* is, all through, what json.loads could have made: exact types, string keys,
    no cycle, no wrapper of ours."""
    containers: list[Any] = [[value]]
    for items in containers:  # grows on the way
        if type(items) is dict:
            if not _STR.issuperset(map(type, items)):
                return False
            items = items.values()
        for item in items:
            kind = type(item)
            if kind is str or item is None or kind is bool:
                continue
            if kind is dict or kind is list:
                containers.append(item)
            elif not (
                (kind is int and LOWEST_INT < item < HIGHEST_INT)
                or (kind is float and item - item == 0.0)
            ):
                return False  # not JSON, or a number that is not: NaN, infinite, too long to print
        if len(containers) > MAX_NODES:
            return False
    if len(containers) > MAX_DEPTH and not _is_shallow(value):
        return False
    return type(value) is not dict or WRAPPER not in value


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for below in level
            for item in (below.values() if type(below) is dict else below)
            if type(item) in _CONTAINERS
        ]
        if not level:
            return True
    return False
