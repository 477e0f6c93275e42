"""A circuit breaker: after three failures in a row, calls are refused for a while."""

from collections.abc import Callable
from threading import RLock  # re-entrant: a signal handler may ask in the middle of it
from time import monotonic

from llm_cache_mem._util.fork import reset_after_fork

__all__ = ["CircuitBreaker"]

_FAILURES = 3  # in a row open a breaker,
_FIRST, _LONGEST = 1.0, 5.0  # for this many seconds at first, and at most
_LONGEST_PROBE = 30.0


class CircuitBreaker:
    """Three consecutive failures open it for one second, then two, four and at most five; after
    each wait a single call, the probe, decides.

    A slow failure counts twice, since one request makes several operations and must not wait for
    each. A failure of a call that began before it opened changes nothing, or one outage would
    escalate the wait at once.
    """

    def __init__(self, *, timer: Callable[[], float] = monotonic) -> None:
        self.proven = False  # whether the last outcome was a success
        self.failures = 0  # since the last success
        self.seconds = 0.0  # how long it stays open; 0: it is closed
        self._timer = timer
        self._lock = RLock()
        self._weight = 0  # of the failures
        self._probe_at = 0.0
        self._probing_until = 0.0  # a probe that an interrupt ended may not have said so
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = RLock()
        self._probing_until = 0.0

    @property
    def open(self) -> bool:
        """Whether calls are refused, except for the probe."""
        return self.seconds > 0

    @property
    def waiting(self) -> bool:
        """Whether calls are refused, and it is not yet time for a probe."""
        return self.seconds > 0 and self._timer() < self._probe_at

    def allows(self) -> bool:
        """Whether a call may go to the store now. If it is open, that call is the probe."""
        if not self.seconds:
            return True
        with self._lock:
            if not self.seconds:
                return True
            now = self._timer()
            if now < self._probing_until or now < self._probe_at:
                return False
            self._probing_until = now + _LONGEST_PROBE
            return True

    def succeeded(self) -> bool:
        """Note a success; whether it closed the breaker."""
        if self.proven:
            return False
        with self._lock:
            closed = self.seconds > 0
            self.failures = self._weight = 0
            self.seconds = 0.0
            self._probing_until = 0.0
            self.proven = True
            return closed

    def interrupted(self) -> None:
        """Note a call that neither succeeded nor failed: another one may be the probe."""
        with self._lock:
            self._probing_until = 0.0

    def failed(self, *, slowly: bool = False) -> bool:
        """Note a failure; whether it opened the breaker."""
        with self._lock:
            self.proven = False
            self.failures += 1
            self._weight += 2 if slowly else 1
            if self.seconds and not self._probing_until:
                return False
            if not self.seconds and self._weight < _FAILURES:
                return False
            from random import random  # slow to import, and stores seldom fail

            opened = not self.seconds
            self.seconds = min(_LONGEST, self.seconds * 2 or _FIRST)
            self._probe_at = self._timer() + self.seconds * (0.75 + random() / 4)
            self._probing_until = 0.0
            return opened
