"""What all worker processes of a gateway have counted: each writes its sums and last calls to a
file of one folder, once a second, and whichever answers the page adds them up."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from llm_cache_mem.accounting.stats import CacheStats
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.gateway.feed import Feed

__all__ = ["Workers", "sums_of"]

_SECONDS: Final = 1.0
_CALLS: Final = 50
_NAMES: Final = {"models": "model", "tags": "tag", "minutes": "at"}

Counted = dict[str, Any]


def sums_of(stats: CacheStats) -> Counted:
    """The sums of *stats* as JSON."""
    return {
        "asked": stats.hits + stats.misses,
        "hits": stats.hits,
        "coalesced": stats.coalesced,
        "avoided": stats.hits + stats.coalesced,
        "stored": stats.stored,
        "skipped": dict(stats.skipped),
        "errors": stats.errors,
        "usd": stats.saved_usd,
        "seconds": stats.seconds_saved,
        "tokens": stats.tokens_saved,
        "models": [
            {"model": name, **model._asdict(), "tokens": model.tokens_saved}
            for name, model in stats.by_model.items()
        ],
        "tags": [
            {"tag": name, **tag._asdict(), "tokens": tag.tokens_saved}
            for name, tag in stats.by_tag.items()
        ],
    }


class Workers:
    """The workers of a gateway, of which this process is one. *folder* is where they write; None if
    there is one worker."""

    def __init__(self, engine: Engine, feed: Feed, folder: str | None) -> None:
        self._engine = engine
        self._feed = feed
        self._folder = None if folder is None else Path(folder)
        self._file = f"worker-{os.getpid()}.json"
        self._written = ""
        self._writing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Write down what this process counts, once a second, until ``stop``."""
        if self._folder is not None:
            self._writing = asyncio.create_task(self._write_again(self._folder / self._file))

    async def stop(self) -> None:
        """Write for the last time."""
        if self._writing is not None and self._folder is not None:
            self._writing.cancel()
            self._write(self._folder / self._file)

    async def _write_again(self, path: Path) -> None:
        while True:
            self._write(path)
            await asyncio.sleep(_SECONDS)

    def _write(self, path: Path) -> None:
        text = json.dumps({**self._own(), "calls": self._feed.last()[-_CALLS:]})
        if text == self._written:
            return
        temporary = path.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk costs the page its sums, and no call
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
            temporary.replace(path)
            self._written = text

    def _own(self) -> Counted:
        return {
            **sums_of(self._engine.ledger.snapshot(0)),
            "minutes": self._feed.minutes(),
            "began": self._feed.began,
        }

    def _others(self) -> dict[str, Counted]:
        """What the other workers have written, those that have ended included, by their files."""
        found: dict[str, Counted] = {}
        for path in self._folder.glob("worker-*.json") if self._folder is not None else ():
            if path.name != self._file:
                with contextlib.suppress(OSError, ValueError):
                    found[path.name] = json.loads(path.read_bytes())
        return found

    def sums(self) -> Counted:
        """The sums of all workers since the gateway began."""
        total = self._own()
        for other in self._others().values():
            other.pop("calls", None)
            total = _added(total, other)
        return total

    def last(self) -> list[dict[str, Any]]:
        """The last calls of all workers, oldest first."""
        calls = self._feed.last()
        for other in self._others().values():
            calls += other["calls"]
        return sorted(calls, key=lambda call: call["at"])

    async def follow(self, idle_seconds: float) -> AsyncIterator[dict[str, Any] | None]:
        """Calls as they end, those of other workers within a second or two; None after each
        *idle_seconds* without one of this worker."""
        seen = {name: _latest(other) for name, other in self._others().items()}
        every = idle_seconds if self._folder is None else min(idle_seconds, _SECONDS)
        idle = 0.0
        async for call in self._feed.follow(every):
            if call is not None:
                idle = 0.0
                yield call
                continue
            for name, other in self._others().items():
                for theirs in other["calls"]:
                    if theirs["number"] > seen.get(name, 0):
                        yield theirs
                seen[name] = _latest(other)
            idle += every
            if idle >= idle_seconds:
                idle = 0.0
                yield None


def _latest(other: Counted) -> int:
    return max((call["number"] for call in other["calls"]), default=0)


def _added(one: Counted, other: Counted) -> Counted:
    """The sums of both. Rows of lists are added where they are about the same."""
    total = dict(one)
    for name, value in other.items():
        mine = total.get(name)
        if mine is None:
            total[name] = value
        elif name == "began":
            total[name] = min(mine, value)
        elif name in _NAMES:
            total[name] = _rows(mine, value, _NAMES[name])
        elif isinstance(value, dict):
            total[name] = _added(mine, value)
        elif value is not None:
            total[name] = mine + value
    return total


def _rows(mine: list[Counted], others: list[Counted], about: str) -> list[Counted]:
    rows = {row[about]: row for row in mine}
    for row in others:
        name = row[about]
        rows[name] = {**_added(rows.get(name, {}), row), about: name}
    return list(rows.values())
