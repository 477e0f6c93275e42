"""Sharing: work that callers want at the same time is done once, by whichever came first."""

from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeVar

from llm_cache_mem._util.in_thread import running_loop
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.engine.flight import Flight
from llm_cache_mem.engine.layers import Above, Layers
from llm_cache_mem.engine.reader import Reader
from llm_cache_mem.engine.samples import SampleWarning
from llm_cache_mem.engine.settings import Settings
from llm_cache_mem.engine.single_flight import SingleFlight
from llm_cache_mem.engine.writer import Writer
from llm_cache_mem.keys.request import Keyer, Request
from llm_cache_mem.stores.fail_open import FailOpenStore
from llm_cache_mem.values.entry import Entry

if TYPE_CHECKING:  # loaded by caches that share calls across processes
    from llm_cache_mem.engine.leases import Lease, Leases

__all__ = ["Sharing"]

T = TypeVar("T")


class Sharing:
    """The parts of an engine that callers who missed need, and how they share a call."""

    def __init__(
        self,
        backend: FailOpenStore,
        keyer: Keyer,
        ledger: Ledger,
        settings: Settings,
        flights: SingleFlight,
        leases: "Leases | None",
        layers: Layers,
        reader: Reader,
        writer: Writer,
    ) -> None:
        self.backend = backend
        self.keyer = keyer
        self.ledger = ledger
        self.settings = settings
        self.flights = flights
        self.leases = leases
        self.layers = layers
        self.reader = reader
        self.writer = writer
        self._samples = SampleWarning()

    def share(
        self,
        request: Request,
        work: Callable[[Flight], T],
        lane: object = None,
        *,
        circumstances: Hashable,
        timeout: float | None = None,
    ) -> tuple[T, bool]:
        """What ``work(flight)`` returns, and whether that was another caller's of the same *lane*.

        For callers that missed. *work* rechecks first, and stores the answer. *circumstances* and
        *timeout* are as in ``SingleFlight.run``.
        """
        if not self.settings.coalesce:
            return work(self.flights.solo(request.key)), False
        return self.flights.run(
            request.key, work, _lane(request, lane), circumstances=circumstances, timeout=timeout
        )

    async def ashare(
        self,
        request: Request,
        work: Callable[[Flight], Awaitable[T]],
        lane: object = None,
        *,
        circumstances: Hashable,
        timeout: float | None = None,
    ) -> tuple[T, bool]:
        """``share`` for a coroutine function."""
        if not self.tasks_coalesce:
            return await work(self.flights.solo(request.key)), False
        return await self.flights.arun(
            request.key, work, _lane(request, lane), circumstances=circumstances, timeout=timeout
        )

    def lease(self, request: Request, timeout: float | None = None) -> "Lease | None":
        """With ``coalesce="fleet"``, a lease to make the call for *request* that no other process
        has; None if there is no other process to ask. *timeout*: see ``Lease``."""
        if self.leases is None or self.settings.current_mode() != "on":
            return None
        return self.leases.new(request.key, timeout)

    @property
    def tasks_coalesce(self) -> bool:
        """Whether tasks share calls here: under asyncio they do."""
        return bool(self.settings.coalesce) and running_loop() is not None

    def passing(self) -> AbstractContextManager[None]:
        """A block in which an HTTP layer that leaves calls to the layers above lets them pass."""
        return self.layers.in_hand() if self.layers.above_answers else nullcontext()

    def answered_below(self, request: Request) -> Above | None:
        """See ``Engine.answered_below``."""
        return self.layers.settle(request.key)

    def count_coalesced(self, request: Request, entry: Entry | None, seconds: float) -> None:
        """See ``Engine.count_coalesced``."""
        self.layers.settle(request.key)
        self._samples.coalesced(request)
        self.ledger.coalesced_with(request.key, entry, request.model, seconds, request.tags)

    async def off_loop(self, call: Callable[[], T]) -> T:
        """See ``Engine.off_loop``."""
        return await self.backend.off_loop(call)


def _lane(request: Request, lane: object = None) -> object:
    """*lane* for those whose answers depend on the same generations as that of *request*."""
    return lane if request.depends_on is None else (lane, request.depends_on.lane)
