"""Run a blocking call in a thread, under asyncio or trio."""

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import asyncio

__all__ = ["NoThread", "run_in_thread", "running_loop"]

T = TypeVar("T")


class NoThread(Exception):
    """No thread could be had: the process is at its limit, or the pool of the event loop has been
    shut down. The call was not made."""


async def run_in_thread(call: Callable[[], T]) -> T:
    """Return what ``call()`` returns, from a thread with a copy of this context. NoThread if there
    is no thread for it."""
    started = given_up = False

    def work() -> T:
        nonlocal started
        if given_up:  # asyncio's pool queues a call before it fails to start a thread for it
            raise NoThread
        started = True
        return call()

    try:
        return await _to_thread()(work)
    except RuntimeError:
        if started:
            raise
    except BaseException:
        if started or not _dropped_by_pool():
            raise
    given_up = True
    raise NoThread


def running_loop() -> "asyncio.AbstractEventLoop | None":
    """The event loop of asyncio that runs here; None under any other, and under none."""
    import asyncio

    return asyncio._get_running_loop()


def _to_thread() -> Callable[[Callable[[], T]], Awaitable[T]]:
    trio = sys.modules.get("trio")
    if trio is not None and running_loop() is None:
        return trio.to_thread.run_sync  # type: ignore[no-any-return]  # optional, so not typed
    import asyncio  # slow to import, and only async callers need it

    return asyncio.to_thread


def _dropped_by_pool() -> bool:
    """Whether what was raised here is that the pool cancelled the call, and not that someone
    cancelled the caller."""
    import asyncio

    task = asyncio.current_task() if running_loop() is not None else None
    return (
        task is not None
        and isinstance(sys.exc_info()[1], asyncio.CancelledError)
        and (not task.cancelling())
    )
