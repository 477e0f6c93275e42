"""MemoryStore as a store: what all of them do, the model, a history of many threads, and what is
its own."""

import secrets
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from stores.conformance import MakeStore, StoreConformance, entry_of
from stores.history import record, violations
from stores.model import StoreMachine

from llm_cache_mem.stores import MemoryStore


class TestConformance(StoreConformance):
    shared_with_children = False

    @pytest.fixture
    def make_store(self) -> MakeStore:
        return MemoryStore


class MemoryMachine(StoreMachine):
    def open_store(
        self, *, clock: Callable[[], float], max_size: int | None, max_bytes: int | None
    ) -> MemoryStore:
        return MemoryStore(clock=clock, max_size=max_size, max_bytes=max_bytes)


TestModel = MemoryMachine.TestCase
TestModel.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def test_what_32_threads_saw_could_have_happened() -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    history = record(MemoryStore(), threads=32, calls=100_000, seconds=15, seed=seed)
    print(f"{len(history)} calls")
    assert violations(history) == []
    assert len(history) > 10_000


def test_expired_entries_that_nobody_reads_go_with_the_writes_that_follow(clock: Any) -> None:
    store = MemoryStore(clock=clock)
    for number in range(100):
        store.put(str(number), entry_of(number, expires_at=clock() + 10))
    clock.advance(10)
    removed = [store.put(f"new {number}", entry_of(number)).expired for number in range(30)]
    assert sum(removed) == 100
    assert max(removed) <= 4
    assert store.size() == 30


@pytest.mark.parametrize(
    "number", [pytest.param(100_000), pytest.param(1_000_000, marks=pytest.mark.slow)]
)
def test_bounds_hold_however_much_is_put(number: int) -> None:
    store = MemoryStore(max_size=1000, max_bytes=200_000)
    for at in range(number):
        store.put(f"key {at}", entry_of("x" * (at % 300)))
    held = list(store.entries())
    assert len(held) <= 1000
    assert sum(len(key) + entry.size for key, entry in held) <= 200_000
