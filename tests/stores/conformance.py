"""What every store must do. A new store subclasses StoreConformance, gives ``make_store``, and says
what it does not promise."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from stores.processes import in_child

from llm_cache_mem.stores.base import Store
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

__all__ = ["MakeStore", "StoreConformance", "entry_of", "value_of"]

MakeStore = Callable[..., Store]


def entry_of(
    value: Any, *, stored_at: float = 1_800_000_000.0, expires_at: float | None = None, **known: Any
) -> Entry:
    return Entry(Payload.of(value), stored_at, expires_at, **known)


def value_of(entry: Entry | None) -> Any:
    assert entry is not None
    return entry.payload.decode()


def keys(store: Store, prefix: str = "") -> list[str]:
    return [key for key, _ in store.entries(prefix)]


class StoreConformance:
    """``make_store(clock=..., max_size=..., max_bytes=...)`` is a fixture: each call is a new,
    empty store, closed afterwards."""

    bounded = True  # holds max_size and max_bytes itself, and lets the least recently used go first
    shared_with_children = True  # a forked child and its parent see each other's entries

    @pytest.fixture
    def make_store(self) -> MakeStore:
        raise NotImplementedError

    @pytest.fixture
    def store(self, make_store: MakeStore, clock: Callable[[], float]) -> Store:
        return make_store(clock=clock)

    @pytest.fixture
    def _bounded(self) -> None:
        if not self.bounded:
            pytest.skip("this store leaves bounds to its server")

    # -- one entry

    def test_an_absent_key_is_none(self, store: Store) -> None:
        assert store.get("1:a:v:0") is None

    def test_an_entry_comes_back_whole(self, store: Store) -> None:
        put = entry_of(
            {"text": "zażółć 🎈", "n": [1, 2.5, None, True], "bytes": b"\0\xff"},
            expires_at=1_800_000_060.5,
            model="m-1",
            usage=(10, 5, 3, 2, 1),
            cost_usd=0.0125,
            seconds=1.75,
            request=b'{"messages": []}',
        )
        store.put("k", put)
        got = store.get("k")
        assert got is not None
        assert got.payload.decode() == put.payload.decode()
        for field in ("stored_at", "expires_at", "model", "cost_usd", "seconds", "request"):
            assert getattr(got, field) == getattr(put, field)
        assert tuple(got.usage or ()) == (10, 5, 3, 2, 1)

    def test_unknown_figures_stay_none(self, store: Store) -> None:
        store.put("k", entry_of(None))
        got = store.get("k")
        assert got is not None
        assert got.payload.decode() is None
        assert (got.expires_at, got.model, got.usage, got.cost_usd, got.seconds, got.request) == (
            None,
        ) * 6

    def test_each_value_read_is_a_fresh_object(self, store: Store) -> None:
        store.put("k", entry_of({"list": []}))
        value_of(store.get("k"))["list"].append("mine")
        assert value_of(store.get("k")) == {"list": []}

    def test_put_replaces(self, store: Store) -> None:
        store.put("k", entry_of("old", stored_at=1.0, expires_at=2.0))
        store.put("k", entry_of("new", stored_at=3.0))
        got = store.get("k")
        assert got is not None
        assert (got.payload.decode(), got.stored_at, got.expires_at) == ("new", 3.0, None)
        assert store.size() == 1

    def test_a_large_value_and_a_long_key(self, store: Store) -> None:
        key = "1:" + "n" * 240 + ":v:0"
        store.put(key, entry_of("x" * 1_000_000))
        assert len(value_of(store.get(key))) == 1_000_000

    # -- removal

    def test_delete_returns_whether_the_key_existed(self, store: Store) -> None:
        store.put("k", entry_of(1))
        assert store.delete("k")
        assert not store.delete("k")
        assert store.get("k") is None

    def test_delete_of_one_version_spares_another(self, store: Store) -> None:
        store.put("k", entry_of(1, stored_at=1_800_000_000.123456))
        assert not store.delete("k", stored_at=1_800_000_000.0)
        assert store.get("k") is not None
        assert store.delete("k", stored_at=1_800_000_000.123456)
        assert store.get("k") is None

    def test_clear_removes_keys_with_the_prefix(self, store: Store) -> None:
        for key in ("1:a:v:0", "1:a:v:1", "1:a:w:0", "1:ab:v:0", "1:a", "1:b:v:0"):
            store.put(key, entry_of(key))
        assert store.clear("1:a:v:") == 2
        assert store.clear("1:a:") == 1
        assert sorted(keys(store)) == ["1:a", "1:ab:v:0", "1:b:v:0"]
        assert store.clear() == 3
        assert store.size() == 0

    @pytest.mark.parametrize("wild", ["%", "_", "*", "?", "[a-z]", "\\", "'", '"'])
    def test_a_prefix_has_no_wildcards(self, store: Store, wild: str) -> None:
        store.put("1:x:v:0", entry_of(0))
        store.put(f"1:{wild}:v:0", entry_of(1))
        assert keys(store, f"1:{wild}:") == [f"1:{wild}:v:0"]
        assert store.size(f"1:{wild}:") == 1
        assert store.clear(f"1:{wild}:") == 1
        assert keys(store) == ["1:x:v:0"]

    def test_purge_removes_the_expired_only(self, make_store: MakeStore, clock: Any) -> None:
        store = make_store(clock=clock)
        now = clock()
        for key, expires_at in (
            ("never", None),
            ("past", now - 1),
            ("now", now),
            ("soon", now + 1),
        ):
            store.put(key, entry_of(key, expires_at=expires_at))
        left_over = store.size() - 2  # a write may have swept some already
        assert store.purge() == left_over
        assert sorted(keys(store)) == ["never", "soon"]
        clock.advance(1)
        assert store.purge() == 1
        assert keys(store) == ["never"]

    # -- looking around

    def test_size_counts_by_prefix(self, store: Store) -> None:
        for key in ("1:a:v:0", "1:a:v:1", "1:b:v:0"):
            store.put(key, entry_of(key))
        assert [store.size(prefix) for prefix in ("", "1:", "1:a:", "1:b:v:", "1:c:")] == [
            3,
            3,
            2,
            1,
            0,
        ]

    def test_entries_gives_keys_with_their_entries(self, store: Store) -> None:
        for key in ("1:a:v:0", "1:a:v:1", "1:b:v:0"):
            store.put(key, entry_of(key))
        assert {key: value_of(entry) for key, entry in store.entries("1:a:")} == {
            "1:a:v:0": "1:a:v:0",
            "1:a:v:1": "1:a:v:1",
        }

    def test_a_store_may_be_changed_while_it_is_listed(self, store: Store) -> None:
        for number in range(300):
            store.put(f"1:a:v:{number}", entry_of(number))
        seen = []
        for key, entry in store.entries():
            seen.append(value_of(entry))
            store.put(key, entry_of("again"))
            store.put(f"1:z:v:{len(seen)}", entry_of("new"))
            store.delete(key)
        assert sorted(seen) == list(range(300))

    def test_listing_may_be_broken_off(self, store: Store) -> None:
        for number in range(10):
            store.put(f"k{number}", entry_of(number))
        next(iter(store.entries()))
        store.put("k10", entry_of(10))
        assert store.size() == 11

    # -- bounds

    @pytest.mark.usefixtures("_bounded")
    def test_iteration_is_lru_first_and_counts_as_no_use(self, store: Store) -> None:
        for key in ("a", "b", "c", "d"):
            store.put(key, entry_of(key))
        store.get("b")
        store.put("a", entry_of("again"))
        assert keys(store) == ["c", "d", "b", "a"]
        assert keys(store) == ["c", "d", "b", "a"]

    @pytest.mark.usefixtures("_bounded")
    def test_the_least_recently_used_goes_first(self, make_store: MakeStore, clock: Any) -> None:
        store = make_store(clock=clock, max_size=3)
        for key in ("a", "b", "c"):
            assert store.put(key, entry_of(key)).evicted == 0
        store.get("a")
        store.get("b")
        assert store.put("b", entry_of("again")).evicted == 0
        store.get("a")
        assert store.put("d", entry_of("d")).evicted == 1
        assert keys(store) == ["b", "a", "d"]

    @pytest.mark.usefixtures("_bounded")
    def test_max_size_holds_after_every_put(self, make_store: MakeStore, clock: Any) -> None:
        store = make_store(clock=clock, max_size=50)
        for number in range(500):
            store.put(f"k{number}", entry_of(number))
            assert store.size() == min(number + 1, 50)

    @pytest.mark.usefixtures("_bounded")
    def test_max_bytes_holds_after_every_put(self, make_store: MakeStore, clock: Any) -> None:
        store = make_store(clock=clock, max_bytes=20_000)
        for number in range(100):
            store.put(f"k{number}", entry_of("x" * (number * 37 % 3000)))
            assert store.get(f"k{number}") is not None
            assert sum(len(key) + entry.size for key, entry in store.entries()) <= 20_000
        assert store.size() > 3

    @pytest.mark.usefixtures("_bounded")
    def test_an_entry_larger_than_the_store_is_not_stored(
        self, make_store: MakeStore, clock: Any
    ) -> None:
        store = make_store(clock=clock, max_bytes=2_000)
        store.put("k", entry_of("small"))
        assert store.put("k", entry_of("x" * 3_000)).evicted >= 1
        assert store.get("k") is None

    # -- many at once

    def test_threads_do_not_disturb_one_another(self, store: Store) -> None:
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for turn in range(60):
                    key = f"1:t{number}:v:{turn % 7}"
                    store.put(key, entry_of([number, turn]))
                    assert value_of(store.get(key)) == [number, turn]
                    if turn % 5 == 0:
                        assert store.delete(key)
                        assert store.get(key) is None
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []

    def test_a_forked_child_can_use_the_store(self, store: Store) -> None:
        store.put("before", entry_of("parent"))

        def child() -> Any:
            store.put("child", entry_of("child"))
            return value_of(store.get("before"))

        assert in_child(child) == "parent"
        store.put("after", entry_of("parent"))
        assert value_of(store.get("before")) == "parent"
        if self.shared_with_children:
            assert value_of(store.get("child")) == "child"

    # -- the end

    def test_close_twice(self, make_store: MakeStore, clock: Any) -> None:
        store = make_store(clock=clock)
        store.put("k", entry_of(1))
        store.close()
        store.close()

    def test_reports_whether_it_blocks(self, store: Store) -> None:
        assert isinstance(store.blocking, bool)
