"""Fail-open: a store that fails costs a miss or a dropped write, and for a bounded time only."""

from _thread import RLock  # re-entrant: a signal handler may ask in the middle of it
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import ParamSpec, TypeVar

from llm_cache_mem._util import log
from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.errors import StoreError, ValueNotCacheable
from llm_cache_mem.stores.base import (
    NOTHING_REMOVED,
    LeasingStore,
    ManyStore,
    Removed,
    Store,
    keeps_recordings,
)
from llm_cache_mem.stores.failures import NotAsked
from llm_cache_mem.values.entry import Entry

__all__ = ["CircuitBreaker", "FailOpenStore"]

P = ParamSpec("P")
R = TypeVar("R")

_FAILURES = 3  # in a row open a breaker,
_FIRST, _LONGEST = 1.0, 5.0  # for so many seconds the first time, and at the most
_QUIET_SECONDS = 60.0


class CircuitBreaker:
    """A circuit breaker: three failures in a row open it for one second, then two, four and at the
    most five; then one probe decides.

    What failed slowly counts twice: a call that is served by several operations must not wait for
    each of them.

    Calls that began before it opened and fail afterwards change nothing, or one outage would
    escalate the wait at once.
    """

    def __init__(self, *, timer: Callable[[], float] = monotonic) -> None:
        self._timer = timer
        self._lock = RLock()
        self._failures = 0
        self._wait = 0.0
        self._closed_again_at = 0.0
        self._probing = False
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = RLock()
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether calls are being refused."""
        return self._wait > 0

    def allows(self) -> bool:
        """Whether a call may go to the store now; when one may after a wait, it is the only one,
        the probe."""
        if not self._wait:
            return True
        with self._lock:
            if not self._wait:
                return True
            if self._probing or self._timer() < self._closed_again_at:
                return False
            self._probing = True
            return True

    def succeeded(self) -> bool:
        """Note a success; whether it closed the breaker."""
        if not self._failures:
            return False
        with self._lock:
            closed = self._wait > 0
            self._failures = 0
            self._wait = 0.0
            self._probing = False
            return closed

    def interrupted(self) -> None:
        """Note that a call ended neither way: another may be the probe."""
        with self._lock:
            self._probing = False

    def failed(self, *, slowly: bool = False) -> bool:
        """Note a failure; whether it opened the breaker."""
        with self._lock:
            self._failures += 2 if slowly else 1
            if self._wait and not self._probing:
                return False
            if not self._wait and self._failures < _FAILURES:
                return False
            from random import random  # slow to import, and stores seldom fail

            opened = not self._wait
            self._wait = min(_LONGEST, self._wait * 2 or _FIRST)
            self._closed_again_at = self._timer() + self._wait * (0.75 + random() / 4)
            self._probing = False
            return opened


class FailOpenStore:
    """A Store around a Store: ``get``, ``put`` and ``size`` never raise, unless *strict*.

    What the caller asks for by name (``delete``, ``clear``, ``purge``, ``entries``) does raise
    StoreError: nobody may believe that something is gone which is still there.
    """

    def __init__(
        self,
        store: Store,
        *,
        strict: bool,
        on_error: Callable[[str], object],
        timer: Callable[[], float] = monotonic,
    ) -> None:
        self.inner = store
        self.leasing = (
            store if isinstance(store, LeasingStore) else None
        )  # processes can agree through it
        self._many = store if isinstance(store, ManyStore) else None
        self._peek: Callable[..., Entry | None] | None = (
            getattr(store, "peek", None) if hasattr(type(store), "peek") else None
        )
        self._strict = strict
        self._on_error = on_error
        self._timer = timer
        self._breaker = CircuitBreaker(timer=timer)
        slow = getattr(store, "slow_seconds", None)
        self._slow_seconds = float(slow) if isinstance(slow, (int, float)) else None
        self._failing = False
        self._quiet_until = 0.0

    def __repr__(self) -> str:
        return repr(self.inner)

    @property
    def blocking(self) -> bool:
        return self.inner.blocking

    @property
    def circuit_open(self) -> bool:
        """Whether the store failed so often that it is not asked for some seconds."""
        return self._breaker.open

    def peek(self, key: str, *, offline: bool = False) -> Entry | None:
        """The entry under *key* if no disk or server need be asked; *offline*: or none can be.

        Not by way of the breaker: what is in front says nothing of what is behind it.
        """
        if self._peek is None:
            return None
        try:
            return self._peek(key, offline=offline)
        except Exception:  # noqa: BLE001  # as in _call
            self._on_error("get")
            return None

    def get(self, key: str) -> Entry | None:
        if self._peek is None:
            return self._call("get", None, self.inner.get, key)
        return (
            self.peek(key)
            or self._call("get", None, self.inner.get, key)
            or self.peek(key, offline=True)
        )

    def get_or_raise(self, key: str) -> Entry | None:
        """As ``get``, but StoreError says when nobody knows: for who would take a miss for an
        answer."""
        return self._call_or_raise("get", self.inner.get, key)

    def put(self, key: str, entry: Entry) -> Removed | None:
        """As Store.put; None when the write was dropped."""
        return self._call("put", None, self.inner.put, key, entry)

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The entries under *keys*, as far as they can be had: in one round trip where the store
        can do that."""
        if self._peek is not None:
            found = {
                key: entry for key in dict.fromkeys(keys) if (entry := self.peek(key)) is not None
            }
            if self._many is not None and len(found) < len(keys):
                found |= self._call(
                    "get_many", {}, self._many.get_many, [key for key in keys if key not in found]
                )
            return found
        if self._many is not None:
            return self._call("get_many", {}, self._many.get_many, keys)
        pairs = ((key, self.get(key)) for key in dict.fromkeys(keys))
        return {key: entry for key, entry in pairs if entry is not None}

    def put_many(self, entries: Mapping[str, Entry]) -> Removed | None:
        """As ManyStore.put_many; None when it failed, and some or all of *entries* were dropped."""
        if self._many is not None:
            return self._call("put_many", None, self._many.put_many, entries)
        removed = [self.put(key, entry) for key, entry in entries.items()]
        done = [each for each in removed if each is not None]
        if len(done) < len(removed):
            return None
        return (
            Removed(sum(each.evicted for each in done), sum(each.expired for each in done))
            if done
            else NOTHING_REMOVED
        )

    def discard(self, key: str, stored_at: float | None) -> bool:
        """Delete an entry that turned out stale, unreadable or replaced, if the store lets us; a
        recording only goes by name."""
        if keeps_recordings(self.inner):
            return False
        return self._call("delete", False, lambda: self.inner.delete(key, stored_at=stored_at))

    def size(self, prefix: str = "") -> int:
        return self._call("size", 0, self.inner.size, prefix)

    def lease(self, key: str, token: str, seconds: float) -> bool | None:
        """As LeasingStore.lease; None when nobody can tell."""
        return (
            None
            if self.leasing is None
            else self._call("lease", None, self.leasing.lease, key, token, seconds)
        )

    def release(self, key: str, token: str) -> None:
        if self.leasing is not None:
            self._call("release", None, self.leasing.release, key, token)

    def delete(self, key: str, *, stored_at: float | None = None) -> bool:
        return self._call_or_raise("delete", lambda: self.inner.delete(key, stored_at=stored_at))

    def clear(self, prefix: str = "") -> int:
        return self._call_or_raise("clear", self.inner.clear, prefix)

    def purge(self) -> int:
        return self._call_or_raise("purge", self.inner.purge)

    def entries(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        listed = self._call_or_raise("entries", self.inner.entries, prefix)
        while True:
            try:
                pair = self._call_or_raise("entries", next, listed)
            except StopIteration:
                return
            yield pair

    def close(self) -> None:
        self.inner.close()

    def _call(
        self, operation: str, fallback: R, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        if self._strict:
            return self._call_or_raise(operation, call, *args, **kwargs)
        if not self._breaker.allows():
            return fallback
        slow = self._slow_seconds
        began = 0.0 if slow is None else self._timer()
        try:
            result = call(*args, **kwargs)
        except (
            ValueNotCacheable
        ):  # the value's fault, not the store's, which may not even have been asked
            self._breaker.interrupted()
            raise
        except NotAsked:
            self._breaker.interrupted()
            self._on_error(operation)
            return fallback
        # whatever it is, the call that is being served must go on
        except Exception as exc:  # noqa: BLE001
            self._note_failure(
                operation, exc, slowly=slow is not None and self._timer() - began >= slow / 2
            )
            return fallback
        except (
            BaseException
        ):  # an interrupt: pass it on, but do not leave the breaker waiting for this probe
            self._breaker.interrupted()
            raise
        if slow is not None and operation != "size" and self._timer() - began > slow:
            self._note_failure(
                operation,
                StoreError(type(self.inner).__name__, operation, f"took longer than {slow:g} s"),
                slowly=True,
            )
        elif self._failing:
            self._note_recovery()
        return result

    def _call_or_raise(
        self, operation: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        try:
            return call(*args, **kwargs)
        except (StoreError, StopIteration, ValueNotCacheable):
            raise
        except Exception as exc:
            raise StoreError(type(self.inner).__name__, operation, type(exc).__name__) from exc

    def _note_failure(self, operation: str, exc: BaseException, *, slowly: bool) -> None:
        opened = self._breaker.failed(slowly=slowly)
        self._on_error(operation)
        name = type(self.inner).__name__
        if not self._failing:
            self._failing = True
            self._say(
                "%s failed (%s); calls go on without it",
                name,
                exc if isinstance(exc, StoreError) else type(exc).__name__,
            )
        elif opened:
            self._say(
                "%s keeps failing; it is left alone for some seconds at a time", name, even_so=True
            )

    def _note_recovery(self) -> None:
        self._failing = False
        self._say("%s works again", type(self.inner).__name__, even_so=self._breaker.succeeded())

    def _say(self, text: str, *args: object, even_so: bool = False) -> None:
        """Log a change of state; a store that flaps is not worth a line each time."""
        now = self._timer()
        if even_so or now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            log.warning(__name__, text, *args)
