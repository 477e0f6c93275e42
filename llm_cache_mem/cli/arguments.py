"""What people hand to a command: strict JSON, spans of time, a store and another thing; and how a
command says no."""

import os
import re
from typing import Any

from llm_cache_mem._util import strict_json
from llm_cache_mem.errors import LLMCacheError

__all__ = [
    "FAILED",
    "MISUSED",
    "URL_VARIABLE",
    "BadInput",
    "CommandFailed",
    "parse_json",
    "seconds_in",
    "url_and",
    "url_of",
]

FAILED = 1
"""The exit status where something was not found or did not work."""
MISUSED = 2
"""The exit status of a wrong command line."""
URL_VARIABLE = "LLM_CACHE_MEM_URL"

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class CommandFailed(LLMCacheError):
    """A command cannot do what it was asked; the text says why, and *status* is what the process
    ends with."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status


class BadInput(CommandFailed):
    """Data that was read is not what it should be; the text quotes nothing from it."""


def parse_json(data: bytes) -> Any:
    """One JSON value, read strictly: BadInput for NaN, for a name twice in an object, for what is
    not UTF-8."""
    try:
        return strict_json.parse(data, "utf-8-sig")
    except strict_json.NotJson as exc:
        raise BadInput(str(exc)) from None


def seconds_in(span: str) -> float:
    """The seconds in ``7d``, ``1h30m`` or ``90s``; CommandFailed for anything else, a number
    without a unit included."""
    parts = re.fullmatch(r"(\d+(\.\d+)?[smhdw])+", span)
    if parts is None:
        raise CommandFailed(
            f"{span!r} is no span of time: write 7d, 1h30m or 90s (s, m, h, d, w)", MISUSED
        )
    return sum(
        float(number) * _UNITS[unit]
        for number, unit in re.findall(r"(\d+(?:\.\d+)?)([smhdw])", span)
    )


def url_of(argument: str | None) -> str:
    """The store's URL, which the environment may give; CommandFailed if nobody does."""
    if not argument:
        raise CommandFailed(f"which store? Give its URL or path, or set {URL_VARIABLE}", MISUSED)
    return argument


def url_and(what: str, first: str | None, second: str | None) -> tuple[str, str]:
    """The store's URL and *what*, from two arguments, or from one and the environment;
    CommandFailed if one is missing."""
    if second is None:
        first, second = os.environ.get(URL_VARIABLE), first
    if not first or not second:
        raise CommandFailed(
            f"give a store and a {what}, or the {what} alone and {URL_VARIABLE} in the environment",
            MISUSED,
        )
    return first, second
