"""OpenTelemetry: a cache's events as metrics, and its hits in the traces of their callers."""

from collections.abc import Callable, Collection, Iterable
from importlib.metadata import version
from threading import Lock
from typing import Any, Final
from weakref import WeakSet

from llm_cache_mem.accounting.stats import Event
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.announced import follow
from llm_cache_mem.telemetry.measures import (
    AGE_BUCKETS,
    OUTCOMES,
    SECONDS_BUCKETS,
    STORE_BUCKETS,
    Labels,
    LabelTable,
    entries_of,
    is_bypassed,
    stored_bytes,
    waiters_of,
)
from llm_cache_mem.telemetry.spans import Spans

try:
    from opentelemetry import metrics, trace
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "opentelemetry":  # installed but broken
        raise
    raise ImportError(
        "telemetry.otel needs opentelemetry-api: pip install 'llm-cache-mem[otel]'",
        name="opentelemetry",
    ) from None

__all__ = ["Instrumentor", "instrument"]

_NAME: Final = "llm_cache_mem"


def instrument(
    cache: LLMCache | None = None,
    tracer_provider: Any = None,
    meter_provider: Any = None,
    *,
    name: str = "",
    tags: Collection[str] | None = None,
) -> Callable[[], None]:
    """Report the events of *cache* to OpenTelemetry. No prompt, answer or whole key is reported.

    Args:
        cache: The cache; None for every cache of this process, those made later included.
        tracer_provider: Where spans go; None for the global one.
        meter_provider: Where metrics go; None for the global one.
        name: The attribute ``llm_cache_mem.cache`` of all metrics, to tell caches apart.
        tags: Names of the tags (``options(tags=...)``) to report as attributes; None for all.

    Returns:
        A function that ends the reports.

    Example:
        >>> from llm_cache_mem.telemetry.otel import instrument
        >>> stop = instrument(cache)
    """
    meter = metrics.get_meter(_NAME, version("llm-cache-mem"), meter_provider)
    reports = _Reports(meter, name, tags)
    spans = Spans(trace.get_tracer(_NAME, version("llm-cache-mem"), tracer_provider))

    def listen(found: LLMCache) -> None:
        reports.caches.add(found)
        found.engine.ledger.listen(reports.count)
        found.engine.ledger.listen(spans.mark)

    stop_following = follow(listen) if cache is None else None
    if cache is not None:
        listen(cache)

    def stop() -> None:
        if stop_following is not None:
            stop_following()
        for found in list(reports.caches):
            found.engine.ledger.unlisten(reports.count)
            found.engine.ledger.unlisten(spans.mark)
        reports.caches.clear()

    return stop


_lock = Lock()
_reporting: list[Callable[[], None]] = []  # what ends the reports of the Instrumentor, if it is on


class Instrumentor:
    """What ``opentelemetry-instrument`` finds: it reports every cache of the process."""

    def instrument(
        self, *, tracer_provider: Any = None, meter_provider: Any = None, **_: Any
    ) -> None:
        """Report every cache of this process; once is enough."""
        with _lock:
            if not _reporting:
                _reporting.append(instrument(None, tracer_provider, meter_provider))

    def uninstrument(self, **_: Any) -> None:
        """End the reports."""
        with _lock:
            while _reporting:
                _reporting.pop()()


class _Reports:
    """The instruments of one meter, and the *caches* whose state they observe."""

    def __init__(self, meter: metrics.Meter, name: str, tags: Collection[str] | None) -> None:
        self.caches: WeakSet[LLMCache] = WeakSet()
        self._labels = LabelTable(tags)
        self._common = {"llm_cache_mem.cache": name} if name else {}
        self._attributes: dict[Labels, _Attributes] = {}
        counter, histogram = meter.create_counter, meter.create_histogram
        self._requests = counter(
            "llm_cache_mem.requests", "{request}", "Requests by outcome, as in stats()"
        )
        self._tokens = counter(
            "llm_cache_mem.tokens.saved", "{token}", "Tokens that hits and coalesced calls saved"
        )
        self._saved = counter("llm_cache_mem.cost.saved", "USD", "Dollars that they saved")
        self._paid = counter("llm_cache_mem.cost.paid", "USD", "Dollars that calls cost")
        self._age = histogram(
            "llm_cache_mem.entry.age",
            "s",
            "Age of entries at a hit",
            explicit_bucket_boundaries_advisory=AGE_BUCKETS,
        )
        self._call = histogram(
            "llm_cache_mem.call.duration",
            "s",
            "Duration of the calls that were made",
            explicit_bucket_boundaries_advisory=SECONDS_BUCKETS,
        )
        self._store = histogram(
            "llm_cache_mem.store.duration",
            "s",
            "Duration of reads and writes of the store",
            explicit_bucket_boundaries_advisory=STORE_BUCKETS,
        )
        for gauge, unit, text, read in _STATE:
            meter.create_observable_gauge(gauge, [self._observer(read)], unit, text)

    def count(self, event: Event) -> None:
        """Report *event*."""
        labels = self._labels.of(event)
        attributes = self._attributes.get(labels)
        if attributes is None:
            attributes = self._attributes[labels] = _Attributes(labels, self._common)
        name = event.name
        if name in OUTCOMES:
            self._requests.add(1, attributes.outcome(name))
        if name in ("hit", "coalesced"):
            if event.usage is not None:
                self._tokens.add(event.usage[0], attributes.input)
                self._tokens.add(event.usage[1], attributes.output)
            if event.usd is not None:
                self._saved.add(event.usd, attributes.plain)
            if event.age is not None:
                self._age.record(event.age, attributes.plain)
        elif name == "called":
            if event.usd is not None:
                self._paid.add(event.usd, attributes.plain)
            if event.seconds is not None:
                self._call.record(event.seconds, attributes.plain)
        if event.store_seconds is not None:
            put = name == "stored"
            self._store.record(event.store_seconds, attributes.put if put else attributes.get)

    def _observer(self, read: Callable[[LLMCache], float | None]) -> Any:
        def observe(_: Any) -> Iterable[metrics.Observation]:
            sums: dict[str, float] = {}
            for cache in list(self.caches):
                value = read(cache)
                if value is not None:
                    backend = cache.engine.backend.name
                    sums[backend] = sums.get(backend, 0) + value
            for backend, value in sums.items():
                yield metrics.Observation(value, {**self._common, "llm_cache_mem.backend": backend})

        return observe


class _Attributes:
    """The attributes of events with the same *labels*, made once."""

    def __init__(self, labels: Labels, common: dict[str, str]) -> None:
        found = {
            "gen_ai.request.model": labels.model,
            "llm_cache_mem.namespace": labels.namespace,
            "llm_cache_mem.layer": labels.layer,
            **{f"llm_cache_mem.tag.{name}": value for name, value in labels.tags},
        }
        self.plain = {**common, **{name: value for name, value in found.items() if value}}
        self.input = {**self.plain, "gen_ai.token.type": "input"}
        self.output = {**self.plain, "gen_ai.token.type": "output"}
        self.get = {**self.plain, "llm_cache_mem.operation": "get"}
        self.put = {**self.plain, "llm_cache_mem.operation": "put"}
        self._reason = {"llm_cache_mem.reason": labels.reason} if labels.reason else {}
        self._outcomes: dict[str, dict[str, str]] = {}

    def outcome(self, name: str) -> dict[str, str]:
        found = self._outcomes.get(name)
        if found is None:
            found = {**self.plain, **self._reason, "llm_cache_mem.outcome": name}
            self._outcomes[name] = found
        return found


_STATE: Final[tuple[tuple[str, str, str, Callable[[LLMCache], float | None]], ...]] = (
    ("llm_cache_mem.entries", "{entry}", "Entries of the namespace", entries_of),
    ("llm_cache_mem.size", "By", "Bytes of the entries or of their file", stored_bytes),
    (
        "llm_cache_mem.single_flight.waiters",
        "{caller}",
        "Callers that wait for another's",
        waiters_of,
    ),
    ("llm_cache_mem.circuit_breaker.open", "1", "1 while the store is bypassed", is_bypassed),
)
