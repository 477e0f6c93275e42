"""What every store must do that keeps totals. A counting store subclasses CountsConformance and
gives ``store``."""

import pytest
from stores.conformance import entry_of

from llm_cache_mem.accounting.bounded import MOST_NAMES, OTHER
from llm_cache_mem.accounting.counts import Batch, Counts, EntryHits
from llm_cache_mem.stores.base import CountingStore

__all__ = ["CountsConformance"]

KEY, SECOND = ("1:ns:value:" + letter * 64 for letter in "ab")


def batch(number, *places, hits=None, now=100.0, **sums):
    return Batch(f"p-{number}", now, {place: Counts(**sums) for place in places}, hits or {})


class CountsConformance:
    """``store`` is a fixture: a store on data that are empty at first."""

    @pytest.fixture
    def store(self) -> CountingStore:
        raise NotImplementedError

    def test_it_counts(self, store) -> None:
        assert isinstance(store, CountingStore)

    def test_nothing_counted_has_no_beginning(self, store) -> None:
        assert store.totals() == (None, {})
        assert store.entry_hits([KEY]) == {}
        store.reset_counts()

    def test_batches_add_up_exactly(self, store) -> None:
        place, other = ("ns", "m"), ('"] ☃', "")
        store.add_counts(batch(1, place, misses=2**40))
        store.add_counts(batch(2, place, now=200.0, nanos=1))
        store.add_counts(batch(3, place, other, misses=1, nanos=2))
        found = store.totals()
        assert found.since == 100.0
        assert found.counts[place] == Counts(misses=2**40 + 1, nanos=3)
        assert found.counts[other] == Counts(misses=1, nanos=2)

    def test_a_batch_counts_once_however_often_it_is_sent(self, store) -> None:
        for number in ("p-1", "q-1", "p-1", "p-2", "q-1", "p-2"):
            store.add_counts(batch(1, ("ns", "m"), misses=1)._replace(number=number))
        assert store.totals().total.misses == 3

    def test_names_are_bounded(self, store) -> None:
        names = [("ns", f"m{number}") for number in range(MOST_NAMES + 50)]
        store.add_counts(batch(1, *names[:MOST_NAMES], misses=1))
        store.add_counts(batch(2, *names, misses=1))
        found = store.totals().counts
        assert found[names[0]].misses == 2
        assert found[OTHER, OTHER].misses == 50
        assert len(found) == MOST_NAMES + 1

    def test_entries_have_hits_as_long_as_they_are_there(self, store) -> None:
        store.put(KEY, entry_of(1))
        store.add_counts(batch(1, ("ns", "m"), hits={KEY: 3, SECOND: 9}))
        store.add_counts(batch(2, ("ns", "m"), hits={KEY: 2}, now=200.0))
        assert store.entry_hits([KEY, SECOND]) == {KEY: EntryHits(5, 200.0)}
        store.put(KEY, entry_of(2))
        assert store.entry_hits([KEY]) == {KEY: EntryHits(5, 200.0)}
        store.delete(KEY)
        store.put(SECOND, entry_of(1))
        store.put(KEY, entry_of(1))
        assert store.entry_hits([KEY, SECOND]) == {}

    def test_clear_removes_hits_and_leaves_totals(self, store) -> None:
        store.put(KEY, entry_of(1))
        store.add_counts(batch(1, ("ns", "m"), hits={KEY: 3}, misses=1))
        assert store.clear() == 1
        store.put(KEY, entry_of(1))
        assert store.entry_hits([KEY]) == {}
        assert store.totals().total.misses == 1
        assert store.size() == 1

    def test_reset_begins_again(self, store) -> None:
        store.put(KEY, entry_of(1))
        store.add_counts(batch(1, ("ns", "m"), hits={KEY: 3}, misses=1))
        store.reset_counts()
        assert store.totals() == (None, {})
        assert store.entry_hits([KEY]) == {}
        store.add_counts(batch(2, ("ns", "m"), misses=1, now=300.0))
        assert (store.totals().since, store.totals().total.misses) == (300.0, 1)
        assert [key for key, _ in store.entries()] == [KEY]
