"""The calls of a gateway as they happen: the last ones, sums by minute, and subscribers."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from itertools import count
from time import time
from typing import Any, Final

from llm_cache_mem.accounting.stats import Event

__all__ = ["Call", "Feed", "Minute"]

_LAST: Final = 200
_MINUTES: Final = 60
_WAITING: Final = 500  # calls that a subscriber may be behind


@dataclass(slots=True)
class Call:
    """One request of a client, without a word of it; *number* counts those of this process."""

    number: int
    at: float
    upstream: str
    path: str
    outcome: str = ""
    """hit, miss, coalesced, skipped or error; empty for a request that is not for the cache."""
    status: int = 0
    ms: float = 0.0
    model: str | None = None
    tokens: int | None = None
    usd: float | None = None
    age: int | None = None
    """Seconds since the answer of a hit was stored."""
    reason: str | None = None
    """Why it was skipped."""
    key: str | None = None


@dataclass
class Minute:
    """Sums over the calls of one minute, which begins *at*."""

    at: float
    asked: int = 0
    avoided: int = 0
    usd: float = 0.0
    seconds: float = 0.0


class Feed:
    """Collects calls. Events may come from any thread; the rest belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self._clock = clock
        self._current: ContextVar[Call | None] = ContextVar("llm_cache_mem.gateway", default=None)
        self._last: deque[Call] = deque(maxlen=_LAST)
        self._minutes: deque[Minute] = deque(maxlen=_MINUTES)
        self._subscribers: set[asyncio.Queue[Call]] = set()
        self._numbers = count(1)
        self.began = clock()

    def begin(self, upstream: str, path: str) -> Call:
        """A call that begins in this context; the cache's events of this context add to it."""
        call = Call(next(self._numbers), self._clock(), upstream, path)
        self._current.set(call)
        return call

    def event(self, event: Event) -> None:
        """What ``LLMCache(on_event=)`` calls."""
        call = self._current.get()
        if call is None or event.name not in ("hit", "coalesced", "miss", "stored", "skipped"):
            return
        call.key, call.model = event.key or call.key, event.model or call.model
        if event.name == "skipped":
            call.reason = event.reason
        else:
            call.tokens = call.tokens if event.tokens is None else event.tokens
            call.usd = call.usd if event.usd is None else event.usd
        if event.name in ("hit", "coalesced"):
            minute = self._minute()
            minute.usd += event.usd or 0.0
            minute.seconds += event.seconds or 0.0

    def end(self, call: Call) -> None:
        """Show *call*, which has ended."""
        if call.outcome in ("hit", "miss", "coalesced", "skipped"):
            minute = self._minute()
            minute.asked += 1
            minute.avoided += call.outcome in ("hit", "coalesced")
        self._last.append(call)
        for queue in self._subscribers:
            if not queue.full():
                queue.put_nowait(call)

    def _minute(self) -> Minute:
        start = self._clock() // 60 * 60
        if not self._minutes or self._minutes[-1].at < start:
            self._minutes.append(Minute(start))
        return self._minutes[-1]

    def last(self) -> list[dict[str, Any]]:
        """The last calls, oldest first."""
        return [asdict(call) for call in self._last]

    def minutes(self) -> list[dict[str, Any]]:
        """Sums by minute, of those minutes of the last hour in which there were calls."""
        oldest = self._clock() - _MINUTES * 60
        return [asdict(minute) for minute in self._minutes if minute.at > oldest]

    async def follow(self, idle_seconds: float) -> AsyncIterator[dict[str, Any] | None]:
        """Calls as they end; None after each *idle_seconds* without one."""
        queue: asyncio.Queue[Call] = asyncio.Queue(_WAITING)
        self._subscribers.add(queue)
        try:
            while True:
                try:
                    yield asdict(await asyncio.wait_for(queue.get(), idle_seconds))
                except TimeoutError:
                    yield None
        finally:
            self._subscribers.discard(queue)
