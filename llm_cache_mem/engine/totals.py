"""Add what this process counts to the totals in its store: in the background, seldom, and when it
ends. A store that fails costs these figures and no call."""

import atexit
import logging
import os
import sys
import threading
from _thread import RLock, allocate_lock  # in C: no signal handler can run while one is taken
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from os import urandom
from time import monotonic
from typing import Final
from weakref import WeakSet

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.accounting.counts import Batch
from llm_cache_mem.accounting.totals import StoreTotals
from llm_cache_mem.stores.base import CountingStore

__all__ = ["LONGEST_SECONDS", "Totals"]

LONGEST_SECONDS: Final = 60.0
"""How old what was counted may be before the store is told. Writing makes other processes look at
their entries again, so it should be seldom where they only read."""
_WRITING_SECONDS: Final = 5.0  # the same where entries are stored
_BEFORE_OTHERS = 100

_log = logging.getLogger(__name__)


class Totals:
    """Adds what *ledger* counts to *store*. Thread-safe. *prefix* is that of keys in a context.

    While there is something to add, a daemon thread waits until it is due. A process that is killed
    loses what it has counted since the last time.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: CountingStore,
        clock: Callable[[], float],
        prefix: Callable[[], str],
    ) -> None:
        self._ledger, self._store, self._clock = ledger, store, clock
        self._reset()
        ledger.keep_pending(self._note, prefix)
        reset_after_fork(self)
        _all.add(self)

    def _reset(self) -> None:
        self._starting, self._adding = RLock(), RLock()
        self._waking = allocate_lock()  # held until the thread is to wake
        self._waking.acquire()
        self._thread: threading.Thread | None = None
        self._tried_at = monotonic()
        self._process, self._takes = urandom(8).hex(), 0
        self._unsent: deque[Batch] = deque()

    def _after_fork(self) -> None:
        self._reset()  # the parent adds what it has counted

    def _note(self, *, stored: bool = False, at_once: bool = False) -> None:
        """See to it that what was counted is added when it is due."""
        if self._thread is None:
            self._start()
        if (at_once and not self._unsent) or (
            stored and monotonic() - self._tried_at >= _WRITING_SECONDS
        ):
            with suppress(RuntimeError):  # it is on its way
                self._waking.release()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="llm-cache-mem totals", daemon=True)
        with self._starting:
            if self._thread is not None:
                return
            self._waking.acquire(blocking=False)
            self._thread = thread  # before it starts, for it says itself when it is over
            try:
                thread.start()
            except RuntimeError:  # too many, or the end is near
                self._thread = None
            except BaseException:  # an interrupt
                self._thread = None
                raise
        _add_when_a_worker_ends()

    def _run(self) -> None:
        self._waking.acquire(timeout=LONGEST_SECONDS)
        self._thread = None  # the next one that is needed is started anew
        self.add()

    def add(self) -> None:
        """Add to the store what was counted up to now, if that is possible now."""
        with self._adding:
            self._tried_at = monotonic()
            try:
                while self._unsent or self._take():
                    self._store.add_counts(self._unsent[0])
                    self._unsent.popleft()
            except Exception as exc:  # noqa: BLE001  # it is tried again, and no caller waits for it
                _log.debug("totals were not added to the store: %s", type(exc).__name__)

    def read(self) -> StoreTotals:
        """The totals in the store, with what was counted here up to now."""
        self.add()
        return self._store.totals()

    def _take(self) -> bool:
        """Make batches of what was counted since this was asked last; whether there was any."""
        self._takes += 1
        number = f"{self._process}-{self._takes}"
        self._unsent.extend(self._ledger.take_pending().batches(number, self._clock()))
        return bool(self._unsent)


_all: "WeakSet[Totals]" = WeakSet()
_workers: set[int] = set()
"""This process, if it is a worker that adds its totals at its end."""


def _add_all() -> None:
    for totals in list(_all):
        totals.add()


def _add_when_a_worker_ends() -> None:
    """Register ``_add_all`` with multiprocessing if this is one of its workers: they run nothing of
    ``atexit``."""
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None or os.getpid() in _workers:
        return
    from multiprocessing.util import Finalize

    _workers.add(os.getpid())
    Finalize(None, _add_all, exitpriority=_BEFORE_OTHERS)


atexit.register(_add_all)
