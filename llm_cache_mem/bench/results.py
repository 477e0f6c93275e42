"""``simulate``: what caches would save on a trace, as an object that prints, plots and shows in a
notebook."""

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

from llm_cache_mem.accounting.pricing import Price
from llm_cache_mem.accounting.render import aligned
from llm_cache_mem.bench.bill import DEFAULT_PRICE
from llm_cache_mem.bench.clients import CacheConfig
from llm_cache_mem.bench.eviction import DEFAULT_SIZES
from llm_cache_mem.bench.html import section
from llm_cache_mem.bench.reader import Trace, open_trace
from llm_cache_mem.bench.report import Document, build
from llm_cache_mem.bench.simulation import DEFAULT_PROMPT_TTLS, Simulation
from llm_cache_mem.bench.tables import facts, tables
from llm_cache_mem.options import Duration, to_seconds

__all__ = ["Simulated", "run", "simulate"]


class Simulated(NamedTuple):
    """The result of a simulation: ``print`` shows its tables, a notebook too."""

    document: Document
    """The figures, as ``llm-cache-mem bench --json`` prints them."""

    def plot(self, folder: str | Path) -> list[Path]:
        """Write the charts as PNG files into *folder*; their paths. Needs the extra ``plot``."""
        from llm_cache_mem.bench.charts import save_png

        return save_png(self.document, Path(folder))

    def __str__(self) -> str:
        lines = [f"{name:<14}{text}" for name, text in facts(self.document)]
        for title, head, rows, note in tables(self.document):
            lines += ["", title, *aligned([head, *rows]), *([note] if note else [])]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return "".join(section(*each) for each in tables(self.document))


def simulate(
    trace: str | Path,
    *,
    max_size: int | Iterable[int | None] | None = 256,
    ttl_seconds: Duration | Iterable[Duration] = 3600,
    policy: Literal["lru", "sieve"] = "lru",
    coalesce: bool = True,
    price: Price = DEFAULT_PRICE,
) -> Simulated:
    """Simulate an LLMCache, and the provider's prompt cache, on a recorded trace.

    Args:
        trace: A file of JSON Lines, gzipped or not, as TraceRecorder writes it, or a folder of
            RAGPulse.
        max_size: The number of entries, None for no limit, or several of these: every pair with
            *ttl_seconds* is simulated.
        ttl_seconds: The lifetime of entries, or several lifetimes.
        policy: The eviction policy.
        coalesce: Whether concurrent identical calls share one call.
        price: Dollars per million tokens.

    Raises:
        TraceError: The trace is empty, invalid or of an unknown format.
        OSError: It cannot be read.

    Example:
        >>> print(simulate("trace.jsonl", max_size=[256, None]))
    """
    sizes = [max_size] if max_size is None or isinstance(max_size, int) else list(max_size)
    if isinstance(ttl_seconds, str) or not isinstance(ttl_seconds, Iterable):
        ttl_seconds = [ttl_seconds]
    spans = map(to_seconds, ttl_seconds)
    configs = [CacheConfig(size, ttl, coalesce, policy) for size, ttl in product(sizes, spans)]
    with open_trace(str(trace)) as opened:
        return run(opened, configs, price=price)


def run(
    trace: Trace,
    configs: Sequence[CacheConfig],
    prompt_ttls: Sequence[float] = DEFAULT_PROMPT_TTLS,
    *,
    price: Price = DEFAULT_PRICE,
    policy_sizes: Sequence[int] | None = None,
    step: Callable[[], object] | None = None,
) -> Simulated:
    """Simulate the client caches of *configs* on an opened *trace*, calling *step* for each call;
    with *policy_sizes*, also eviction policies at those sizes."""
    simulation = Simulation(configs, prompt_ttls, keep_keys=policy_sizes is not None)
    simulation.run(trace, step)
    return Simulated(build(trace, simulation, price, policy_sizes or DEFAULT_SIZES))
