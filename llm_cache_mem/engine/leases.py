"""Single-flight over processes and hosts: of the caches that share a store, one calls the model for
a key, the others wait for its answer.

Who calls holds a lease in the store, which a thread renews while the call runs: a process that is
killed loses its leases in seconds, a slow call keeps its own. Those who do not get it look into the
store again and again, until the answer is there, the lease is to be had, or they have waited long
enough. No answer is wrong for want of a lease: one that is lost, or a store that fails, costs a
call more.
"""

import atexit
import contextlib
import os
import sys
import threading
from _thread import RLock, allocate_lock
from collections import deque
from collections.abc import Callable
from random import uniform
from time import monotonic, sleep
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet, WeakValueDictionary, ref

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem._util.in_thread import running_loop
from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores.fail_open import FailOpenStore

if TYPE_CHECKING:
    import asyncio

__all__ = ["LEASE_SECONDS", "Lease", "Leases"]

T = TypeVar("T")

LEASE_SECONDS = 6.0  # how long the others wait for a dead one
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
_PAUSE_SHARE = 0.15  # of the time that was waited so far
_EXIT_SECONDS = 1.0  # how long the end of the program waits for leases to be released


class Lease:
    """A caller's lease to make the call for a key: ``acquire`` it, call if that gave nothing,
    ``release`` it in a ``finally``.

    The time that the caller may wait begins when the lease is made: *seconds*, after which it calls
    anyway, or *timeout* seconds, after which it gives up. The holder of a lease keeps it alive: one
    that is dropped, as by an interrupt, is released within two seconds.
    """

    __slots__ = (
        "__weakref__",
        "_asked",
        "_began",
        "_deadline",
        "_leases",
        "_loop",
        "_timeout",
        "_unsure",
        "key",
        "over",
        "token",
    )

    def __init__(
        self, leases: "Leases", key: str, seconds: float, timeout: float | None = None
    ) -> None:
        self.key = key
        self.token = os.urandom(16).hex()
        self.over = False
        self._leases = leases
        self._began = monotonic()
        self._timeout = timeout if timeout is not None and timeout < seconds else None
        self._deadline = self._began + (seconds if self._timeout is None else self._timeout)
        self._asked = False
        self._unsure = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def alive(self) -> bool:
        """Whether what it was taken for can still go on: a task does not outlive its event loop."""
        return self._loop is None or self._loop.is_running()

    def acquire(self, look: Callable[[], T | None]) -> T | None:
        """None when the call is this caller's to make, else what *look* finds: the answer that
        another has stored.

        Waits until it knows which. After the caller's timeout, or the store cannot tell,
        the call is this caller's.
        """
        while True:
            found, pause = self._step(look)
            if pause is None:
                return found
            sleep(pause)

    async def aacquire(self, look: Callable[[], T | None]) -> T | None:
        """As ``acquire``; *look* is run in a thread where the store would block the event loop."""
        import asyncio

        self._loop = asyncio.get_running_loop()
        while True:
            found, pause = await self._leases.store.off_loop(lambda: self._step(look))
            if pause is None:
                return found
            await asyncio.sleep(pause)

    def release(self) -> None:
        """Let the next one try. Without the lease, or a second time, it does nothing. Does not
        block an event loop."""
        self._leases.release(self)

    def _step(self, look: Callable[[], T | None]) -> tuple[T | None, float | None]:
        """What *look* finds, and the seconds to wait before the next step; None: the waiting is
        over."""
        if self._asked:  # else the caller has just looked
            found = look()
            if found is not None:
                return found, None
        self._asked = True
        if not self._leases.holds(
            self.key
        ):  # by an older call of this process: that it was begun anew means not to wait for it
            pause = self._pause(self._leases.try_acquire(self))
            if pause is not None:
                return None, pause
        found = look()  # the previous lease holder may have stored the answer meanwhile
        if found is not None:
            self.release()
        return found, None

    def _pause(self, leads: bool | None) -> float | None:
        """The seconds to wait for another, whose call it is; None if this caller leads, or would
        wait in vain."""
        unsure, self._unsure = self._unsure, leads is None
        if leads or (leads is None and (unsure or self._leases.store.circuit_open)):
            return None
        now = monotonic()
        if now >= self._deadline:
            if self._timeout is not None:
                raise TimeoutError(
                    f"an identical call in another process took longer than {self._timeout:g} s"
                )
            return None
        usual = min(max((now - self._began) * _PAUSE_SHARE, _SHORTEST_PAUSE), _LONGEST_PAUSE)
        return min(usual * uniform(0.7, 1.3), self._deadline - now)


class _Asked(ref[Lease]):
    """A lease that the store may have given."""

    __slots__ = ("key", "token")

    key: str
    token: str


class Leases:
    """The leases that the callers of one cache hold in its *store*; the thread that renews them
    lives no longer than they do.

    A caller waits for another at most *wait_seconds*. Thread-safe; a forked child holds nothing of
    its parent's.
    """

    def __init__(self, store: FailOpenStore, wait_seconds: float) -> None:
        self.store = store
        self._wait_seconds = wait_seconds
        self._closing = False
        self._after_fork()
        reset_after_fork(self)
        _all.add(self)

    def _after_fork(self) -> None:
        self._lock = RLock()  # and a gate: an interrupt would leave a Condition locked
        self._gate = allocate_lock()
        self._gate.acquire()
        self._held: WeakValueDictionary[str, Lease] = WeakValueDictionary()
        self._to_release: deque[Lease | _Asked] = deque()
        self._asked: dict[str, _Asked] = {}  # by token, until they are denied or released
        self._renewer: threading.Thread | None = None

    def new(self, key: str, timeout: float | None = None) -> Lease:
        """A lease for *key*, not acquired yet. *timeout*: the caller's own, in seconds."""
        return Lease(self, key, self._wait_seconds, timeout)

    def holds(self, key: str) -> bool:
        """Whether a caller of this cache has the lease of *key*."""
        return key in self._held

    def try_acquire(self, lease: Lease) -> bool | None:
        """Try once to get *lease*; None when the store cannot tell."""
        # The callback is in C: no interrupt can come between the end of a lease and its release.
        asked = _Asked(lease, self._to_release.append)
        asked.key, asked.token = lease.key, lease.token
        self._asked[lease.token] = asked
        if self._to_release:
            self._ensure_renewer()
        leads = self.store.lease(lease.key, lease.token, LEASE_SECONDS)
        if leads:
            with self._lock:
                if not lease.over:
                    self._held[lease.key] = lease
                    self._ensure_renewer()
            if lease.over:  # its caller was cancelled, and left a thread behind that got this far
                self._release_in_store(lease)
        else:
            self._asked.pop(lease.token, None)
        return leads

    def release(self, lease: Lease) -> None:
        """End *lease*; where the store would block an event loop, soon."""
        with self._lock:
            lease.over = True
            if self._held.get(lease.key) is lease:
                del self._held[lease.key]
            if lease.token not in self._asked:
                return
            if (
                self.store.blocking
                and "asyncio" in sys.modules
                and running_loop() is not None
                and self._ensure_renewer()
            ):
                self._to_release.append(lease)
                self._wake()
                return
        self._release_in_store(lease)

    def _release_in_store(self, lease: Lease) -> None:
        self.store.release(lease.key, lease.token)
        self._asked.pop(lease.token, None)

    def finish(self) -> None:
        """At exit: end the leases of those who are not there any more, and the thread."""
        with self._lock:
            self._closing = True
            renewer = self._renewer
            self._wake()
        if renewer is not None:
            renewer.join(_EXIT_SECONDS)

    # -- The thread

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # woken already
            self._gate.release()

    def _ensure_renewer(self) -> bool:
        """See to it that there is a thread to do what is due; False when none can be started any
        more."""
        if self._renewer is None:
            renewer = threading.Thread(target=self._run, name="llm-cache-mem leases", daemon=True)
            try:
                renewer.start()
            except RuntimeError:  # too many, or the interpreter is about to end
                return False
            self._renewer = renewer
        return True

    def _run(self) -> None:
        due = monotonic() + LEASE_SECONDS / 3
        while self._wait(due):
            self._release_queued()
            if monotonic() >= due:
                self._renew()
                due = monotonic() + LEASE_SECONDS / 3

    def _wait(self, due: float) -> bool:
        """Wait until there is something to do, at the latest when it is *due*; False when no caller
        holds a lease any more."""
        if not self._to_release and not self._closing:
            self._gate.acquire(timeout=max(0.0, due - monotonic()))
        with self._lock:
            if self._closing:
                self._to_release += self._held.values()
                self._held.clear()
            if not self._to_release and not self._held:
                self._renewer = None
                return False
            return True

    def _release_queued(self) -> None:
        while self._to_release:
            lease = self._to_release.popleft()
            with contextlib.suppress(StoreError):  # of a strict cache: no caller is left to be told
                self.store.release(lease.key, lease.token)
            self._asked.pop(lease.token, None)

    def _renew(self) -> None:
        for lease in list(self._held.values()):
            if not lease.alive:
                continue
            with contextlib.suppress(StoreError):  # as above
                lost = self.store.lease(lease.key, lease.token, LEASE_SECONDS) is False
                with self._lock:
                    over = self._held.get(lease.key) is not lease
                    if lost and not over:
                        del self._held[lease.key]
                if over:  # it ended while it was prolonged
                    self._release_in_store(lease)


_all: "WeakSet[Leases]" = WeakSet()


def _finish_all() -> None:
    for leases in list(_all):
        leases.finish()


atexit.register(_finish_all)
