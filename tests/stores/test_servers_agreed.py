"""What leases and batches promise, on the servers of a fleet."""

from collections.abc import Iterator

import pytest
from stores.leases import Join, LeaseConformance, ListedLeases
from stores.many import ManyConformance

from llm_cache_mem.stores import MemoryStore
from llm_cache_mem.stores.base import LeasingStore
from llm_cache_mem.stores.memcached import MemcachedStore
from llm_cache_mem.stores.redis import RedisStore
from llm_cache_mem.stores.tiered import TieredStore


class TestRedisLeases(ListedLeases):
    @pytest.fixture
    def join(self, redis_url: str) -> Iterator[Join]:
        made: list[RedisStore] = []

        def join() -> RedisStore:
            made.append(RedisStore(redis_url, timeout=10))
            return made[-1]

        yield join
        for store in made:
            store.close()


class TestRedisMany(ManyConformance):
    @pytest.fixture
    def store(self, redis_url: str) -> Iterator[RedisStore]:
        store = RedisStore(redis_url, timeout=10)
        yield store
        store.close()


class TestMemcachedLeases(LeaseConformance):
    @pytest.fixture
    def join(self, memcached_url: str) -> Iterator[Join]:
        made: list[MemcachedStore] = []

        def join() -> MemcachedStore:
            made.append(MemcachedStore(memcached_url, timeout=10))
            return made[-1]

        yield join
        for store in made:
            store.close()


class TestMemcachedMany(ManyConformance):
    @pytest.fixture
    def store(self, memcached_url: str) -> Iterator[MemcachedStore]:
        store = MemcachedStore(memcached_url, timeout=10)
        yield store
        store.close()


class TestTieredLeases(ListedLeases):
    @pytest.fixture
    def join(self, redis_url: str) -> Iterator[Join]:
        made: list[LeasingStore] = []

        def join() -> LeasingStore:
            store = TieredStore(MemoryStore(), RedisStore(redis_url, timeout=10))
            assert isinstance(store, LeasingStore)
            made.append(store)
            return store

        yield join
        for store in made:
            store.close()
