"""MemoryStore as a store: what all of them do, the model, a history of many threads, and what is
its own."""

import random
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
from stores.conformance import MakeStore, StoreConformance, entry_of
from stores.history import check_history, length
from stores.model import StoreMachine, check_against_model, sequences

from llm_cache_mem.stores import MemoryStore, memory
from llm_cache_mem.stores.sieve import SieveStore


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


@sequences(200)
def test_it_does_what_the_model_does(number: int, steps: int) -> None:
    check_against_model(MemoryMachine, number, steps)


@length(40_000)
def test_thirty_two_threads_see_a_consistent_history(calls: int) -> None:
    check_history(MemoryStore(), threads=32, calls=calls)


def test_later_writes_purge_expired_entries(clock: Any) -> None:
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


@pytest.mark.parametrize("kind", [MemoryStore, SieveStore])
def test_sizes_of_namespaces_are_counted(kind: type[MemoryStore], clock: Any) -> None:
    """After puts, replacements, evictions, expiry and clears, by counters where there are any."""
    seed = 11
    print(f"seed {seed}")
    rng, store = random.Random(seed), kind(max_size=50, clock=clock)
    for turn in range(3000):
        key = f"{rng.choice(['1::value:', '1::http:', '1:a:value:', ''])}{rng.randrange(30)}"
        if turn % 500 == 499:
            store.clear(rng.choice(["1:a:", "1::", ""]))
        elif turn % 100 == 99:
            store.purge()
        elif rng.random() < 0.1:
            store.delete(key)
        else:
            clock.advance(1)
            expires_at = rng.choice([None, clock() + 40])
            store.put(key, entry_of(turn, stored_at=clock(), expires_at=expires_at))
        held = [key for key, _ in store.entries()]
        for prefix in ("", "1:", "1::", "1::value:", "1:a:", "1:a", "2:", "1::value:1"):
            assert store.size(prefix) == sum(key.startswith(prefix) for key in held), prefix


@pytest.mark.parametrize("puts", [0, 1, 1000])
def test_purge_is_complete_while_others_put(
    puts: int, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are listed in slices, and all at once if others keep changing them in between."""
    store = MemoryStore(clock=clock)
    for number in range(2000):
        store.put(f"old {number}", entry_of(number, expires_at=clock() + 10))
    clock.advance(10)
    left = iter(range(puts))

    def others_first(keys: Any, count: int) -> Any:
        for number in islice(left, 1):
            store.put(f"new {number}", entry_of(number))
        return islice(keys, count)

    monkeypatch.setattr(memory, "islice", others_first)
    removed = store.purge()
    assert removed + 4 * store.size() >= 2000  # each put takes out up to four
    assert all(key.startswith("new") for key, _ in store.entries())


@pytest.mark.parametrize("kind", [MemoryStore, SieveStore])
def test_puts_during_clear_stay(kind: type[MemoryStore], monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread stores while entries are removed is not among them."""
    store = kind()
    for number in range(2000):
        store.put(f"1:a:{number}", entry_of(number))
    store.put("1:b:0", entry_of(0))
    remove = store._remove

    def remove_and_put(key: str) -> None:
        remove(key)
        if key == "1:a:0":
            monkeypatch.undo()
            store.put("1:a:new", entry_of("new"))

    monkeypatch.setattr(store, "_remove", remove_and_put)
    assert store.clear("1:a:") == 2000
    assert [key for key, _ in store.entries()] == ["1:b:0", "1:a:new"]
