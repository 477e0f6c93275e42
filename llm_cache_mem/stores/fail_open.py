"""Fail open: a failing store costs a miss or a dropped write, and little time."""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from threading import local
from time import monotonic
from typing import ParamSpec, TypeVar, cast

from llm_cache_mem._util.in_thread import NoThread, run_in_thread
from llm_cache_mem._util.terminal import visible
from llm_cache_mem.errors import StoreError, ValueNotCacheable
from llm_cache_mem.stores.base import (
    NOTHING_REMOVED,
    LeasingStore,
    ManyStore,
    Removed,
    Store,
    keeps_recordings,
    name_of,
)
from llm_cache_mem.stores.circuit_breaker import CircuitBreaker
from llm_cache_mem.stores.failures import NotAsked
from llm_cache_mem.values.entry import Entry

__all__ = ["FailOpenStore"]

_log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
AsyncGet = Callable[[str], Awaitable[Entry | None]]

_QUIET_SECONDS = 60.0

_NO_THREAD = "no thread could be started"


class _ThisThread(local):
    must_not_wait = False  # an event loop runs here, and no other thread could be had


_here = _ThisThread()


class FailOpenStore:
    """A Store around a Store whose ``get``, ``put`` and ``size`` never raise, unless *strict*.

    ``delete``, ``clear``, ``purge`` and ``entries`` do raise StoreError: a failed delete is never
    silent. Reads and writes have a circuit breaker each, so that a store that can only be read is
    still read, and is not waited for at each write. While reads fail, writes are bypassed too.
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
        self.leasing = store if isinstance(store, LeasingStore) else None
        self._many = store if isinstance(store, ManyStore) else None
        self._peek: Callable[..., Entry | None] | None = (
            getattr(store, "peek", None) if hasattr(type(store), "peek") else None
        )
        self._glance: Callable[[str], Entry | None] | None = (
            getattr(store, "glance", None) if hasattr(type(store), "glance") else None
        )
        # the back of a tiered store may have none, although the tiered store has the method
        self._aget = (
            cast(AsyncGet, getattr(store, "aget", None))
            if getattr(store, "reads_on_loop", False)
            else None
        )
        self._strict = strict
        self._on_error = on_error
        self._timer = timer
        self._reads = CircuitBreaker(timer=timer)
        self._writes = CircuitBreaker(timer=timer)
        slow = getattr(store, "slow_seconds", None)
        self._slow_seconds = float(slow) if isinstance(slow, (int, float)) else None
        self._failing = False
        self._announced = False  # whether the log says that the store is bypassed
        self._quiet_until = self._open_quiet_until = self._no_thread_quiet_until = 0.0

    def __repr__(self) -> str:
        return repr(self.inner)

    @property
    def name(self) -> str:
        """The name of the store in logs, without a secret."""
        return visible(name_of(self.inner))

    @property
    def blocking(self) -> bool:
        return self.inner.blocking

    @property
    def counts_at_once(self) -> bool:
        """Whether the store knows its size without walking through its entries."""
        return getattr(self.inner, "counts_at_once", False) is True

    @property
    def circuit_open(self) -> bool:
        """Whether the store failed so often that reads or writes bypass it."""
        return self._reads.open or self._writes.open

    def peek(self, key: str, *, offline: bool = False) -> Entry | None:
        """The entry under *key* if no disk or server need be asked; *offline*: or none can be.

        The breakers have no say in it: the front of a tiered store works without its back.
        """
        if self._peek is None:
            return None
        try:
            return self._peek(key, offline=offline)
        except Exception:  # noqa: BLE001  # as in _call
            self._on_error("get")
            return None

    def glance(self, key: str) -> Entry | None:
        """The entry under *key*, if the store has it so soon that an event loop may wait for it;
        None says nothing."""
        if self._glance is None or self._reads.open:
            return None
        return self._glance(key)

    def get(self, key: str) -> Entry | None:
        if self._peek is None:
            return self._call(self._reads, "get", None, self.inner.get, key)
        return (
            self.peek(key)
            or self._call(self._reads, "get", None, self.inner.get, key)
            or self.peek(key, offline=True)
        )

    @property
    def reads_on_loop(self) -> bool:
        """Whether ``aget`` may be used."""
        return self._aget is not None

    async def aget(self, key: str) -> Entry | None:
        """As ``get``, for a task of asyncio, without a thread."""
        assert self._aget is not None
        breaker, operation = self._reads, "get"
        if self._strict:
            return await self._aget(key)
        if self._allows(breaker):
            began = self._timer()
            try:
                found = await self._aget(key)
            except BaseException as exc:
                if not self._goes_on(breaker, operation, exc, began):
                    raise
            else:
                if not breaker.proven:
                    self._note_success(breaker)
                return found
        return self.peek(key, offline=True)

    def get_or_raise(self, key: str) -> Entry | None:
        """As ``get``, but raise StoreError where ``get`` would report a failure as a miss."""
        return self._call_or_raise("get", self.inner.get, key)

    def put(self, key: str, entry: Entry) -> Removed | None:
        """As Store.put; None if the write was dropped."""
        return self._call(self._writes, "put", None, self.inner.put, key, entry)

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The entries under *keys* that can be had, in one round trip where the store can."""
        if self._peek is not None:
            found = {
                key: entry for key in dict.fromkeys(keys) if (entry := self.peek(key)) is not None
            }
            if self._many is not None and len(found) < len(keys):
                found |= self._call(
                    self._reads,
                    "get_many",
                    {},
                    self._many.get_many,
                    [key for key in keys if key not in found],
                )
            return found
        if self._many is not None:
            return self._call(self._reads, "get_many", {}, self._many.get_many, keys)
        pairs = ((key, self.get(key)) for key in dict.fromkeys(keys))
        return {key: entry for key, entry in pairs if entry is not None}

    def put_many(self, entries: Mapping[str, Entry]) -> Removed | None:
        """As ManyStore.put_many; None if some or all of *entries* were dropped."""
        if self._many is not None:
            return self._call(self._writes, "put_many", None, self._many.put_many, entries)
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
        """Delete an entry that is stale, unreadable or replaced; recordings stay."""
        if keeps_recordings(self.inner):
            return False
        return self._call(
            self._writes, "delete", False, lambda: self.inner.delete(key, stored_at=stored_at)
        )

    def size(self, prefix: str = "") -> int:
        return self._call(self._reads, "size", 0, self.inner.size, prefix)

    def lease(self, key: str, token: str, seconds: float) -> bool | None:
        """As LeasingStore.lease; None if the store cannot lease, or failed."""
        return (
            None
            if self.leasing is None
            else self._call(self._writes, "lease", None, self.leasing.lease, key, token, seconds)
        )

    def release(self, key: str, token: str) -> None:
        if self.leasing is not None:
            self._call(self._writes, "release", None, self.leasing.release, key, token)

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

    async def off_loop(self, call: Callable[[], R]) -> R:
        """Return what ``call()`` returns, from a thread if the store would block the event loop.

        Where no thread can be had (a limit of the process, a pool that has been shut down), *call*
        runs here, and what it asks of this store fails.
        """
        if not self.blocking:
            return call()
        try:
            return await run_in_thread(call)
        except NoThread:
            now = self._timer()
            if now >= self._no_thread_quiet_until:
                self._no_thread_quiet_until = now + _QUIET_SECONDS
                _log.warning("%s: %s, continuing without the cache", self.name, _NO_THREAD)
        _here.must_not_wait = True
        try:
            return call()
        finally:
            _here.must_not_wait = False

    def _call(
        self,
        breaker: CircuitBreaker,
        operation: str,
        fallback: R,
        call: Callable[P, R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        if self._strict:
            return self._call_or_raise(operation, call, *args, **kwargs)
        if _here.must_not_wait:
            self._on_error(operation)
            return fallback
        slow = self._slow_seconds
        began = 0.0 if slow is None else self._timer()
        try:  # all of it: others wait for a probe that an interrupt ends unnoticed
            if not self._allows(breaker):
                return fallback
            result = call(*args, **kwargs)
            if slow is not None and operation != "size" and self._timer() - began > slow:
                reason = f"took longer than {slow:g} s"
                late = StoreError(type(self.inner).__name__, operation, reason)
                self._note_failure(breaker, operation, late, slowly=True)
            elif not breaker.proven:
                self._note_success(breaker)
            return result
        except BaseException as exc:
            if not self._goes_on(breaker, operation, exc, began):
                raise
            return fallback

    def _allows(self, breaker: CircuitBreaker) -> bool:
        return not (breaker is self._writes and self._reads.waiting) and breaker.allows()

    def _goes_on(
        self, breaker: CircuitBreaker, operation: str, exc: BaseException, began: float
    ) -> bool:
        """Note that an operation that *began* then raised *exc*; whether the caller's call goes on
        without the store.

        It is not raised from here: its traceback would hold this frame, which holds it, and so the
        locks and flights of an interrupted caller would last until garbage is collected.
        """
        if isinstance(exc, NotAsked):
            breaker.interrupted()
            self._on_error(operation)
        elif isinstance(exc, ValueNotCacheable) or not isinstance(exc, Exception):
            breaker.interrupted()  # the value is at fault, or an interrupt: not the store
            return False
        else:
            slow = self._slow_seconds
            slowly = slow is not None and self._timer() - began >= slow / 2
            self._note_failure(breaker, operation, exc, slowly=slowly)
        return True

    def _call_or_raise(
        self, operation: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        if _here.must_not_wait:
            self._on_error(operation)
            raise NotAsked(type(self.inner).__name__, operation, _NO_THREAD)
        try:
            return call(*args, **kwargs)
        except (StoreError, StopIteration, ValueNotCacheable):
            raise
        except Exception as exc:
            raise StoreError(type(self.inner).__name__, operation, type(exc).__name__) from exc

    def _note_failure(
        self, breaker: CircuitBreaker, operation: str, exc: BaseException, *, slowly: bool
    ) -> None:
        reads, writes = self._reads, self._writes
        opened = breaker.failed(slowly=slowly)
        if (
            breaker is writes
            and not reads.proven
            and not reads.open
            and reads.failed(slowly=slowly)
        ):
            opened, breaker = True, reads  # no read has succeeded either: the whole store is down
        self._on_error(operation)
        error = visible(exc.reason) if isinstance(exc, StoreError) else type(exc).__name__
        now = self._timer()
        if not self._failing:
            self._failing = True
            if now >= self._quiet_until:
                self._quiet_until = now + _QUIET_SECONDS
                text = "%s: %s failed, continuing without the cache (%s)"
                _log.warning(text, self.name, operation, error)
        elif opened and now >= self._open_quiet_until:
            self._open_quiet_until = now + _QUIET_SECONDS
            self._announced = True
            failures, bypassed = (
                ("failed writes", "writes") if breaker is writes else ("failures", "the cache")
            )
            text = f"%s: %d consecutive {failures}, bypassing {bypassed} for %g s (last error: %s)"
            _log.warning(text, self.name, breaker.failures, breaker.seconds, error)

    def _note_success(self, breaker: CircuitBreaker) -> None:
        other = self._writes if breaker is self._reads else self._reads
        had_failed = breaker.failures > 0
        breaker.succeeded()
        if had_failed and not other.open:
            self._failing = False
            if self._announced:
                self._announced = False
                _log.warning("%s: working again", self.name)
