"""A lock that threads get in order of arrival, and that no interrupt can leave held."""

from _thread import RLock, allocate_lock  # in C: no signal handler can run while one is taken
from collections import deque
from time import monotonic
from weakref import ref

__all__ = ["FairLock", "Place"]

_LOOK_SECONDS = 0.05  # until it is noticed that the holder is gone


class Place:
    """A place in the queue; the first one holds the lock. It ends with ``FairLock.release``, or
    when no caller has this object."""

    __slots__ = ("__weakref__", "_gate")

    def __init__(self) -> None:
        self._gate = allocate_lock()
        self._gate.acquire()


class FairLock:
    """A lock for threads. Not reentrant.

    The queue has weak references to places only. So a caller whose frame is gone, because a signal
    handler raised at whatever moment, releases the lock by itself.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the queue, as a forked child must."""
        self._lock = RLock()
        self._queue: deque[ref[Place]] = deque()

    def acquire(self, timeout: float) -> Place | None:
        """The lock, to be released; None if it did not come free within *timeout* seconds."""
        place = Place()
        reference = ref(place)
        self._queue.append(reference)
        deadline: float | None = None
        while True:
            with self._lock:
                while self._queue and self._queue[0]() is None:
                    self._queue.popleft()
                if not self._queue or self._queue[0] is reference:  # empty: it was reset
                    return place
            now = monotonic()
            deadline = now + timeout if deadline is None else deadline
            if now >= deadline:
                self.release(place)
                return None
            place._gate.acquire(timeout=min(_LOOK_SECONDS, deadline - now))

    def release(self, place: Place) -> None:
        """Give the lock to the next in the queue."""
        with self._lock:
            reference = ref(place)
            if reference in self._queue:
                self._queue.remove(reference)
            for waiting in self._queue:
                following = waiting()
                if following is not None:
                    if following._gate.locked():
                        following._gate.release()
                    return
