"""What every store must do that processes agree through. A leasing store subclasses
LeaseConformance and gives ``join``."""

import secrets
import threading
import time
from collections.abc import Callable

import pytest
from stores.conformance import entry_of, keys, value_of
from stores.processes import fork, outcome

from llm_cache_mem.stores.base import LeasingStore

__all__ = ["Join", "LeaseConformance", "ListedLeases"]

Join = Callable[[], LeasingStore]
KEY = "1:ns:value:" + "a" * 64
LONG = 60.0
SHORT = 1.0  # as short as every engine can measure


class LeaseConformance:
    """``join()`` is a fixture: each call is another store object on the same, at first empty, data,
    closed afterwards."""

    @pytest.fixture
    def join(self) -> Join:
        raise NotImplementedError

    @pytest.fixture
    def store(self, join: Join) -> LeasingStore:
        return join()

    def test_it_supports_leases(self, store: LeasingStore) -> None:
        assert isinstance(store, LeasingStore)

    def test_one_token_has_the_lease_and_no_other_gets_it(self, join: Join) -> None:
        one, other = join(), join()
        assert one.lease(KEY, "a", LONG) is True
        assert other.lease(KEY, "b", LONG) is False
        assert one.lease(KEY, "b", LONG) is False

    def test_a_token_is_asked_after_not_an_object(self, join: Join) -> None:
        join().lease(KEY, "a", LONG)
        assert join().lease(KEY, "a", LONG)

    def test_each_key_has_a_lease_of_its_own(self, store: LeasingStore) -> None:
        assert store.lease(KEY, "a", LONG)
        assert store.lease(KEY + "b", "b", LONG)
        assert not store.lease(KEY, "b", LONG)

    def test_a_released_lease_is_available(self, join: Join) -> None:
        one, other = join(), join()
        one.lease(KEY, "a", LONG)
        one.release(KEY, "a")
        assert other.lease(KEY, "b", LONG)
        assert not one.lease(KEY, "a", LONG)

    def test_only_the_holder_can_release(self, join: Join) -> None:
        one, other = join(), join()
        one.lease(KEY, "a", LONG)
        other.release(KEY, "b")
        assert not other.lease(KEY, "b", LONG)

    def test_releasing_a_free_lease_does_nothing(self, store: LeasingStore) -> None:
        store.release(KEY, "a")
        assert store.lease(KEY, "a", LONG)
        store.release(KEY, "a")
        store.release(KEY, "a")

    def test_a_lease_that_is_not_extended_expires(self, join: Join) -> None:
        one, other = join(), join()
        assert one.lease(KEY, "a", SHORT)
        began = time.monotonic()
        while not other.lease(KEY, "b", LONG):
            assert time.monotonic() - began < 30
            time.sleep(0.02)
        assert not one.lease(KEY, "a", LONG)

    def test_the_holder_prolongs_it_by_asking_again(self, join: Join) -> None:
        one, other = join(), join()
        began = time.monotonic()
        assert one.lease(KEY, "a", SHORT)
        assert one.lease(KEY, "a", LONG)
        while time.monotonic() - began < 2.2 * SHORT:
            assert not other.lease(KEY, "b", SHORT)
            time.sleep(0.05)

    def test_a_late_release_spares_the_next_holder(self, join: Join) -> None:
        one, other = join(), join()
        one.lease(KEY, "a", LONG)
        one.release(KEY, "a")
        other.lease(KEY, "b", LONG)
        one.release(KEY, "a")
        assert not one.lease(KEY, "a", LONG)

    def test_a_lease_is_no_entry(self, store: LeasingStore) -> None:
        store.lease(KEY, "a", LONG)
        assert store.get(KEY) is None
        assert not store.delete(KEY)
        store.put(KEY, entry_of("value"))
        assert store.lease(KEY, "a", LONG)
        assert value_of(store.get(KEY)) == "value"
        store.release(KEY, "a")
        assert value_of(store.get(KEY)) == "value"

    def test_the_longest_key_can_be_leased(self, join: Join) -> None:
        key = "1:" + "n" * 173 + ":value:" + "a" * 64 + "#99"
        assert len(key) <= 250
        one, other = join(), join()
        assert one.lease(key, secrets.token_hex(16), LONG)
        assert not other.lease(key, secrets.token_hex(16), LONG)

    def test_of_many_threads_one_gets_it(self, store: LeasingStore) -> None:
        got: list[bool] = []
        start = threading.Barrier(16)

        def ask(token: str) -> None:
            start.wait()
            got.append(store.lease(KEY, token, LONG))

        threads = [threading.Thread(target=ask, args=(f"t{number}",)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == [False] * 15 + [True]

    def test_of_many_processes_one_gets_it(self, join: Join) -> None:
        store = join()

        def ask(number: int) -> list[bool]:
            return [store.lease(f"{KEY}{turn}", f"p{number}", LONG) for turn in range(20)]

        children = [fork(lambda number=number: ask(number)) for number in range(6)]
        answers = [outcome(*child, timeout=60) for child in children]
        assert [sum(answer[turn] for answer in answers) for turn in range(20)] == [1] * 20


class ListedLeases(LeaseConformance):
    """For stores that can list what they hold."""

    def test_a_lease_is_not_listed_counted_or_cleared(self, store: LeasingStore) -> None:
        store.lease(KEY, "a", LONG)
        assert keys(store) == []
        assert store.size() == 0
        assert store.clear() == 0
        store.put(KEY, entry_of("value"))
        assert keys(store) == [KEY]
        assert (store.size(), store.size("1:ns:")) == (1, 1)
        assert store.clear("1:ns:") == 1
