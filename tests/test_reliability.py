"""What must hold whatever happens: clocks that jump, secrets that must not spread, calls that
delete while others are in flight."""

import logging
import random
import secrets
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock

from llm_cache_mem import LLMCache, LLMCacheError, options

JUMPS = (0, 1, -1, 59, -59, 61, -61, 3600, -3600, 86_400, -86_400, 315_360_000, -315_360_000)


def test_a_clock_that_jumps_serves_nothing_longer_than_it_jumped() -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    clock = Clock()
    cache = LLMCache(max_size=10, ttl_seconds=100, clock=clock)
    served = misses = 0
    for number in range(10_000):
        clock.now = 1_800_000_000.0
        cache.put(str(number), number)
        age, jump = rng.choice([0, 1, 50, 99, 99.5, 100, 150, 1000]), rng.choice(JUMPS)
        clock.advance(age + jump)
        if cache.get(str(number)) == number:
            served += 1
            assert age < 100 + max(0, -jump)
            assert age + jump >= -60  # an entry from further ahead is a miss
        else:
            misses += 1
            assert age + jump >= 100 or age + jump < -60
    assert min(served, misses) > 1000


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_a_call_in_flight_does_not_undo_a_delete(backend: str, tmp_path: Path) -> None:
    cache = LLMCache(backend="memory" if backend == "memory" else tmp_path / "c.db")
    for number in range(1000 if backend == "memory" else 100):
        calling, forgotten = threading.Event(), threading.Event()

        def slow(
            messages: Any,
            calling: threading.Event = calling,
            forgotten: threading.Event = forgotten,
        ) -> str:
            calling.set()
            forgotten.wait(60)
            return "stale"

        caller = threading.Thread(target=cache.get_or_call, args=(str(number), slow))
        caller.start()
        assert calling.wait(60)
        if number % 2:
            cache.clear()
        else:
            cache.delete(str(number))
        forgotten.set()
        caller.join(60)
        assert cache.get(str(number)) is None
    cache.close()


CANARIES = {
    "prompt": "CANARY-PROMPT-5309",
    "answer": "CANARY-ANSWER-5309",
    "key": "sk-CANARY-KEY-5309",
}


def test_secrets_stay_where_they_belong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[Any] = []
    shown: list[str] = []
    cache = LLMCache(backend=tmp_path / "c.db", on_event=told.append, namespace="tenant")
    asked = [{"role": "user", "content": CANARIES["prompt"]}]

    def attempt(act: Any) -> None:
        try:
            act()
        except (LLMCacheError, TypeError, ValueError):
            shown.append(traceback.format_exc(limit=0))

    def call() -> Any:
        return cache.get_or_call(
            asked,
            lambda messages, **params: {"text": CANARIES["answer"]},
            model="m",
            api_key=CANARIES["key"],
        )

    attempt(call)
    attempt(call)
    attempt(lambda: cache.put(asked, {"x": CANARIES["answer"], "y": object()}))
    attempt(lambda: cache.put([*asked, object()], CANARIES["answer"]))
    attempt(lambda: cache.get([{"role": CANARIES["prompt"], "content": float("nan")}]))
    attempt(lambda: cache.get([{CANARIES["prompt"] + "\ud800": 1}]))
    attempt(lambda: LLMCache(backend=f"redis://user:{CANARIES['key']}@host/0"))
    with options(mode="replay"):
        attempt(lambda: cache.get([*asked, *asked]))
    shown += [
        repr(cache),
        str(cache.stats()),
        cache.stats()._repr_html_(),
        repr(list(cache.engine.entries())),
        repr(told),
        caplog.text,
    ]
    for text in shown:
        for canary in CANARIES.values():
            assert canary not in text
    modes = {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    cache.close()  # only now: opening a database that is in use drops its locks
    on_disk = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert CANARIES["answer"].encode() in on_disk  # the look works
    assert CANARIES["prompt"].encode() not in on_disk
    assert CANARIES["key"].encode() not in on_disk
    assert modes == {0o600}
