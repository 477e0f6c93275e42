"""What a forked child must not inherit as it was: locks, tables, and imports that a thread of its
parent had begun."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock, current_thread
from typing import Protocol
from weakref import WeakSet

__all__ = ["finished_before_fork", "is_of_pool", "reset_after_fork"]

_LONGEST_WAIT = 30.0  # seconds; imports take about one


class _Resettable(Protocol):
    def _after_fork(self) -> None: ...


_live: "WeakSet[_Resettable]" = WeakSet()
_unfinished = RLock()  # held while something is under way that a fork must wait for


def reset_after_fork(obj: _Resettable) -> None:
    """Call ``obj._after_fork()`` in every child forked from now on, for as long as *obj* lives."""
    _live.add(obj)


@contextmanager
def finished_before_fork() -> Iterator[None]:
    """Let a fork by another thread wait until this block has ended.

    For imports inside of functions: the lock of a module that a thread was importing stays held in
    the child, where that thread does not exist, and an import of the module hangs there.
    """
    with _unfinished:
        yield


def is_of_pool() -> bool:
    """Whether this code runs for a pool of processes, as it starts a worker or pickles a task,
    which it does in a thread of its own: the context is not that of who handed in the task."""
    name = current_thread().name
    if name == "QueueFeederThread" or "_handle_tasks" in name:
        return True
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__") in (
            "concurrent.futures.process",
            "multiprocessing.pool",
        ):
            return True
    return False


def _wait() -> None:
    _unfinished.acquire(timeout=_LONGEST_WAIT)


def _resume() -> None:
    if _unfinished._is_owned():  # type: ignore[attr-defined]  # else the wait was too long
        _unfinished.release()


def _reset_all() -> None:
    global _unfinished
    _unfinished = RLock()
    for obj in list(_live):
        obj._after_fork()


if hasattr(os, "register_at_fork"):  # absent on Windows, where nothing forks
    os.register_at_fork(before=_wait, after_in_parent=_resume, after_in_child=_reset_all)
