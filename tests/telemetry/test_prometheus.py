"""Prometheus: what is scraped is what happened, in one process and over several workers."""

import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from llm_cache_mem import LLMCache, Price, options
from llm_cache_mem.telemetry.prometheus import CacheMetrics
from tests.stores.servers import free_port, program, until
from tests.telemetry.otlp_receiver import OtlpReceiver, otlp_receiver

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = [{"role": "user", "content": "a question"}]
WORKERS, REQUESTS = 4, 600


def answer(messages, model):
    return {
        "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50},
    }


def total(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """The sum of the samples called *name* that have these labels."""
    return sum(
        sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == f"llm_cache_mem_{name}" and labels.items() <= sample.labels.items()
    )


def test_scraped_metrics_equal_the_counters():
    registry, cache = CollectorRegistry(), LLMCache(prices={"m": Price(input=10.0, output=20.0)})
    CacheMetrics(cache, registry=registry, tags=["team"])
    for team in ("search", "search", "ads"):
        with options(tags={"team": team}):
            cache.get_or_call(MESSAGES, answer, model="m")
    stats = cache.stats()
    assert total(registry, "requests_total", outcome="hit") == stats.hits == 2
    assert total(registry, "requests_total", outcome="miss", tag_team="search") == 1
    assert total(registry, "saved_tokens_total", type="input") == 200
    assert total(registry, "saved_dollars_total") == pytest.approx(stats.saved_usd)
    assert total(registry, "paid_dollars_total", tag_team="search") == pytest.approx(0.002)
    assert total(registry, "call_seconds_count", model="m") == 1
    assert total(registry, "entry_age_seconds_count") == 2
    assert total(registry, "store_seconds_count", operation="get") == 3
    assert total(registry, "entries") == 1
    assert total(registry, "bytes") > 0
    assert total(registry, "single_flight_waiters") == 0
    assert total(registry, "circuit_breaker_open") == 0


def test_several_caches_are_told_apart():
    registry, caches = CollectorRegistry(), {"a": LLMCache(), "b": LLMCache()}
    metrics = CacheMetrics(caches, registry=registry)
    caches["a"].get(MESSAGES)
    assert total(registry, "requests_total", cache="a") == 1
    assert total(registry, "requests_total", cache="b") == 0
    metrics.stop()
    caches["a"].get(MESSAGES)
    assert total(registry, "requests_total", cache="a") == 1
    assert caches["a"].engine.ledger.listeners == caches["a"].engine.flights.watchers == ()


def test_labels_past_the_bound_are_summed_as_other():
    registry, cache = CollectorRegistry(), LLMCache()
    CacheMetrics(cache, registry=registry)
    for number in range(1200):
        cache.get(MESSAGES, model=f"m{number}")
    assert total(registry, "requests_total") == 1200
    assert total(registry, "requests_total", model="other") == 200


# -- A service with several workers


@contextmanager
def service(folder: Path, otlp: OtlpReceiver) -> Iterator[str]:
    """The URL of a running service of WORKERS processes, which export to *otlp*."""
    port, values = free_port(), folder / "values"
    values.mkdir()
    environment = {
        **os.environ,
        "PROMETHEUS_MULTIPROC_DIR": str(values),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(Path(__file__).with_name("service.py"))]
    process = subprocess.Popen(
        [*command, str(port), str(folder), str(WORKERS), otlp.url],
        env=environment,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: _answers(f"{url}/metrics"), "the service answers")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        return bool(get(url) is not None)
    except (OSError, urllib.error.URLError):
        return False


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read().decode()


def ask_at_random(url: str) -> tuple[Counter[str], int, int]:
    """Make REQUESTS requests; how many each team made, how many questions there were, and how
    many workers answered."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    asked = [(rng.choice(["search", "ads", "mail"]), rng.randrange(40)) for _ in range(REQUESTS)]
    with ThreadPoolExecutor(8) as pool:
        pids = set(pool.map(lambda one: get(f"{url}/ask?team={one[0]}&q=q{one[1]}"), asked))
    return Counter(team for team, _ in asked), len({question for _, question in asked}), len(pids)


@pytest.fixture
def prometheus(tmp_path):
    """Start a Prometheus that scrapes a URL; gives a function of the two that runs a query."""
    command, started = program("prometheus"), []

    def start(url: str):
        port = free_port()
        config = tmp_path / "prometheus.yml"
        target = urllib.parse.urlsplit(url).netloc
        config.write_text(
            "global: {scrape_interval: 1s}\n"
            "scrape_configs:\n"
            f"- {{job_name: service, static_configs: [{{targets: ['{target}']}}]}}\n"
        )
        started.append(
            subprocess.Popen(
                [
                    command,
                    f"--config.file={config}",
                    f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        until(lambda: _answers(f"http://127.0.0.1:{port}/-/ready"), "Prometheus is ready")

        def query(expression: str) -> list:
            text = urllib.parse.urlencode({"query": expression})
            found = json.loads(get(f"http://127.0.0.1:{port}/api/v1/query?{text}"))
            assert found["status"] == "success"
            return found["data"]["result"]

        return query

    yield start
    for process in started:
        process.terminate()
        process.wait()


def test_a_scrape_and_exports_of_four_workers_show_the_truth(tmp_path, prometheus):
    with otlp_receiver() as otlp, service(tmp_path, otlp) as url:
        query = prometheus(url)
        teams, questions, workers = ask_at_random(url)
        assert workers > 1, "the requests must have reached several workers"

        def value(expression: str) -> float:
            found = query(expression)
            return float(found[0]["value"][1]) if found else 0.0

        def lookups(selector: str = "") -> str:
            return f'sum(llm_cache_mem_requests_total{{outcome=~"hit|miss"{selector}}})'

        until(lambda: value(lookups()) == REQUESTS, "all requests are scraped")
        for team, requests in teams.items():
            assert value(lookups(f',tag_team="{team}"')) == requests
        hits = value('sum(llm_cache_mem_requests_total{outcome="hit"})')
        coalesced = value('sum(llm_cache_mem_requests_total{outcome="coalesced"})')
        calls = value("sum(llm_cache_mem_call_seconds_count)")
        assert hits + coalesced + calls == REQUESTS
        assert calls >= questions
        assert value("llm_cache_mem_entries") == questions
        paid, saved = "llm_cache_mem_paid_dollars_total", "llm_cache_mem_saved_dollars_total"
        assert value(f"sum({paid})") == pytest.approx(0.002 * calls)
        assert value(f"sum({saved})") == pytest.approx(0.002 * (hits + coalesced))
        assert value("sum(llm_cache_mem_saved_tokens_total)") == 150 * (hits + coalesced)
        assert value("sum(llm_cache_mem_single_flight_waiters)") == 0
        requests, outcome = "llm_cache_mem.requests", "llm_cache_mem_outcome"

        def looked_up(**more: str) -> float:
            of = (otlp.total(requests, **{outcome: name}, **more) for name in ("hit", "miss"))
            return sum(of)

        until(lambda: looked_up() == REQUESTS, "all requests are exported")
        for team, asked in teams.items():
            assert looked_up(llm_cache_mem_tag_team=team) == asked
        assert otlp.total(requests, **{outcome: "hit"}) == hits
        assert otlp.total("llm_cache_mem.call.duration") == calls
        assert otlp.total("llm_cache_mem.cost.paid") == pytest.approx(0.002 * calls)
        assert otlp.total("llm_cache_mem.cost.saved") == pytest.approx(0.002 * (hits + coalesced))
        assert otlp.total("llm_cache_mem.tokens.saved") == 150 * (hits + coalesced)
        until(lambda: len(otlp.spans) == hits + coalesced, "a span of each hit is exported")
        for title, expression in expressions():
            until(lambda: query(_with_values(expression)), f"the panel {title!r} shows values")  # noqa: B023


# -- The dashboard and the alerts

UNSEEN = {"Not stored, by reason", "Store errors"}


def generator():
    path = ROOT / "scripts" / "grafana_dashboard.py"
    spec = importlib.util.spec_from_file_location("grafana_dashboard", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expressions() -> Iterator[tuple[str, str]]:
    """The title and the query of each line that has values in a healthy service."""
    for panel in generator().dashboard()["panels"]:
        if panel["title"] not in UNSEEN:
            for target in panel["targets"]:
                yield panel["title"], target["expr"]


def _with_values(expression: str) -> str:
    """A query as Grafana sends it."""
    return expression.replace("$cache", ".*").replace("$__rate_interval", "1m")


def test_the_alerts_of_the_documentation_are_rules(tmp_path):
    page = (ROOT / "docs" / "guides" / "telemetry.md").read_text(encoding="utf-8")
    (rules,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "rules.yml").write_text(rules)
    command = [program("promtool"), "check", "rules", str(tmp_path / "rules.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "4 rules found" in done.stdout


def test_the_dashboard_matches_its_script():
    assert generator().main(["--check"]) == 0, "run python scripts/grafana_dashboard.py"


def test_the_dashboard_matches_grafanas_schema():
    import jsonschema

    board = json.loads((ROOT / "docs/assets/grafana.json").read_text())
    jsonschema.validate(board, SCHEMA)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board["panels"])))
    assert used <= variables | {"__rate_interval"}


def test_every_metric_of_dashboard_and_documentation_is_there():
    registry = CollectorRegistry()
    CacheMetrics(LLMCache(), registry=registry)
    there = {metric.name for metric in registry.collect()}
    page = (ROOT / "docs" / "guides" / "telemetry.md").read_text(encoding="utf-8")
    texts = [page, json.dumps(generator().dashboard())]
    for name in re.findall(r"llm_cache_mem_\w+", "".join(texts)):
        assert re.sub(r"_(total|bucket)$", "", name) in there


SCHEMA = {
    "type": "object",
    "required": ["title", "uid", "schemaVersion", "panels", "templating", "time"],
    "properties": {
        "title": {"type": "string", "minLength": 1},
        "uid": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,40}$"},
        "schemaVersion": {"type": "integer", "minimum": 36},
        "templating": {
            "type": "object",
            "required": ["list"],
            "properties": {
                "list": {
                    "items": {
                        "type": "object",
                        "required": ["name", "type", "query"],
                        "properties": {"type": {"enum": ["datasource", "query"]}},
                    }
                }
            },
        },
        "time": {"type": "object", "required": ["from", "to"]},
        "panels": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["id", "type", "title", "gridPos", "targets", "datasource"],
                "properties": {
                    "id": {"type": "integer", "minimum": 1},
                    "type": {"enum": ["timeseries", "stat"]},
                    "gridPos": {
                        "type": "object",
                        "required": ["x", "y", "w", "h"],
                        "properties": {
                            "x": {"type": "integer", "minimum": 0, "maximum": 23},
                            "w": {"type": "integer", "minimum": 1, "maximum": 24},
                            "h": {"type": "integer", "minimum": 1},
                            "y": {"type": "integer", "minimum": 0},
                        },
                    },
                    "targets": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["refId", "expr"],
                            "properties": {
                                "refId": {"type": "string"},
                                "expr": {"type": "string", "minLength": 1},
                            },
                        },
                    },
                },
            },
        },
    },
}
