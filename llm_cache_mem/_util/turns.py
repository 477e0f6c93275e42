"""Take turns among threads, in order of arrival, by a lock that an interrupt cannot leave held."""

from _thread import RLock, allocate_lock  # in C: no signal handler can run while one is taken
from collections import deque
from time import monotonic
from weakref import ref

__all__ = ["Turn", "Turns"]

_LOOK_SECONDS = 0.05  # until a turn is noticed whose holder is gone


class Turn:
    """A place in the queue; the first one is the turn. It ends with ``Turns.end``, or when no
    caller holds this object."""

    __slots__ = ("__weakref__", "_gate")

    def __init__(self) -> None:
        self._gate = allocate_lock()
        self._gate.acquire()


class Turns:
    """Gives one turn at a time. Thread-safe; not reentrant.

    The queue holds turns by weak references only. So the turn of a caller whose frame is gone,
    because a signal handler raised at whatever moment, is over by itself.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all turns, as a forked child must."""
        self._lock = RLock()
        self._queue: deque[ref[Turn]] = deque()

    def take(self, timeout: float) -> Turn | None:
        """A turn, to be ended; None if it did not come within *timeout* seconds."""
        turn = Turn()
        place = ref(turn)
        self._queue.append(place)
        deadline: float | None = None
        while True:
            with self._lock:
                while self._queue and self._queue[0]() is None:
                    self._queue.popleft()
                if not self._queue or self._queue[0] is place:  # empty: it was reset
                    return turn
            now = monotonic()
            deadline = now + timeout if deadline is None else deadline
            if now >= deadline:
                self.end(turn)
                return None
            turn._gate.acquire(timeout=min(_LOOK_SECONDS, deadline - now))

    def end(self, turn: Turn) -> None:
        """Let the next one have its turn."""
        with self._lock:
            place = ref(turn)
            if place in self._queue:
                self._queue.remove(place)
            for waiting in self._queue:
                following = waiting()
                if following is not None:
                    if following._gate.locked():
                        following._gate.release()
                    return
