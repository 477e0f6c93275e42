"""Locks and tables that a forked child must not inherit as they were."""

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["reset_after_fork"]


class _Resettable(Protocol):
    def _after_fork(self) -> None: ...


_live: "WeakSet[_Resettable]" = WeakSet()


def reset_after_fork(obj: _Resettable) -> None:
    """Call ``obj._after_fork()`` in every child forked from now on, for as long as *obj* lives."""
    _live.add(obj)


def _reset_all() -> None:
    for obj in list(_live):
        obj._after_fork()


if hasattr(os, "register_at_fork"):  # absent on Windows, where nothing forks
    os.register_at_fork(after_in_child=_reset_all)
