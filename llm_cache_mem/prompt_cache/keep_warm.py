"""Keep a prefix warm: renew it before it expires, until stopped or until renewals have failed too
often in a row."""

import asyncio
import logging
import random as random_module
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, Self

from llm_cache_mem._util.clock import now
from llm_cache_mem.prompt_cache.prefix import Prefix
from llm_cache_mem.prompt_cache.warmed import Warmed

__all__ = ["KeepWarm", "Schedule", "Warms"]

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0
_STOP_SECONDS = 10.0


class Schedule:
    """When to renew next: after *every* seconds, up to a share *jitter* earlier; sooner after a
    failure. It never waits itself."""

    def __init__(
        self,
        every: float,
        jitter: float,
        max_failures: int,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        if not every > 0 or not 0 <= jitter < 1 or max_failures < 1:
            raise ValueError(
                f"every={every}, jitter={jitter}, max_failures={max_failures}: they must be > 0,"
                " from 0 to below 1, and >= 1"
            )
        self._every, self._jitter, self._most = every, jitter, max_failures
        self._clock, self._random = clock, random
        self._due = clock()
        self.failures = 0
        """In a row."""

    def pause(self) -> float:
        """Seconds until the next renewal; 0.0 or less if it is due."""
        return self._due - self._clock()

    def used(self) -> None:
        """Start anew: the prefix has just been used."""
        self.failures = 0
        self._due = self._clock() + self._every * (1 - self._jitter * self._random())

    def failed(self) -> bool:
        """Schedule a retry, later each time; whether there were too many failures."""
        self.failures += 1
        wait = min(self._every, _RETRY_SECONDS * 2 ** (self.failures - 1))
        self._due = self._clock() + wait * (1 - self._jitter * self._random())
        return self.failures >= self._most


class Warms(Protocol):
    """The methods of Warmer that KeepWarm calls."""

    @property
    def is_async(self) -> bool: ...
    def warm(self, prefix: Prefix, /) -> Warmed: ...
    async def awarm(self, prefix: Prefix, /) -> Warmed: ...


class KeepWarm:
    """A context manager that keeps a prefix warm; made by ``Warmer.keep_warm``.

    Entering it warms the prefix once, and raises what that raises. Once it gives up, *gave_up* is
    true and *error* is the reason. *wait* (seconds) returns whether to stop, or an awaitable of it.
    """

    def __init__(
        self,
        warmer: Warms,
        prefix: Prefix | Callable[[], Prefix],
        *,
        max_failures: int = 3,
        every: float | None = None,
        jitter: float = 0.1,
        on_warmed: Callable[[Warmed], object] | None = None,
        wait: Callable[[float], Any] | None = None,
        random: Callable[[], float] = random_module.random,
        clock: Callable[[], float] = now,
    ) -> None:
        self._warmer = warmer
        self._prefix = prefix
        lifetime = self._current().lifetime
        if every is not None and every >= lifetime:
            _log.warning(
                "prompt cache: every=%g s is too late for a prefix that lives %g s unused: it can"
                " expire before",
                every,
                lifetime,
            )
        every = lifetime * 0.8 if every is None else every
        self._schedule = Schedule(every, jitter, max_failures, clock, random)
        self._on_warmed = on_warmed
        self._wait = wait
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self.last: Warmed | None = None
        self.renewals = 0
        self.cost_usd: float | None = 0.0
        """Dollars so far, including the first warming; None once a price is unknown."""
        self.gave_up = False
        self.error: Exception | None = None

    @property
    def running(self) -> bool:
        """Whether it still renews."""
        return (self._thread is not None and self._thread.is_alive()) or (
            self._task is not None and not self._task.done()
        )

    def used(self) -> None:
        """Note that the prefix has just been used, which renews it at the provider too."""
        self._schedule.used()

    def _current(self) -> Prefix:
        return self._prefix() if callable(self._prefix) else self._prefix

    def _succeeded(self, warmed: Warmed) -> None:
        self.last = warmed
        self.cost_usd = (
            None
            if self.cost_usd is None or warmed.cost_usd is None
            else self.cost_usd + warmed.cost_usd
        )
        self._schedule.used()
        if self._on_warmed is not None:
            try:
                self._on_warmed(warmed)
            except Exception:  # noqa: BLE001  # a failing callback is not a failure to renew
                _log.warning("prompt cache: on_warmed raised; renewals go on", exc_info=True)

    def _failed(self, exc: Exception) -> bool:
        """Whether it is time to give up."""
        self.error = exc
        if not self._schedule.failed():
            return False
        self.gave_up = True
        _log.warning(
            "prompt cache: gave up keeping a prefix warm after %d failures: %s",
            self._schedule.failures,
            type(exc).__name__,
        )
        return True

    # -- In a thread

    def __enter__(self) -> Self:
        self._begin(is_async=False)
        self._succeeded(self._warmer.warm(self._current()))
        self._thread = threading.Thread(
            target=self._run, name="llm-cache-mem keep_warm", daemon=True
        )
        self._thread.start()
        return self

    def _begin(self, *, is_async: bool) -> None:
        if self._warmer.is_async is not is_async:
            raise TypeError(
                f"the client is {'' if self._warmer.is_async else 'not '}async: use"
                f" {'async with' if not is_async else 'with'}"
            )
        if self._thread is not None or self._task is not None:
            raise RuntimeError("it has been entered before: make another with keep_warm()")

    def _run(self) -> None:
        wait = self._stop.wait if self._wait is None else self._wait
        while not self._stop.is_set():
            pause = self._schedule.pause()
            if pause > 0:
                if wait(pause):
                    return
                continue
            try:
                self._succeeded(self._warmer.warm(self._current()))
                self.renewals += 1
            # there is no caller to raise it to, and a retry may succeed
            except Exception as exc:  # noqa: BLE001
                if self._failed(exc):
                    return

    def stop(self) -> None:
        """Stop renewing, and wait up to ten seconds for a renewal in progress."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- In a task

    async def __aenter__(self) -> Self:
        self._begin(is_async=True)
        self._succeeded(await self._warmer.awarm(self._current()))
        self._task = asyncio.create_task(self._arun())
        return self

    async def _arun(self) -> None:
        async def sleep(seconds: float) -> bool:
            await asyncio.sleep(seconds)
            return False

        wait: Callable[[float], Awaitable[bool]] = sleep if self._wait is None else self._wait
        while True:
            pause = self._schedule.pause()
            if pause > 0:
                if await wait(pause):
                    return
                continue
            try:
                self._succeeded(await self._warmer.awarm(self._current()))
                self.renewals += 1
            except Exception as exc:  # noqa: BLE001  # as above
                if self._failed(exc):
                    return

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
