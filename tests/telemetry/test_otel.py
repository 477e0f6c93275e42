"""OpenTelemetry: metrics equal what happened, hits show in traces, and no prompt gets out."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llm_cache_mem import LLMCache, Price, options
from llm_cache_mem.accounting.stats import Event
from llm_cache_mem.telemetry.measures import LabelTable
from llm_cache_mem.telemetry.otel import Instrumentor, instrument

MESSAGES = [{"role": "user", "content": "a secret question"}]
PRICES = {"m": Price(input=10.0, output=20.0)}


def answer(messages, model):
    return {
        "choices": [{"message": {"content": "a secret answer"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50},
    }


class Exported:
    """An SDK with in-memory exporters, and what they have got."""

    def __init__(self) -> None:
        self.reader, self.exporter = InMemoryMetricReader(), InMemorySpanExporter()
        self.meters = MeterProvider([self.reader])
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.tracers.get_tracer("test")

    def instrument(self, cache=None, **settings):
        return instrument(cache, self.tracers, self.meters, **settings)

    def points(self) -> dict[str, list]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        found = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        return {metric.name: list(metric.data.data_points) for metric in found}

    def sums(self, name: str, by: str) -> dict[str, float]:
        """The values of a counter, summed by one attribute."""
        sums: dict[str, float] = {}
        for point in self.points().get(name, []):
            label = point.attributes.get(by, "")
            sums[label] = sums.get(label, 0) + point.value
        return sums

    def spans(self):
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def exported() -> Exported:
    return Exported()


def test_metrics_equal_the_cache_counters(exported):
    cache = LLMCache(prices=PRICES, namespace="eu")
    exported.instrument(cache, name="answers")
    with options(tags={"team": "search"}):
        for _ in range(3):
            cache.get_or_call(MESSAGES, answer, model="m")
    cut = {"choices": [{"message": {"content": "cu"}, "finish_reason": "length"}]}
    cache.get_or_call("x", lambda **_: cut, model="m")
    points, stats = exported.points(), cache.stats()
    assert exported.sums("llm_cache_mem.requests", "llm_cache_mem.outcome") == {
        "hit": stats.hits,
        "miss": stats.misses,
        "skipped": 1,
    }
    assert stats.skipped == {"truncated": 1}
    reasons = exported.sums("llm_cache_mem.requests", "llm_cache_mem.reason")
    assert reasons["truncated"] == 1
    assert exported.sums("llm_cache_mem.tokens.saved", "gen_ai.token.type") == {
        "input": 200,
        "output": 100,
    }
    by_team = exported.sums("llm_cache_mem.cost.saved", "llm_cache_mem.tag.team")
    assert by_team == {"search": pytest.approx(stats.saved_usd)}
    (paid,) = points["llm_cache_mem.cost.paid"]
    assert paid.value == pytest.approx(0.002)
    assert paid.attributes["gen_ai.request.model"] == "m"
    assert paid.attributes["llm_cache_mem.namespace"] == "eu"
    assert paid.attributes["llm_cache_mem.layer"] == "core"
    assert paid.attributes["llm_cache_mem.cache"] == "answers"
    assert [point.count for point in points["llm_cache_mem.entry.age"]] == [2]
    assert sum(point.count for point in points["llm_cache_mem.call.duration"]) == 2
    reads = [
        point.count
        for point in points["llm_cache_mem.store.duration"]
        if point.attributes["llm_cache_mem.operation"] == "get"
    ]
    assert sum(reads) == stats.hits + stats.misses
    assert [point.value for point in points["llm_cache_mem.entries"]] == [1]
    assert points["llm_cache_mem.size"][0].value > 0
    assert [point.value for point in points["llm_cache_mem.circuit_breaker.open"]] == [0]


def test_a_hit_is_an_event_of_the_span_around_it(exported):
    cache = LLMCache(prices=PRICES)
    cache.get_or_call(MESSAGES, answer, model="m")
    exported.instrument(cache)
    with exported.tracer.start_as_current_span("handler"):
        cache.get_or_call(MESSAGES, answer, model="m")
    (span,) = exported.exporter.get_finished_spans()
    (event,) = span.events
    assert event.name == "llm_cache_mem.hit"
    assert event.attributes["llm_cache_mem.key"] == cache.key(MESSAGES, model="m")[:8]
    assert event.attributes["llm_cache_mem.saved.usd"] == pytest.approx(0.002)
    assert event.attributes["llm_cache_mem.age"] >= 0


def test_a_hit_outside_of_any_span_is_a_short_span(exported):
    cache = LLMCache()
    cache.put(MESSAGES, "answer", model="m")
    exported.instrument(cache)
    cache.get(MESSAGES, model="m")
    assert exported.spans()["llm_cache_mem.hit"].attributes["gen_ai.request.model"] == "m"


def test_calls_and_misses_make_no_spans(exported):
    cache = LLMCache()
    exported.instrument(cache)
    cache.get_or_call(MESSAGES, answer, model="m")
    assert exported.spans() == {}


async def test_a_coalesced_call_is_linked_to_the_span_of_its_leader(exported):
    cache, begun = LLMCache(), asyncio.Event()
    exported.instrument(cache)
    release = asyncio.Event()

    async def slow(messages, model):
        begun.set()
        await release.wait()
        return answer(messages, model)

    async def ask(name):
        with exported.tracer.start_as_current_span(name):
            return await cache.aget_or_call(MESSAGES, slow, model="m")

    leader = asyncio.create_task(ask("leader"))
    await begun.wait()
    follower = asyncio.create_task(ask("follower"))
    while cache.engine.flights.waiting == 0:
        await asyncio.sleep(0)
    (waiting,) = exported.points()["llm_cache_mem.single_flight.waiters"]
    assert waiting.value == 1
    release.set()
    await asyncio.gather(leader, follower)
    spans = exported.spans()
    (link,) = spans["follower"].links
    assert link.context.span_id == spans["leader"].context.span_id
    assert [event.name for event in spans["follower"].events] == ["llm_cache_mem.coalesced"]
    assert cache.engine.flights.waiting == 0


def test_no_prompt_answer_or_whole_key_is_exported(exported):
    cache = LLMCache()
    exported.instrument(cache)
    for _ in range(2):
        cache.get_or_call(MESSAGES, answer, model="m")
    shown = exported.reader.get_metrics_data().to_json()
    shown += "".join(span.to_json() for span in exported.exporter.get_finished_spans())
    assert "secret" not in shown
    assert cache.key(MESSAGES, model="m") not in shown


def test_figures_are_exact_under_threads(exported):
    cache = LLMCache()
    exported.instrument(cache)

    def run(number):
        with options(tags={"team": f"t{number % 4}"}):
            for question in range(50):
                cache.get_or_call(f"{question}", answer, model="m")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    outcomes = exported.sums("llm_cache_mem.requests", "llm_cache_mem.outcome")
    assert (outcomes["hit"], outcomes["miss"]) == (stats.hits, stats.misses)
    assert outcomes.get("coalesced", 0) == stats.coalesced
    by_team = exported.sums("llm_cache_mem.tokens.saved", "llm_cache_mem.tag.team")
    assert by_team == {
        tag.partition("=")[2]: team.tokens_saved for tag, team in stats.by_tag.items()
    }


def test_stop_ends_all_reports(exported):
    cache = LLMCache()
    stop = exported.instrument(cache)
    stop()
    cache.get(MESSAGES)
    assert exported.points() == {}
    assert cache.engine.ledger.listeners == ()


def test_every_cache_of_the_process_is_reported_without_being_named(exported):
    before = LLMCache()
    stop = exported.instrument()
    try:
        after = LLMCache()
        for cache in (before, after):
            cache.get(MESSAGES)
        assert exported.sums("llm_cache_mem.requests", "llm_cache_mem.outcome")["miss"] == 2
    finally:
        stop()
    assert not LLMCache().engine.ledger.listeners


def test_the_instrumentor_reports_once(exported):
    cache = LLMCache()
    first, second = Instrumentor(), Instrumentor()
    first.instrument(tracer_provider=exported.tracers, meter_provider=exported.meters)
    second.instrument(skip_dep_check=True)
    try:
        cache.get(MESSAGES)
        # other caches of this process report too
        assert exported.sums("llm_cache_mem.requests", "llm_cache_mem.outcome")["miss"] == 1
    finally:
        second.uninstrument()
    assert not cache.engine.ledger.listeners


def test_tags_that_were_not_named_are_left_out(exported):
    cache = LLMCache()
    exported.instrument(cache, tags=["team"])
    with options(tags={"team": "search", "user": "u1"}):
        cache.get(MESSAGES)
    (point,) = exported.points()["llm_cache_mem.requests"]
    assert point.attributes["llm_cache_mem.tag.team"] == "search"
    assert "llm_cache_mem.tag.user" not in point.attributes


def test_labels_are_bounded():
    table = LabelTable(None, most=10)
    seen = {table.of(Event("hit", 0.0, model=f"m{n}", layer="core")) for n in range(1000)}
    assert len(seen) == 11
    assert ("other", "other", "core") in {labels[:3] for labels in seen}


PROGRAM = """
from llm_cache_mem import LLMCache
cache = LLMCache()
print(len(cache.engine.ledger.listeners))
"""


def test_opentelemetry_instrument_finds_the_entry_point(tmp_path):
    root = Path(__file__).resolve().parents[2]
    info = tmp_path / "llm_cache_mem_here-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-cache-mem-here\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[opentelemetry_instrumentor]\nhere = llm_cache_mem.telemetry.otel:Instrumentor\n"
    )
    command = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(root), str(tmp_path))),
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "openai,anthropic,langchain,llamaindex",
    }
    done = subprocess.run(
        [sys.executable, "-c", command, sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.stdout == "2\n", done.stderr
