"""MemcachedStore as a store: what all of them do, the model, a history of many threads, and what is
its own."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from stores.conformance import MakeStore, StoreConformance
from stores.history import check_history, length
from stores.leases import Join, LeaseConformance
from stores.many import ManyConformance
from stores.model import StoreMachine, check_against_model, sequences
from stores.servers import Server, running_memcached

from llm_cache_mem.stores.memcached import MemcachedStore


class TestConformance(StoreConformance):
    bounded = False

    @pytest.fixture
    def make_store(self, memcached_url: str) -> Iterator[MakeStore]:
        made: list[MemcachedStore] = []

        def make(
            *, clock: Callable[[], float], max_size: int | None = None, max_bytes: int | None = None
        ) -> MemcachedStore:
            made.append(MemcachedStore(memcached_url, clock=clock))
            return made[-1]

        yield make
        for store in made:
            store.close()


class TestMany(ManyConformance):
    @pytest.fixture
    def store(self, memcached_url: str) -> Iterator[MemcachedStore]:
        with contextlib.closing(MemcachedStore(memcached_url)) as store:
            yield store


class TestLeases(LeaseConformance):
    @pytest.fixture
    def join(self, memcached_url: str) -> Iterator[Join]:
        with contextlib.ExitStack() as stack:
            yield lambda: stack.enter_context(contextlib.closing(MemcachedStore(memcached_url)))


class MemcachedMachine(StoreMachine):
    persistent = True
    by_key = True
    server: Server

    def open_store(
        self, *, clock: Callable[[], float], max_size: int | None, max_bytes: int | None
    ) -> MemcachedStore:
        if not hasattr(self, "store"):
            self.server.ask("flush_all")
        url = f"memcached://127.0.0.1:{self.server.port}"
        return MemcachedStore(url, clock=clock, timeout=10.0)


@sequences(60)
def test_it_does_what_the_model_does(number: int, steps: int) -> None:
    with running_memcached(
        "-o", "hashpower=13"
    ) as MemcachedMachine.server:  # a short table to walk
        check_against_model(MemcachedMachine, number, steps)


@length(20_000)
def test_thirty_two_threads_see_a_consistent_history(memcached_url: str, calls: int) -> None:
    with contextlib.closing(MemcachedStore(memcached_url, timeout=5.0)) as store:
        check_history(store, threads=32, calls=calls)
