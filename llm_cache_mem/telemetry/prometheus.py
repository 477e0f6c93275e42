"""Prometheus: a cache's events as metrics that add up over the worker processes of a service."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from llm_cache_mem.accounting.stats import Event
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.telemetry.measures import (
    AGE_BUCKETS,
    OUTCOMES,
    SECONDS_BUCKETS,
    STORE_BUCKETS,
    Labels,
    LabelTable,
    entries_of,
    stored_bytes,
)

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.metrics_core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "prometheus_client":  # installed but broken
        raise
    raise ImportError(
        "telemetry.prometheus needs prometheus-client: pip install 'llm-cache-mem[prometheus]'",
        name="prometheus_client",
    ) from None

__all__ = ["CacheMetrics"]

_DIRECTORIES: Final = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
_LABELS: Final = ("cache", "model", "namespace", "layer")


class CacheMetrics:
    """Metrics of one cache or of several. Thread-safe.

    Where ``PROMETHEUS_MULTIPROC_DIR`` is set, as under gunicorn, counters, histograms, waiters and
    the circuit breaker are added up over all workers by prometheus-client. Entries and bytes are
    those that the worker sees which answers the scrape: right for a store that workers share.

    Args:
        caches: An LLMCache, or several by the name that becomes their label ``cache``.
        registry: What is scraped. With several processes, the one of the MultiProcessCollector.
        tags: Names of tags (``options(tags=...)``) that become labels, as ``tag_team``.

    Example:
        >>> from llm_cache_mem.telemetry.prometheus import CacheMetrics
        >>> CacheMetrics(cache, tags=["team"])
    """

    def __init__(
        self,
        caches: LLMCache | Mapping[str, LLMCache],
        *,
        registry: CollectorRegistry = REGISTRY,
        tags: Collection[str] = (),
    ) -> None:
        if isinstance(tags, str):
            raise TypeError("tags must be a collection of names")
        named = {"": caches} if isinstance(caches, LLMCache) else dict(caches)
        shared = any(os.environ.get(name) for name in _DIRECTORIES)
        # several processes: their values are in files, which the collector of registry reads
        families = _Families(None if shared else registry, tuple(tags))
        self._listeners = [_Listener(name, cache, families) for name, cache in named.items()]
        self._state = _State(named)
        self._registry = registry
        registry.register(self._state)

    def stop(self) -> None:
        """End the reports; what was counted stays."""
        for listener in self._listeners:
            listener.stop()
        self._registry.unregister(self._state)


class _Families:
    """The metrics, each with all its labels."""

    def __init__(self, registry: CollectorRegistry | None, tags: tuple[str, ...]) -> None:
        self.tags = tags
        labels = (*_LABELS, *(f"tag_{name}" for name in tags))

        def made(kind: Any, name: str, text: str, *more: str, **settings: Any) -> Any:
            names = (*labels, *more)
            return kind(f"llm_cache_mem_{name}", text, names, registry=registry, **settings)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *more: str) -> Any:
            return made(Histogram, name, text, *more, buckets=buckets)

        self.requests = made(Counter, "requests", "Requests by outcome", "outcome", "reason")
        self.tokens = made(Counter, "saved_tokens", "Tokens saved", "type")
        self.saved = made(Counter, "saved_dollars", "Dollars saved")
        self.paid = made(Counter, "paid_dollars", "Dollars that calls cost")
        self.age = histogram("entry_age_seconds", "Age of entries at a hit", AGE_BUCKETS)
        self.call = histogram("call_seconds", "Duration of the calls made", SECONDS_BUCKETS)
        text = "Duration of reads and writes of the store"
        self.store = histogram("store_seconds", text, STORE_BUCKETS, "operation")
        self.waiters = Gauge(
            "llm_cache_mem_single_flight_waiters",
            "Callers that wait for the calls of others",
            ("cache",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.bypassed = Gauge(
            "llm_cache_mem_circuit_breaker_open",
            "Processes in which a failing store is bypassed",
            ("cache",),
            registry=registry,
            multiprocess_mode="livesum",
        )


class _Listener:
    """Counts the events of one cache under its *name*."""

    def __init__(self, name: str, cache: LLMCache, families: _Families) -> None:
        self._name, self._engine, self._families = name, cache.engine, families
        self._labels = LabelTable(families.tags)
        self._series: dict[tuple[Any, ...], Any] = {}
        self._waiters = families.waiters.labels(name)
        self._bypassed = families.bypassed.labels(name)
        self._open = False
        self._engine.ledger.listen(self.count)
        self._engine.flights.watchers = (*self._engine.flights.watchers, self._waiters.set)

    def stop(self) -> None:
        self._engine.ledger.unlisten(self.count)
        watchers = self._engine.flights.watchers
        self._engine.flights.watchers = tuple(
            watcher for watcher in watchers if watcher != self._waiters.set
        )

    def count(self, event: Event) -> None:
        """Count *event*."""
        families, name, labels = self._families, event.name, self._labels.of(event)
        if name in OUTCOMES:
            self._of(families.requests, labels, name, labels.reason).inc()
        if name in ("hit", "coalesced"):
            if event.usage is not None:
                self._of(families.tokens, labels, "input").inc(event.usage[0])
                self._of(families.tokens, labels, "output").inc(event.usage[1])
            if event.usd is not None:
                self._of(families.saved, labels).inc(event.usd)
            if event.age is not None:
                self._of(families.age, labels).observe(event.age)
        elif name == "called":
            if event.usd is not None:
                self._of(families.paid, labels).inc(event.usd)
            if event.seconds is not None:
                self._of(families.call, labels).observe(event.seconds)
        if event.store_seconds is not None:
            operation = "put" if name == "stored" else "get"
            self._of(families.store, labels, operation).observe(event.store_seconds)
        if self._engine.backend.circuit_open is not self._open:
            self._open = not self._open
            self._bypassed.set(self._open)

    def _of(self, family: Any, labels: Labels, *more: str) -> Any:
        """The time series of *family* for these labels."""
        place = (family, labels, more)
        found = self._series.get(place)
        if found is None:
            tags = dict(labels.tags)
            values = [tags.get(name, "") for name in self._families.tags]
            place_of = (self._name, labels.model, labels.namespace, labels.layer)
            found = self._series[place] = family.labels(*place_of, *values, *more)
        return found


class _State(Collector):
    """What is read at each scrape: entries and bytes of the *caches* by their names."""

    def __init__(self, caches: Mapping[str, LLMCache]) -> None:
        self._caches = caches

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        """Read the stores."""
        yield self._gauge("entries", "Entries of the namespace", entries_of)
        yield self._gauge("bytes", "Bytes of the entries or of their file", stored_bytes)

    def _gauge(self, name: str, text: str, read: Callable[[LLMCache], float | None]) -> Metric:
        family = GaugeMetricFamily(f"llm_cache_mem_{name}", text, labels=["cache"])
        for label, cache in self._caches.items():
            value = read(cache)
            if value is not None:
                family.add_metric([label], value)
        return family
