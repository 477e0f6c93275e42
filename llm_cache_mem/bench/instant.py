"""An event loop in which no time passes: what is ready runs, one after the other, and what waits
for a timer waits for ever."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, TypeVar, TypeVarTuple

__all__ = ["InstantLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class InstantLoop(asyncio.AbstractEventLoop):
    """For coroutines that wait for one another and for nothing else. ``run_ready`` returns when all
    of them wait.

    It asks no operating system for events and keeps no clock, which is most of what a turn of
    another loop takes. What a callback raises is raised by ``run_ready``.
    """

    def __init__(self) -> None:
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...], Context]] = deque()
        self._handle = asyncio.Handle(
            self.close, (), self
        )  # of whatever is ready: that is never cancelled
        self._closed = False

    def run_ready(self) -> None:
        """Run what is ready, and what becomes so by that, until nothing is."""
        ready = self._ready
        asyncio._set_running_loop(self)
        try:
            while ready:
                callback, args, context = ready.popleft()
                context.run(callback, *args)
        finally:
            asyncio._set_running_loop(None)

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._ready.append((callback, args, copy_context() if context is None else context))
        return self._handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return asyncio.TimerHandle(delay, callback, args, self, context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise context.get("exception") or RuntimeError(context.get("message"))

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """End the tasks that still wait, as a program does that is stopped."""
        for task in asyncio.all_tasks(self):
            task.cancel()
        self.run_ready()
        self._closed = True

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """No timer is kept."""
