"""A flight: one run of the work for a key, and who waits for it."""

from collections.abc import Callable, Hashable
from contextvars import Context, ContextVar
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import ref

from llm_cache_mem.engine.waiters import Waiter

if TYPE_CHECKING:
    import asyncio

__all__ = ["Chains", "Flight", "is_nested", "keep_lead", "leading", "leads_here"]

R = TypeVar("R")

leading: "ContextVar[tuple[Flight, ...]]" = ContextVar("llm_cache_mem_leading", default=())
"""The flights that the code running here works for: to wait for one of them would be to wait for
oneself."""


class Chains:
    """The flights that followed one another's failures: how many of them are *live*."""

    __slots__ = ("live",)

    def __init__(self) -> None:
        self.live = 1


class Table(Protocol):
    """Where a flight is listed, so that other callers find it."""

    def end(self, flight: "Flight") -> None:
        """Accept no more followers of *flight*."""


class Flight:
    """One run of the work for a key. It may store its answer as long as no caller has forgotten
    the key. Thread-safe; what has no underscore and is no method is for its *table*, under the
    lock of that."""

    __slots__ = (
        "__weakref__",
        "_forgotten",
        "_storing",
        "chains",
        "circumstances",
        "finished",
        "key",
        "led_by",
        "only_followers_alike",
        "outlasts",
        "result",
        "slot",
        "table",
        "task",
        "waiters",
    )

    def __init__(
        self, table: Table, key: str, slot: object, circumstances: Hashable, chains: Chains
    ) -> None:
        self.table = table
        self.key = key
        self.slot = slot
        self.circumstances = circumstances
        """Those of its leader."""
        self.chains = chains
        self.outlasts = False
        self.only_followers_alike = False
        self.result: ref[Any] | None = None
        self.finished = False
        self.waiters: dict[Waiter, None] = {}  # in the order of arrival
        self.task: asyncio.Task[None] | None = None
        self.led_by: ref[Any] | None = None  # what lives as long as the call of its leader
        self._storing = RLock()  # re-entrant: what stores may forget
        self._forgotten = False

    def commit(self, store: Callable[[], R]) -> R | None:
        """Run *store* and return its result, or None without running it when the key was forgotten
        since the flight began.

        A ``forget`` that comes meanwhile waits until *store* is done.
        """
        with self._storing:
            return None if self._forgotten else store()

    def outlast(self) -> None:
        """Let later callers join what the work returns, though it has returned: until ``end``, or
        until no caller holds it.

        For work that returns something still going on, such as a stream; to be called by the work
        itself.
        """
        self.outlasts = True

    def only_alike(self) -> None:
        """Share what the work returns only with callers in the same circumstances, as an exception:
        for a response that reports an error. To be called by the work itself."""
        self.only_followers_alike = True

    def end(self) -> None:
        """Accept no more followers."""
        self.table.end(self)

    @property
    def goes_on(self) -> bool:
        return self.outlasts or not self.finished

    @property
    def is_deserted(self) -> bool:
        """Whether its leader is gone without a word: an interrupt can end a thread anywhere, and an
        event loop can be closed with tasks in it."""
        task = self.task
        if task is not None:
            return task.get_loop().is_closed()
        return self.led_by is not None and self.led_by() is None

    def finish(self) -> None:
        if not self.finished:
            self.finished = True
            self.chains.live -= 1

    def forget(self) -> None:
        with self._storing:
            self._forgotten = True

    def after_fork(self) -> None:
        self._storing = RLock()


def leads_here(own: Flight) -> bool:
    """Whether the code running here works for another flight of the same table that *own* would
    have to wait for."""
    return any(
        flight.slot == own.slot and flight.table is own.table and flight.goes_on
        for flight in leading.get()
    )


def is_nested(flight: Flight) -> bool:
    """Whether *flight* is led by the work of another for the same key, in whatever cache: it must
    not wait for that."""
    return any(
        other is not flight and other.key == flight.key and other.goes_on for other in leading.get()
    )


def keep_lead(context: Context) -> None:
    """Let what runs in *context* be the work of the flights that the code running here works
    for."""
    context.run(leading.set, leading.get())
