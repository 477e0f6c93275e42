"""What a check of a store found: what it is about, whether it is as it should be, and what to
change if not."""

import math
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["FAIL", "OK", "WARN", "Finding", "clock", "number_in", "ok", "size_of", "warn"]

OK = "ok"
WARN = "warn"
FAIL = "fail"

_CLOCK_SECONDS = 2.0


class Finding(NamedTuple):
    """*level* is ``ok``, ``warn`` or ``fail``; *advice* says what to do, unless all is well."""

    level: str
    topic: str
    text: str
    advice: str = ""


def ok(topic: str, text: str) -> Finding:
    return Finding(OK, topic, text)


def warn(topic: str, text: str, advice: str) -> Finding:
    return Finding(WARN, topic, text, advice)


def clock(topic: str, ahead: float, digits: int) -> Finding:
    """What there is to say of a server whose clock is *ahead* by so many seconds, of which *digits*
    after the point are known."""
    text = f"{abs(ahead):.{digits}f} s {'ahead of' if ahead > 0 else 'behind'} this machine"
    if abs(ahead) > _CLOCK_SECONDS:
        return warn(
            topic, text, "set both clocks by NTP: entries expire too early or too late by that much"
        )
    return ok(topic, text)


def number_in(told: Mapping[str, str], name: str) -> int:
    """A number among what a server has *told* of itself; 0 if it is not there, or none."""
    text = told.get(name, "0")
    return int(text) if text.isdigit() else 0


def size_of(count: float) -> str:
    """*count* bytes for people."""
    if count < 1024:
        return f"{count:.0f} B"
    power = min(4, int(math.log(count, 1024)))
    return f"{count / 1024**power:.1f} {'KMGT'[power - 1]}iB"
