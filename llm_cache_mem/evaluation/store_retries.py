"""Retry store operations in a run: an answer that is not stored is paid for again."""

import asyncio
from collections.abc import Callable
from threading import Event
from typing import Final, TypeVar

from llm_cache_mem.engine.engine import Engine

__all__ = ["StoreRetries"]

T = TypeVar("T")

_DELAYS: Final = (0.1, 0.4, 1.0, 2.0, 4.0, 8.0)
"""Seconds between tries: longer than the circuit breaker stays open."""


class StoreRetries:
    """Tries an operation of *engine*'s store again where it has failed. Thread-safe.

    When all tries have failed, later operations are tried once, until one succeeds: a store that is
    gone must not hold up each call.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lost = False

    def errors(self) -> int:
        """How many operations of the store have failed so far."""
        return self._engine.ledger.errors

    def fails(self, since: int) -> bool:
        """Whether the store has failed since ``errors`` was *since*, or is bypassed."""
        return self.errors() != since or self._engine.backend.circuit_open

    def retry(self, operation: Callable[[], T | None], stop: Event) -> T | None:
        """What *operation* gives, tried again while it gives None because the store fails; None if
        it fails for too long. Where *stop* is set, without waiting."""
        for delay in _DELAYS:
            since = self.errors()
            found = operation()
            if found is not None or self._is_over(since):
                return found
            stop.wait(delay)
        self._lost = True
        return None

    async def aretry(self, operation: Callable[[], T | None]) -> T | None:
        """``retry``, in a thread where the store would block the event loop."""
        for delay in _DELAYS:
            since = self.errors()
            found = await self._engine.off_loop(operation)
            if found is not None or self._is_over(since):
                return found
            await asyncio.sleep(delay)
        self._lost = True
        return None

    def _is_over(self, since: int) -> bool:
        """Whether there is no point in another try."""
        if not self.fails(since):
            self._lost = False
            return True
        return self._lost
