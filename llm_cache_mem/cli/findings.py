"""What a check of a store found: what it is about, whether it is as it should be, and what to change if not."""

import math
from typing import NamedTuple

__all__ = ["CANNOT", "CHANGE", "OK", "Finding", "change", "ok", "size_of"]

OK = "ok"
CHANGE = "change"
CANNOT = "cannot"


class Finding(NamedTuple):
    """*level* is ok, change or cannot; *advice* says what to do, and is empty where all is well."""

    level: str
    topic: str
    text: str
    advice: str = ""


def ok(topic: str, text: str) -> Finding:
    return Finding(OK, topic, text)


def change(topic: str, text: str, advice: str) -> Finding:
    return Finding(CHANGE, topic, text, advice)


def size_of(count: float) -> str:
    """*count* bytes for people."""
    if count < 1024:
        return f"{count:.0f} B"
    power = min(4, int(math.log(count, 1024)))
    return f"{count / 1024**power:.1f} {'KMGT'[power - 1]}iB"
