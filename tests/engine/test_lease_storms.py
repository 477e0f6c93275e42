"""A fleet under cancellation, forks and processes that are stopped: right answers, nobody hangs,
and no lease stays behind."""

import asyncio
import os
import random
import secrets
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stores.processes import fork, in_child, outcome

from llm_cache_mem import LLMCache
from llm_cache_mem.engine import leases as fleet
from llm_cache_mem.stores.sqlite import SQLiteStore

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
def caches(path: Path) -> Iterator[list[LLMCache]]:
    stores = [SQLiteStore(path, lock_timeout=10) for _ in range(2)]
    yield [LLMCache(backend=store, coalesce="fleet", ttl_seconds=None) for store in stores]
    for store in stores:
        store.close()


def leases(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        (count,) = db.execute("SELECT count(*) FROM leases").fetchone()
        return int(count)


@pytest.mark.parametrize(
    "rounds", [60, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
async def test_a_storm_of_cancellations(caches: list[LLMCache], path: Path, rounds: int) -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    wrong: list[Any] = []
    cancelled = answered = 0

    async def model(messages: str, model: str) -> str:
        await asyncio.sleep(rng.uniform(0, 0.02))
        return messages.upper()

    for number in range(rounds):
        question = f"question {number}"
        tasks = [
            asyncio.create_task(cache.aget_or_call(question, model, model="m"))
            for cache in (*caches, caches[0])
        ]
        await asyncio.sleep(rng.uniform(0, 0.02))
        for task in rng.sample(tasks, rng.randrange(3)):
            task.cancel()
        async with asyncio.timeout(60):
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, asyncio.CancelledError):
                    cancelled += 1
                elif result == question.upper():
                    answered += 1
                else:
                    wrong.append(result)
    print(f"{cancelled} cancelled, {answered} answered")
    assert wrong == []
    assert cancelled > rounds / 10
    give_up_at = time.monotonic() + 60
    while leases(path) and time.monotonic() < give_up_at:
        await asyncio.sleep(0.01)
    assert leases(path) == 0


@pytest.mark.parametrize(
    "forks", [20, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_forks_amid_threads_that_hold_leases(caches: list[LLMCache], forks: int) -> None:
    stop, failures, calls = threading.Event(), [], [0] * 4

    def model(messages: str, model: str) -> str:
        time.sleep(0.01)
        return messages.upper()

    def work(number: int) -> None:
        while not stop.is_set():
            question = f"thread {number} {calls[number]}"
            if caches[number % 2].get_or_call(question, model, model="m") != question.upper():
                failures.append(question)
            calls[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(forks):
            assert (
                in_child(
                    lambda number=number: caches[0].get_or_call(
                        f"child {number}", model, model="m"
                    ),
                    timeout=60,
                )
                == f"CHILD {number}"
            )
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert failures == []
    assert min(calls) > 3


def test_a_leader_stopped_and_resumed_costs_one_extra_call(
    caches: list[LLMCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had hogged the interpreter, or its machine had slept."""
    monkeypatch.setattr(fleet, "LEASE_SECONDS", 0.6)
    (began, begun), (let_go, go_on) = os.pipe(), os.pipe()

    def stopped(messages: str, model: str) -> str:
        os.write(begun, b"x")
        os.read(let_go, 1)
        return "of the one that was stopped"

    pid, report = fork(lambda: caches[0].get_or_call("hello", stopped, model="m"))
    os.read(began, 1)
    os.kill(pid, signal.SIGSTOP)
    assert (
        caches[1].get_or_call("hello", lambda messages, model: "of the other", model="m")
        == "of the other"
    )
    os.kill(pid, signal.SIGCONT)
    os.write(go_on, b"x")
    assert outcome(pid, report) == "of the one that was stopped"
    assert caches[1].get("hello", model="m") in ("of the other", "of the one that was stopped")
    for descriptor in (began, begun, let_go, go_on):
        os.close(descriptor)
