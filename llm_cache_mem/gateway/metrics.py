"""``/metrics``: what the cache did, for Prometheus, added up over all workers."""

import os
from typing import Final

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.telemetry.prometheus import CacheMetrics

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "prometheus_client":  # installed but broken
        raise
    raise ImportError(
        "the gateway needs prometheus-client: pip install 'llm-cache-mem[gateway]'",
        name="prometheus_client",
    ) from None

__all__ = ["CONTENT_TYPE", "DIRECTORY", "Metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the folder in which workers share their counters."""


class Metrics:
    """The metrics of *cache* and, where DIRECTORY is set, of the other workers' caches."""

    def __init__(self, cache: LLMCache) -> None:
        self._registry = CollectorRegistry()
        if os.environ.get(DIRECTORY):
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._reports = CacheMetrics(cache, registry=self._registry)

    def text(self) -> bytes:
        """The metrics in Prometheus' format. Reads the size of the store, so it may wait."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """End the reports of this process."""
        self._reports.stop()
        if os.environ.get(DIRECTORY):
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]
