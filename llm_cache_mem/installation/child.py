"""The processes of ``llm-cache-mem run``: each installs the cache when it starts, and reports what
its calls saved to the command that waits for them.

The report is a file to which all append: a process that is killed has reported each call before.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from llm_cache_mem.accounting.stats import Event
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.installation.switch import put

__all__ = ["STARTUP", "Savings", "begin", "environment_for", "savings_in"]

STARTUP: Final = Path(__file__).parent / "startup"
"""The folder that goes on PYTHONPATH."""

_VARIABLE: Final = "LLM_CACHE_MEM_RUN"
_APPENDING: Final = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
_COUNTED: Final = frozenset({"hit", "coalesced", "miss", "skipped"})


class Savings(NamedTuple):
    """What the calls of all processes came to; *usd* is None if no price is known."""

    processes: int = 0
    answered: int = 0
    made: int = 0
    uncached: int = 0
    tokens: int = 0
    seconds: float = 0.0
    usd: float | None = None


def environment_for(
    environment: Mapping[str, str], settings: Mapping[str, Any], report: Path
) -> dict[str, str]:
    """The environment of a program that is to install a cache with *settings* of LLMCache."""
    path = environment.get("PYTHONPATH")
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join([str(STARTUP), *([path] if path else [])]),
        _VARIABLE: json.dumps({"settings": dict(settings), "report": str(report)}),
    }


def begin() -> None:
    """Install the cache that the environment describes; once a process."""
    described = os.environ.get(_VARIABLE)
    if not described:
        return
    told = json.loads(described)
    report = _Report(told["report"])
    put("run", LLMCache(**told["settings"], on_event=report.add))
    report.write({"name": "begun"})


class _Report:
    """Appends to the file in whole lines, so that processes need no lock."""

    def __init__(self, path: str) -> None:
        self._path = path

    def add(self, event: Event) -> None:
        if event.name in _COUNTED:
            names = ("name", "tokens", "seconds", "usd")
            self.write({name: getattr(event, name) for name in names})

    def write(self, line: Mapping[str, Any]) -> None:
        try:
            # The command has made it: what another user makes of its name later is not written to.
            with open(os.open(self._path, _APPENDING), "ab", buffering=0) as file:
                file.write(json.dumps(line).encode() + b"\n")
        except OSError:  # the command has ended, and this process goes on
            return


def savings_in(lines: Iterable[str]) -> Savings:
    """What a report comes to."""
    total = Savings()
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # cut by a full disk
            continue
        name, usd = event["name"], event.get("usd")
        if name in ("hit", "coalesced"):
            total = total._replace(
                answered=total.answered + 1,
                made=total.made - (name == "coalesced"),  # it was counted as a miss before
                tokens=total.tokens + (event["tokens"] or 0),
                seconds=total.seconds + (event["seconds"] or 0.0),
                usd=total.usd if usd is None else (total.usd or 0.0) + usd,
            )
        elif name == "miss":
            total = total._replace(made=total.made + 1)
        elif name == "skipped":
            total = total._replace(uncached=total.uncached + 1)
        else:
            total = total._replace(processes=total.processes + 1)
    return total
