"""Many entries at once: SQLite's way, that of FailOpenStore for stores that know none, and what the engine
makes of both."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stores.conformance import entry_of, value_of
from stores.many import ManyConformance

from llm_cache_mem import LLMCache, options
from llm_cache_mem.engine.writer import Answered
from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores import MemoryStore
from llm_cache_mem.stores.base import Removed
from llm_cache_mem.stores.fail_open import FailOpenStore
from llm_cache_mem.stores.sqlite import SQLiteStore, rows
from llm_cache_mem.values.entry import MAX_BODY_BYTES


class TestSQLite(ManyConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SQLiteStore]:
        store = SQLiteStore(tmp_path / "cache.db", lock_timeout=10)
        yield store
        store.close()


# -- SQLite: bounds, slices, uses


def pair(folder: Path, clock: Any, **bounds: Any) -> tuple[SQLiteStore, SQLiteStore]:
    return SQLiteStore(folder / "one.db", clock=clock, **bounds), SQLiteStore(
        folder / "many.db", clock=clock, **bounds
    )


@pytest.mark.parametrize(
    "bounds",
    [
        {"max_size": 7},
        {"max_bytes": 3_000},
        {"max_size": 5, "max_bytes": 2_000},
        {"max_bytes": 300},
    ],
    ids=str,
)
def test_put_many_equals_single_puts(fast_folder: Path, clock: Any, bounds: dict[str, Any]) -> None:
    one, many = pair(fast_folder, clock, **bounds)
    entries = {
        f"k{at}": entry_of("x" * (at * 37 % 400), expires_at=None if at % 3 else clock() + 1 + at)
        for at in range(40)
    }
    evicted = sum(one.put(key, entry).evicted for key, entry in entries.items())
    removed = many.put_many(entries)
    assert [key for key, _ in many.entries()] == [key for key, _ in one.entries()]
    assert removed.evicted == evicted
    for store in (one, many):
        store.close()


def test_batches_are_written_in_slices(
    fast_folder: Path, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SQLiteStore(fast_folder / "c.db")
    sizes: list[int] = []
    insert = rows.insert_many
    monkeypatch.setattr(
        rows,
        "insert_many",
        lambda db, some, *more, **how: sizes.append(len(some)) or insert(db, some, *more, **how),
    )
    store.put_many({f"k{at}": entry_of(at) for at in range(2 * rows.SLICE + 5)})
    assert sizes == [rows.SLICE, rows.SLICE, 5]
    sizes.clear()
    store.put_many({f"large{at}": entry_of("x" * 1_500_000) for at in range(5)})
    assert sizes == [2, 2, 1]
    assert store.size() == 2 * rows.SLICE + 10
    store.close()


def test_get_many_counts_as_use(fast_folder: Path) -> None:
    store = SQLiteStore(fast_folder / "c.db", max_size=3)
    store.put_many({key: entry_of(key) for key in "abc"})
    store.get_many(["a", "b"])
    store.put("d", entry_of("d"))
    assert [key for key, _ in store.entries()] == ["a", "b", "d"]
    store.close()


def test_a_damaged_one_among_many_is_left_out(fast_folder: Path) -> None:
    store = SQLiteStore(fast_folder / "c.db")
    store.put_many({key: entry_of(key) for key in "abc"})
    store._access.write(lambda db: db.execute("UPDATE entries SET data = x'00' WHERE key = 'b'"))
    assert sorted(store.get_many(["a", "b", "c"])) == ["a", "c"]
    assert store.unreadable == 1
    assert store.size() == 2
    store.close()


# -- Failing open


class Broken(SQLiteStore):
    def get_many(self, keys: Any) -> Any:
        raise StoreError("Broken", "get_many", "it is broken")

    def put_many(self, entries: Any) -> Any:
        raise StoreError("Broken", "put_many", "it is broken")


def fail_open(store: Any, errors: list[str]) -> FailOpenStore:
    return FailOpenStore(store, strict=False, on_error=errors.append)


def test_a_store_that_fails_at_many_gives_none_and_takes_none(fast_folder: Path) -> None:
    errors: list[str] = []
    store = Broken(fast_folder / "c.db")
    safe = fail_open(store, errors)
    assert safe.get_many(["a"]) == {}
    assert safe.put_many({"a": entry_of(1)}) is None
    assert errors == ["get_many", "put_many"]
    store.close()


def test_a_store_that_knows_no_many_is_asked_one_by_one() -> None:
    safe = fail_open(MemoryStore(max_size=2), [])
    assert safe.put_many({key: entry_of(key) for key in "abc"}) == Removed(evicted=1)
    assert {key: value_of(entry) for key, entry in safe.get_many(["a", "b", "c", "c"]).items()} == {
        "b": "b",
        "c": "c",
    }
    assert safe.put_many({}) == Removed()


# -- The engine

GOOD = {
    "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
}
CUT_OFF = {"choices": [{"message": {"content": "ye"}, "finish_reason": "length"}]}


@pytest.fixture(params=["memory", "sqlite"])
def cache(request: pytest.FixtureRequest, fast_folder: Path) -> Iterator[LLMCache]:
    with LLMCache(
        backend="memory" if request.param == "memory" else fast_folder / "c.db", max_bytes=100_000
    ) as cache:
        yield cache


def requests(cache: LLMCache, *names: str) -> list[Any]:
    return [cache.engine.keyer.request(name, {"model": "m"}) for name in names]


def test_batches_equal_single_operations(cache: LLMCache) -> None:
    asked = requests(cache, "a", "b", "c", "d")
    assert cache.engine.reader.lookup_many(asked) == [None] * 4
    kept = [
        Answered(request, answer, answer)
        for request, answer in zip(asked, [GOOD, CUT_OFF, "x" * 200_000, "text"], strict=True)
    ]
    assert cache.engine.writer.store_many(kept, seconds=2.0) == 2
    hits = cache.engine.reader.lookup_many([*asked, asked[0]])
    assert [None if hit is None else hit.value for hit in hits] == [GOOD, None, None, "text", GOOD]
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.stored, stats.size) == (3, 6, 2, 2)
    assert dict(stats.skipped) == {"truncated": 1, "too large": 1}
    assert stats.seconds_saved == 6.0
    assert cache.get("a", model="m") == GOOD


def test_a_delete_during_a_batch_discards_the_batch(cache: LLMCache) -> None:
    (request,) = requests(cache, "a")
    epoch = cache.engine.epoch
    cache.delete("b", model="m")
    assert cache.engine.writer.store_many([Answered(request, GOOD, GOOD)], epoch=epoch) == 0
    assert cache.engine.reader.lookup_many([request]) == [None]


def test_modes_hold_for_many_too(cache: LLMCache) -> None:
    asked = requests(cache, "a")
    cache.engine.writer.store_many([Answered(asked[0], GOOD, GOOD)])
    with options(mode="off"):
        assert cache.engine.reader.lookup_many(asked) == [None]
        assert cache.engine.writer.store_many([Answered(asked[0], "other", "other")]) == 0
    with options(mode="refresh"):
        assert cache.engine.reader.lookup_many(asked) == [None]
    with options(mode="replay"):
        assert cache.engine.reader.lookup_many(asked)[0] is not None


def test_an_oversized_entry_does_not_affect_the_batch(fast_folder: Path) -> None:
    with LLMCache(backend=fast_folder / "c.db") as cache:
        asked = requests(cache, "a", "b", "c")
        values = ["a", "x" * (MAX_BODY_BYTES + 1), "c"]
        assert (
            cache.engine.writer.store_many(
                [
                    Answered(request, value, value)
                    for request, value in zip(asked, values, strict=True)
                ]
            )
            == 2
        )
        assert [hit is not None for hit in cache.engine.reader.lookup_many(asked)] == [
            True,
            False,
            True,
        ]
        assert dict(cache.stats().skipped) == {"value": 1}


async def test_many_in_a_task(cache: LLMCache) -> None:
    asked = requests(cache, "a", "b")
    assert (
        await cache.engine.writer.astore_many([Answered(request, GOOD, GOOD) for request in asked])
        == 2
    )
    hits = await asyncio.wait_for(cache.engine.reader.alookup_many(asked), 60)
    assert [hit is not None and hit.value == GOOD for hit in hits] == [True, True]
