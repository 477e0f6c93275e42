"""No stale answer, however processes interleave questions with changes of documents."""

import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import LLMCache, options

PROCESSES, DOCUMENTS = 4, 5


class Documents:
    """Documents that all processes change: their versions, and those that invalidation has been
    told of."""

    def __init__(self) -> None:
        self.versions = multiprocessing.Array("q", DOCUMENTS, lock=False)
        self.published = multiprocessing.Array("q", DOCUMENTS, lock=False)
        self.locks = [multiprocessing.Lock() for _ in range(DOCUMENTS)]

    def change(self, number: int, cache: LLMCache) -> None:
        with self.locks[number]:
            self.versions[number] += 1
            cache.invalidate(f"doc:{number}")
            self.published[number] = self.versions[number]


def _question(documents: Documents, cache: LLMCache, rng: random.Random) -> tuple[int, int]:
    """Ask once: how many of the answer's documents are stale, and whether it was a hit."""
    chosen = sorted(rng.sample(range(DOCUMENTS), rng.randint(1, 2)))
    fresh = [documents.published[number] for number in chosen]
    calls = []

    def answer(**request: Any) -> Any:
        calls.append(1)
        found = [documents.versions[number] for number in chosen]
        if rng.random() < 0.3:
            time.sleep(0.001)
        return iter(found) if request.get("stream") else found

    how, messages, found = rng.random(), f"about {chosen}", None
    if how < 0.2:  # by a reader that knows of no dependencies
        found = cache.get(messages, model="m")
        calls = [1] if found is None else []
    else:
        with options(depends_on=[f"doc:{number}" for number in chosen]):
            extra: dict[str, Any] = {"stream": True} if how < 0.4 else {}
            found = list(cache.get_or_call(messages, answer, model="m", **extra))
    stale = sum(map(int.__lt__, found, fresh)) if found is not None else 0
    return stale, not calls


def _work(documents: Documents, url: str, seed: int, rounds: int, results: Any) -> None:
    rng, stale, hits = random.Random(seed), 0, 0
    with LLMCache(backend=url, coalesce=rng.choice((True, "fleet", False))) as cache:
        for _ in range(rounds):
            if rng.random() < 0.15:
                documents.change(rng.randrange(DOCUMENTS), cache)
            else:
                found, hit = _question(documents, cache, rng)
                stale, hits = stale + found, hits + hit
        errors = cache.stats().errors
    results.put((stale, hits, errors))


@pytest.mark.parametrize("rounds", [400, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", ["sqlite", "redis", "memcached", "tiered"])
def test_no_answer_is_stale(
    backend: str, rounds: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = {
        "sqlite": lambda: f"sqlite:///{tmp_path}/c.db",
        "tiered": lambda: "tiered:memory," + request.getfixturevalue("redis_url"),
    }.get(backend, lambda: request.getfixturevalue(f"{backend}_url"))()
    documents, seed = Documents(), int.from_bytes(os.urandom(4))
    print("seed", seed)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    workers = [
        context.Process(target=_work, args=(documents, url, seed + n, rounds // PROCESSES, results))
        for n in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    found = [results.get() for _ in workers]
    assert sum(stale for stale, _, _ in found) == 0
    assert sum(errors for _, _, errors in found) == 0
    assert sum(hits for _, hits, _ in found) > rounds / 20
