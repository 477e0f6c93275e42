"""SieveStore as a store: what all of them do, and who leaves first."""

import random
import secrets
from typing import Any

import pytest
from stores.conformance import MakeStore, StoreConformance, entry_of
from stores.history import check_history, length

from llm_cache_mem import LLMCache
from llm_cache_mem.stores import MemoryStore
from llm_cache_mem.stores.sieve import SieveStore


class TestConformance(StoreConformance):
    shared_with_children = False

    @pytest.fixture
    def make_store(self) -> MakeStore:
        return SieveStore

    def test_iteration_is_lru_first_and_counts_as_no_use(self, store: Any) -> None:
        """Here in the order of the queue, which use does not change."""
        for key in ("a", "b", "c", "d"):
            store.put(key, entry_of(key))
        store.get("b")
        store.put("a", entry_of("again"))
        assert [key for key, _ in store.entries()] == ["a", "b", "c", "d"]

    def test_the_least_recently_used_goes_first(self, make_store: MakeStore, clock: Any) -> None:
        """Here the oldest that was not asked for since the hand came by."""
        store = make_store(clock=clock, max_size=3)
        for key in ("a", "b", "c"):
            store.put(key, entry_of(key))
        store.get("a")
        assert store.put("d", entry_of("d")).evicted == 1
        assert store.get("b") is None
        assert sorted(key for key, _ in store.entries()) == ["a", "c", "d"]


class Node:
    def __init__(self, key: int, older: "Node | None") -> None:
        self.key, self.older = key, older
        self.newer: Node | None = None
        self.visited = False


class PaperSieve:
    """SIEVE as its paper (Zhang et al., NSDI 2024) writes it: a doubly linked list with a hand."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.nodes: dict[int, Node] = {}
        self.newest: Node | None = None
        self.oldest: Node | None = None
        self.hand: Node | None = None

    def request(self, key: int) -> bool:
        """Return whether *key* is a hit; after a miss it is in the cache."""
        node = self.nodes.get(key)
        if node is not None:
            node.visited = True
            return True
        if len(self.nodes) >= self.size:
            self.evict()
        node = self.nodes[key] = Node(key, older=self.newest)
        if self.newest is not None:
            self.newest.newer = node
        self.newest = node
        self.oldest = self.oldest or node
        return False

    def evict(self) -> None:
        node = self.hand or self.oldest
        while node is not None and node.visited:
            node.visited = False
            node = node.newer or self.oldest
        assert node is not None
        self.hand = node.newer
        if node.newer is not None:
            node.newer.older = node.older
        else:
            self.newest = node.older
        if node.older is not None:
            node.older.newer = node.newer
        else:
            self.oldest = node.newer
        del self.nodes[node.key]


def test_evictions_match_the_algorithm_of_the_paper() -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    for size in (1, 2, 3, 10, 50):
        store, paper = SieveStore(max_size=size), PaperSieve(size)
        for _ in range(5000):
            number = min(int(rng.paretovariate(0.6)), 10 * size)
            held = store.get(str(number)) is not None
            if not held:
                store.put(str(number), entry_of(number))
            assert held == paper.request(number)


def test_sieve_survives_a_scan_that_defeats_lru() -> None:
    stores = SieveStore(max_size=100), MemoryStore(max_size=100)
    for store in stores:
        for number in range(50):
            store.put(f"often {number}", entry_of(number))
            store.get(f"often {number}")
        for number in range(1000):
            store.put(f"once {number}", entry_of(number))
    kept = [
        sum(store.get(f"often {number}") is not None for number in range(50)) for store in stores
    ]
    assert kept == [50, 0]


@length(30_000)
def test_thirty_two_threads_see_a_consistent_history(calls: int) -> None:
    check_history(SieveStore(), threads=32, calls=calls)


def test_later_writes_purge_expired_entries_and_their_queue(
    clock: Any,
) -> None:
    store = SieveStore(max_size=10, clock=clock)
    for number in range(10):
        store.put(str(number), entry_of(number, expires_at=clock() + 10))
    clock.advance(11)
    for number in range(10):
        store.put(f"new {number}", entry_of(number))
    assert sorted(key for key, _ in store.entries()) == sorted(
        f"new {number}" for number in range(10)
    )
    assert store.delete("new 3")
    assert store.clear() == 9
    assert (store.size(), list(store.entries())) == (0, [])


def test_a_cache_takes_the_policy_by_its_name() -> None:
    cache = LLMCache(2, policy="sieve")
    for number in range(2):
        cache.put(str(number), number, model="m")
    assert cache.get("0", model="m") == 0
    cache.put("2", 2, model="m")
    assert [cache.get(str(number), model="m") for number in range(3)] == [0, None, 2]


def test_an_unknown_or_unsupported_policy_is_rejected(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"lru, sieve, not 'mru'"):
        LLMCache(policy="mru")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is for memory"):
        LLMCache(policy="sieve", backend=tmp_path / "cache.db")
    with pytest.raises(ValueError, match="is for memory"):
        LLMCache(policy="sieve", backend=MemoryStore())
