"""RedisStore as a store: what all of them do, the model, a history of many threads; on Redis, Valkey, a Cluster and a client handed in."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from stores.conformance import MakeStore, StoreConformance
from stores.servers import Server

from llm_cache_mem.stores.redis import RedisStore


def empty(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushall()


class Conformance(StoreConformance):
    bounded = False

    @pytest.fixture
    def client(self) -> Any:
        """What a store is made with; its server is emptied for each store."""
        raise NotImplementedError

    @pytest.fixture
    def flush(self, client: Any) -> Callable[[], None]:
        raise NotImplementedError

    @pytest.fixture
    def make_store(self, client: Any, flush: Callable[[], None]) -> Iterator[MakeStore]:
        made: list[RedisStore] = []

        def make(*, clock: Callable[[], float], **options: Any) -> RedisStore:
            flush()
            made.append(RedisStore(client, clock=clock, **options))
            return made[-1]

        yield make
        for store in made:
            store.close()


class TestConformance(Conformance):
    @pytest.fixture
    def client(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    def flush(self, redis_server: Server) -> Callable[[], None]:
        return lambda: redis_server.ask("FLUSHALL")


class TestConformanceWithResp3AndThePurePythonParser(TestConformance):
    @pytest.fixture
    def client(self, redis_url: str) -> str:
        return redis_url + "?protocol=3"


class TestConformanceOfValkey(Conformance):
    @pytest.fixture
    def client(self, valkey_url: str) -> str:
        return valkey_url

    @pytest.fixture
    def flush(self, valkey_server: Server) -> Callable[[], None]:
        return lambda: valkey_server.ask("FLUSHALL")


class TestConformanceOfAClient(Conformance):
    @pytest.fixture
    def client(self, redis_url: str) -> Iterator[redis.Redis]:
        with redis.Redis.from_url(redis_url) as client:
            yield client

    @pytest.fixture
    def flush(self, redis_server: Server) -> Callable[[], None]:
        return lambda: redis_server.ask("FLUSHALL")


class TestConformanceOfACluster(Conformance):
    @pytest.fixture
    def client(self, three_masters: list[Server]) -> Iterator[redis.RedisCluster]:
        with redis.RedisCluster(host="127.0.0.1", port=three_masters[0].port) as client:
            yield client

    @pytest.fixture
    def flush(self, three_masters: list[Server]) -> Callable[[], None]:
        return lambda: [server.ask("FLUSHALL") for server in three_masters] and None
