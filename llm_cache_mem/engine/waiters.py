"""Where the callers of one flight wait, in threads and in the tasks of any event loop, and how they
are woken."""

from collections.abc import Callable, Hashable
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any

from llm_cache_mem._util.exceptions import copy_exception
from llm_cache_mem._util.in_thread import running_loop

if TYPE_CHECKING:
    import asyncio

__all__ = ["TaskWaiter", "ThreadWaiter", "Waiter", "post"]


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
        """Let the caller see what has changed; False when nobody is there any more."""
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
    __slots__ = ("_called", "_loop")

    def __init__(self, flight: Any, circumstances: Hashable) -> None:
        import asyncio

        super().__init__(flight, circumstances)
        self._loop = asyncio.get_running_loop()
        self._called = self._loop.create_future()

    async def wait(self, seconds: float | None) -> None:
        timer = None if seconds is None else self._loop.call_later(seconds, self._call)
        try:
            await self._called
        finally:
            if timer is not None:
                timer.cancel()

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
