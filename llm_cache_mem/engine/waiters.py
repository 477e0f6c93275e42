"""Where the callers of one flight wait, in threads and in the tasks of any event loop, and how they
are woken."""

import sys
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any

from llm_cache_mem._util.exceptions import copy_exception
from llm_cache_mem._util.in_thread import running_loop

if TYPE_CHECKING:
    import asyncio

__all__ = ["TaskWaiter", "ThreadWaiter", "Waiter", "ended", "post", "shielded"]

_LOOK_SECONDS = 0.5


class Waiter:
    """A caller that waits for *flight*, a Flight. *leads*: this caller is now its leader. *told*:
    the flight has finished, with *value* or *failure*."""

    __slots__ = ("__weakref__", "circumstances", "failure", "flight", "leads", "told", "value")

    def __init__(self, flight: Any, circumstances: Hashable) -> None:
        self.flight = flight
        self.circumstances = circumstances
        self.leads = False
        self.told = False
        self.value: Any = None
        self.failure: tuple[BaseException, TracebackType | None] | None = None

    def wake(self) -> bool:
        """Let the caller see what has changed; False when the caller has left."""
        raise NotImplementedError

    def tell(self, value: Any, error: BaseException | None) -> None:
        self.told = True
        self.value = value
        self.failure = None if error is None else (error, error.__traceback__)

    def answer(self, *, coalesced: bool) -> Any:
        """The value, or raise the error: the leader's caller gets the original, every other a copy
        of its own."""
        if self.failure is None:
            return self.value
        (error, trace), self.failure = self.failure, None
        try:
            raise copy_exception(error, trace) if coalesced else error
        finally:
            del error, trace  # else this frame, which the traceback holds, would hold the traceback


class ThreadWaiter(Waiter):
    __slots__ = ("_gate",)

    def __init__(self, flight: Any, circumstances: Hashable) -> None:
        super().__init__(flight, circumstances)
        self._gate = Lock()
        self._gate.acquire()

    def wait(self, seconds: float) -> bool:
        """Wait for ``wake``; whether it came."""
        return self._gate.acquire(timeout=seconds)

    def wake(self) -> bool:
        self._gate.release()
        return True


class TaskWaiter(Waiter):
    __slots__ = ("_called", "_loop", "_timer")

    def __init__(self, flight: Any, circumstances: Hashable) -> None:
        import asyncio

        super().__init__(flight, circumstances)
        self._loop = asyncio.get_running_loop()
        self._called = self._loop.create_future()

    async def wait(self, seconds: float | None) -> None:
        """Wait for ``wake``; at most so many *seconds*, and no longer than there is a leader."""
        if seconds is None:
            await self._called
            return
        self._timer = self._loop.call_later(min(seconds, _LOOK_SECONDS), self._look, seconds)
        try:
            await self._called
        finally:
            self._timer.cancel()

    def _look(self, seconds: float) -> None:
        left = seconds - _LOOK_SECONDS
        if left <= 0 or self.told or self.leads or self.flight.is_deserted:
            self._call()
        else:
            self._timer = self._loop.call_later(min(left, _LOOK_SECONDS), self._look, left)

    def wake(self) -> bool:
        return post(self._loop, self._call)

    def _call(self) -> None:
        if not self._called.done():
            self._called.set_result(None)


def post(loop: "asyncio.AbstractEventLoop", callback: Callable[[], object]) -> bool:
    """Run *callback* in *loop*, at once if that is the one running here; False when it is
    closed."""
    if running_loop() is loop:
        callback()
        return True
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:  # closed
        return False
    return True


async def ended(task: "asyncio.Task[Any]") -> None:
    """Wait until *task*, which is cancelled with this caller, has cleaned up; not for one of
    another event loop.

    A further cancellation of the caller is one of the task, as if it were awaited here.
    """
    import asyncio

    if task.get_loop() is not running_loop():
        return
    with shielded():
        while not task.done():
            try:
                await asyncio.wait((task,), timeout=_LOOK_SECONDS)
                if not task.cancelling():  # it was a timeout's own cancellation, which is over
                    task.cancel()
            except asyncio.CancelledError:
                task.cancel()


def shielded() -> AbstractContextManager[object]:
    """A scope that those of anyio around the caller, which cancel again and again, do not reach:
    in the task is what they would spare."""
    anyio = sys.modules.get("anyio")
    return nullcontext() if anyio is None else anyio.CancelScope(shield=True)
