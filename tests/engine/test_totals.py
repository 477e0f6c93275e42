"""Totals that processes add to their store: exact, seldom written, and failing open."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from conftest import Clock
from stores.processes import in_child
from threads import until

from llm_cache_mem import LLMCache, options
from llm_cache_mem.accounting.counts import Pending
from llm_cache_mem.engine import totals
from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores.base import counting
from llm_cache_mem.stores.sqlite import SQLiteStore

PRICES = {"m": (1.0, 10.0)}
ANSWER = {
    "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
}

_WORKER = """
import json, sys
from llm_cache_mem import LLMCache, options
answer = json.loads(sys.argv[2])
cache = LLMCache(backend=sys.argv[1], prices={"m": (1.0, 10.0)})
for number in range(300):
    with options(namespace=f"t{number % 3}"):
        cache.get_or_call(str(number % 30), lambda messages, model: answer, model="mn"[number % 2])
stats = cache.stats()
print(json.dumps([stats.hits, stats.misses, stats.coalesced, stats.stored, stats.tokens_saved]))
if sys.argv[3] == "close":
    cache.close()
elif sys.argv[3] == "hang":
    cache.engine.totals.add()
    cache.get_or_call("unseen", lambda messages, model: answer, model="m")
    print("counted", flush=True)
    sys.stdin.read()
"""


def call(cache, question="q", **params):
    return cache.get_or_call(question, lambda messages, model: ANSWER, model="m", **params)


def worker(url: str, end: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _WORKER, url, json.dumps(ANSWER), end]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    return f"sqlite:///{tmp_path}/cache.db"


@pytest.fixture
def cache(tmp_path: Path, clock: Clock):
    with LLMCache(backend=f"{tmp_path}/cache.db", prices=PRICES, clock=clock) as cache:
        yield cache


def test_four_processes_show_one_truth(url: str) -> None:
    workers = [worker(url, end) for end in ("close", "close", "exit", "exit")]
    counted = [json.loads(process.communicate(timeout=120)[0]) for process in workers]
    hits, misses, coalesced, stored, tokens = map(sum, zip(*counted, strict=True))
    with LLMCache(backend=url) as cache:
        found, keys = cache.totals(), [key for key, _ in cache.engine.backend.entries()]
        answered = counting(cache.engine.backend.inner).entry_hits(keys)
    total = found.total
    assert (total.hits, total.misses, total.coalesced) == (hits, misses, coalesced)
    assert (total.stored, total.tokens_saved) == (stored, tokens)
    assert total.asked == 1200
    assert total.calls == misses - coalesced
    assert total.nanos == found.by_model["m"].avoided * 30_000
    assert found.by_model["n"].unpriced == found.by_model["n"].avoided
    assert {name: sums.asked for name, sums in found.by_namespace.items()} == dict.fromkeys(
        ("t0", "t1", "t2"), 400
    )
    assert sum(each.hits for each in answered.values()) == total.avoided


def test_a_killed_process_loses_only_what_it_counted_last(url: str) -> None:
    process = worker(url, "hang")
    assert process.stdout is not None
    process.stdout.readline()
    assert process.stdout.readline() == "counted\n"
    process.kill()
    process.communicate()
    with LLMCache(backend=url) as cache:
        assert cache.totals().total.asked == 300


def test_a_forked_child_adds_only_its_own(cache: LLMCache) -> None:
    call(cache)
    call(cache)

    def child() -> int:
        call(cache)
        cache.engine.totals.add()
        return cache.stats().hits

    assert in_child(child) == 2  # as ever, its counters go on from those of its parent
    assert cache.totals().total.hits == 2
    assert cache.totals().total.misses == 1


def _in_pool(path: str) -> None:
    call(LLMCache(backend=path))  # neither closed nor collected


def test_workers_of_a_pool_add_at_their_end(tmp_path: Path) -> None:
    path = f"{tmp_path}/cache.db"
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        list(pool.map(_in_pool, [path] * 4))
    with LLMCache(backend=path) as cache:
        assert cache.totals().total.asked == 4


def test_hits_are_added_in_the_background(cache: LLMCache, monkeypatch) -> None:
    monkeypatch.setattr(totals, "LONGEST_SECONDS", 0.01)
    call(cache)
    call(cache)
    store = counting(cache.engine.backend.inner)
    until(lambda: store.totals().total.hits == 1)
    call(cache)
    until(lambda: store.totals().total.hits == 2)
    until(lambda: not [t for t in threading.enumerate() if t.name == "llm-cache-mem totals"])


def test_a_store_that_fails_breaks_no_call_and_is_told_later(tmp_path: Path) -> None:
    class Failing(SQLiteStore):
        fails = True

        def add_counts(self, batch):
            if self.fails:
                raise StoreError("Failing", "add_counts", "on purpose")
            super().add_counts(batch)

    store = Failing(tmp_path / "cache.db")
    cache = LLMCache(backend=store, strict=True)
    for _ in range(2):
        call(cache)
        cache.engine.totals.add()
    assert cache.stats().errors == 0
    store.fails = False
    assert cache.totals().total.asked == 2
    store.close()
    call(LLMCache(backend=store))  # closed: uncached, and nothing is raised at the end


def test_a_batch_whose_sending_is_interrupted_counts_once(tmp_path: Path) -> None:
    class Interrupted(SQLiteStore):
        def add_counts(self, batch):
            super().add_counts(batch)
            if batch.number.endswith("-1.0"):
                del Interrupted.add_counts
                raise KeyboardInterrupt

    cache = LLMCache(backend=Interrupted(tmp_path / "cache.db"))
    call(cache)
    with pytest.raises(KeyboardInterrupt):
        cache.totals()
    assert cache.totals().total.asked == 1
    cache.engine.backend.inner.close()


def test_many_models_are_added_in_slices() -> None:
    pending = Pending()
    for number in range(600):
        pending.of("ns", f"m{number}").misses += 1
    batches = list(pending.batches("p-1", 100.0))
    assert [len(batch.counts) for batch in batches] == [256, 256, 88]
    assert [batch.number for batch in batches] == ["p-1.0", "p-1.1", "p-1.2"]


def test_skipped_calls_count_for_the_namespace_that_they_ask_in(cache: LLMCache) -> None:
    with options(namespace="acme"):
        cache.get_or_call(object(), lambda messages, model: ANSWER, model="m")
    assert cache.totals().by_namespace["acme"].skipped == 1


def test_memory_keeps_no_totals() -> None:
    with pytest.raises(ValueError, match="memory keeps no totals"):
        LLMCache().totals()


def test_since_is_the_first_of_all(cache: LLMCache, clock: Clock) -> None:
    began = clock()
    call(cache)
    assert cache.totals().since == began
    clock.advance(3600)
    call(cache)
    assert cache.totals().since == began
