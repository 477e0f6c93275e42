"""The parts that engines on one store share: calls in progress, leases, generations, totals."""

from typing import TYPE_CHECKING

from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.engine.claims import Claims
from llm_cache_mem.engine.generations import Generations
from llm_cache_mem.engine.settings import Settings
from llm_cache_mem.engine.single_flight import SingleFlight
from llm_cache_mem.keys.request import Keyer
from llm_cache_mem.stores import MemoryStore, Store
from llm_cache_mem.stores.base import counting
from llm_cache_mem.stores.fail_open import FailOpenStore

if TYPE_CHECKING:  # loaded by caches that share calls or totals across processes
    from llm_cache_mem.engine.leases import Leases
    from llm_cache_mem.engine.totals import Totals

__all__ = ["SharedParts"]


class SharedParts:
    """Made by the first engine on a store, with its settings."""

    def __init__(
        self, backend: FailOpenStore, keyer: Keyer, ledger: Ledger, settings: Settings
    ) -> None:
        self.flights = SingleFlight(settings.wait_seconds)
        self.claims = Claims()
        self.leases = _open_leases(backend, settings)
        self.totals = _open_totals(backend, keyer, ledger, settings)
        self.generations = _open_generations(backend, keyer, ledger, settings, self.leases)


def _open_totals(
    backend: FailOpenStore, keyer: Keyer, ledger: Ledger, settings: Settings
) -> "Totals | None":
    """What adds the counts of *ledger* to the totals in the store, if that keeps some."""
    store = counting(backend.inner)
    if store is None:
        return None
    from llm_cache_mem.engine.totals import Totals

    return Totals(ledger, store, settings.clock, keyer.prefix)


def _open_leases(backend: FailOpenStore, settings: Settings) -> "Leases | None":
    """Leases in the store of *backend*, if the calls of processes are to be shared."""
    if settings.coalesce != "fleet" or isinstance(backend.inner, MemoryStore):
        return None
    if backend.leasing is None:
        raise ValueError(
            "coalesce='fleet' needs a store through which processes can agree (SQLite, Redis,"
            f" Memcached); {type(backend.inner).__name__} cannot"
        )
    from llm_cache_mem.engine.leases import Leases

    return Leases(backend, settings.wait_seconds)


def _open_generations(
    backend: FailOpenStore,
    keyer: Keyer,
    ledger: Ledger,
    settings: Settings,
    leases: "Leases | None",
) -> Generations:
    # a front in memory would show old generations for some seconds
    exact: Store = getattr(backend.inner, "exact", backend.inner)
    if exact is not backend.inner:
        backend = FailOpenStore(exact, strict=settings.strict, on_error=ledger.error)
    return Generations(backend, keyer, settings.clock, leases)
