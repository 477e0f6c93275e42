"""Spans: a hit is an event of its caller's span; a coalesced call links to the one it shared."""

from threading import Lock
from typing import Any, Final

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.accounting.stats import Event

try:
    from opentelemetry import trace
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "opentelemetry":  # installed but broken
        raise
    raise ImportError(
        "telemetry.spans needs opentelemetry-api: pip install 'llm-cache-mem[otel]'",
        name="opentelemetry",
    ) from None

__all__ = ["Spans"]

_LEADERS: Final = 1024
_KEY_DIGITS: Final = 8


class Spans:
    """Marks hits and coalesced calls in traces. Thread-safe.

    They become events of the caller's span if that is recorded, or else short spans of their own.
    The spans of the last calls are remembered by key, for those who share them.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._leaders: dict[str, trace.SpanContext] = {}
        self._lock = Lock()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = Lock()

    def mark(self, event: Event) -> None:
        """Put *event* into the trace of its caller, if it is one to show."""
        if event.name == "called":
            self._remember(event)
        elif event.name in ("hit", "coalesced"):
            span = trace.get_current_span()
            leader = self._leaders.get(event.key or "") if event.name == "coalesced" else None
            links = [] if leader is None else [trace.Link(leader)]
            if not span.is_recording():
                name = f"llm_cache_mem.{event.name}"
                short = self._tracer.start_span(name, links=links)
                if short.is_recording():
                    short.set_attributes(_attributes(event))
                short.end()
                return
            for link in links:
                span.add_link(link.context)
            span.add_event(f"llm_cache_mem.{event.name}", _attributes(event))

    def _remember(self, event: Event) -> None:
        """Note the span in which a call was made."""
        context = trace.get_current_span().get_span_context()
        if event.key is None or not context.is_valid:
            return
        with self._lock:
            self._leaders.pop(event.key, None)
            self._leaders[event.key] = context
            if len(self._leaders) > _LEADERS:
                del self._leaders[next(iter(self._leaders))]


def _attributes(event: Event) -> dict[str, Any]:
    """What a trace shows of *event*; of the key only the beginning of the digest."""
    digest = (event.key or "").rpartition(":")[2]
    found = {
        "llm_cache_mem.key": digest[:_KEY_DIGITS],
        "llm_cache_mem.layer": event.layer,
        "llm_cache_mem.age": event.age,
        "llm_cache_mem.saved.seconds": event.seconds,
        "llm_cache_mem.saved.usd": event.usd,
        "gen_ai.request.model": event.model,
        **{f"llm_cache_mem.tag.{name}": value for name, value in event.tags.items()},
    }
    if event.usage is not None:
        found["llm_cache_mem.saved.input_tokens"] = event.usage[0]
        found["llm_cache_mem.saved.output_tokens"] = event.usage[1]
    return {name: value for name, value in found.items() if value is not None}
