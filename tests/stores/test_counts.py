"""Totals in SQLite files and on Redis servers."""

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
import redis
from stores.conformance import entry_of
from stores.counts import KEY, CountsConformance, batch

from llm_cache_mem import LLMCache
from llm_cache_mem.accounting.counts import HIDDEN_MODEL, Counts
from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores.base import counting
from llm_cache_mem.stores.memory import MemoryStore
from llm_cache_mem.stores.redis import RedisStore
from llm_cache_mem.stores.redis.counts import TOTALS
from llm_cache_mem.stores.sqlite import SQLiteStore, counts
from llm_cache_mem.stores.sqlite.layout import COUNTS
from llm_cache_mem.stores.tiered import TieredStore
from llm_cache_mem.values.encryption import Encryption, new_key


class TestSQLiteCounts(CountsConformance):
    @pytest.fixture
    def store(self, tmp_path: Path):
        store = SQLiteStore(tmp_path / "cache.db", lock_timeout=10)
        yield store
        store.close()

    def test_hits_count_once_however_often_they_are_sent(self, store) -> None:
        store.put(KEY, entry_of(1))
        for _ in range(2):
            store.add_counts(batch(1, ("ns", "m"), hits={KEY: 1}))
        assert store.entry_hits([KEY])[KEY].hits == 1

    def test_the_batches_remembered_are_bounded(self, store, monkeypatch) -> None:
        monkeypatch.setattr(counts, "_REMEMBERED", 3)
        for process in range(9):
            store.add_counts(batch(1, ("ns", "m"), misses=1)._replace(number=f"{process}-1"))
        numbers = store._access.use(lambda db: db.execute("SELECT number FROM batches").fetchall())
        assert numbers == [(b"6-1",), (b"7-1",), (b"8-1",)]

    def test_places_are_counted_once_for_a_batch(self, store) -> None:
        store.add_counts(batch(1))
        statements: list[str] = []
        store._access.use(lambda db: db.set_trace_callback(statements.append))
        store.add_counts(batch(2, *[("ns", f"m{number}") for number in range(50)], misses=1))
        assert sum("DISTINCT" in statement for statement in statements) == 1


class TestRedisCounts(CountsConformance):
    @pytest.fixture
    def store(self, redis_url: str):
        store = RedisStore(redis_url, timeout=10)
        yield store
        store.close()

    def test_fields_that_are_unknown_are_left_out(self, store, redis_url: str) -> None:
        store.add_counts(batch(1, ("ns", "m"), misses=1))
        bad = ["{bad]hits", "[1, 2]hits", '["a"]hits', "\xff", "later"]
        with redis.Redis.from_url(redis_url) as admin:
            admin.hset(TOTALS, mapping=dict.fromkeys(bad, 1))
            admin.hset(TOTALS, mapping=dict.fromkeys(["since", '["a", "b"]hits'], "no number"))
        assert store.totals() == (None, {("ns", "m"): Counts(misses=1)})

    def test_hits_expire_with_their_entry(self, store, redis_url: str) -> None:
        store.put(KEY, entry_of(1, expires_at=store._clock() + 60))
        store.add_counts(batch(1, ("ns", "m"), hits={KEY: 1}))
        with redis.Redis.from_url(redis_url) as admin:
            assert 0 < admin.ttl(f"llm-cache-mem-hits:{KEY}") <= 60


class TestGivenRedisClientCounts(CountsConformance):
    @pytest.fixture
    def store(self, redis_url: str):
        with redis.Redis.from_url(redis_url, socket_timeout=1) as client:
            yield RedisStore(client)


class TestRedisClusterCounts(CountsConformance):
    @pytest.fixture
    def store(self, three_masters):
        with redis.RedisCluster(host="127.0.0.1", port=three_masters[0].port) as client:
            yield RedisStore(client)


# -- A SQLite file with and without the tables


def test_a_file_without_totals_is_read_and_counted_in(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with closing(SQLiteStore(path)) as store:
        store.put(KEY, entry_of(1))
        store.add_counts(batch(1, ("ns", "m"), misses=1))
    with sqlite3.connect(path) as db:  # as an older version leaves it
        db.execute("DROP TRIGGER hits_removed")
        db.execute("DROP TABLE hits")
        db.execute("DROP TABLE totals")
        db.execute("DROP TABLE batches")
    reader = SQLiteStore(path, read_only=True)
    assert reader.totals() == (None, {})
    assert reader.get(KEY) is not None
    store = SQLiteStore(path)
    store.add_counts(batch(1, ("ns", "m"), hits={KEY: 1}, misses=1))
    assert reader.totals().total.misses == 1
    assert reader.entry_hits([KEY])[KEY].hits == 1
    store.close()
    reader.close()


def test_tables_made_by_others_are_refused_beside_totals(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    store = SQLiteStore(path)
    store.close()
    with sqlite3.connect(path) as db:
        db.execute(COUNTS[1].replace("last REAL", "last TEXT"))
    with pytest.raises(StoreError, match="did not make"):
        SQLiteStore(path).put(KEY, entry_of(1))


def test_counting_leaves_what_was_read_valid(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "cache.db")
    store.put(KEY, entry_of(1))
    store.get(KEY)
    before = store._access.file.changes.of_all()
    store.add_counts(batch(1, ("ns", "m"), hits={KEY: 1}))
    assert store._access.file.changes.of_all() == before
    store.close()


def test_counts_of_a_file_that_cannot_be_written_break_no_call(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with LLMCache(backend=path) as cache:
        cache.put("q", "a")
    with LLMCache(backend=SQLiteStore(path, read_only=True), strict=True) as cache:
        assert cache.get("q") == "a"
        cache.engine.totals.add()
        assert cache.stats().hits == 1
        assert cache.totals().total.stored == 1  # what could not be added is missing


def test_models_are_hidden_where_entries_are_encrypted(tmp_path: Path, redis_url: str) -> None:
    key = new_key()
    for store in (
        SQLiteStore(tmp_path / "cache.db", envelope=Encryption(key)),
        RedisStore(redis_url, envelope=Encryption(key)),
    ):
        store.add_counts(batch(1, ("ns", "secret"), ("ns", "other"), misses=1))
        assert store.totals().counts.keys() == {("ns", HIDDEN_MODEL)}
        assert store.totals().total.misses == 2
        store.close()


def test_the_totals_of_a_tiered_store_are_those_of_its_back(tmp_path: Path) -> None:
    back = SQLiteStore(tmp_path / "cache.db")
    assert counting(TieredStore(MemoryStore(), back)) is back
    assert counting(MemoryStore()) is None
    back.close()


def test_the_file_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with LLMCache(backend=path) as cache:
        cache.get("q")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
