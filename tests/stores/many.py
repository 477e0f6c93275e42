"""What every store must do that reads or writes many entries in one round trip. It subclasses
ManyConformance and gives ``store``."""

import pytest
from stores.conformance import entry_of, value_of

from llm_cache_mem.errors import ValueNotCacheable
from llm_cache_mem.stores.base import ManyStore
from llm_cache_mem.values.entry import MAX_BODY_BYTES

__all__ = ["ManyConformance"]


class ManyConformance:
    """``store`` is a fixture: a new, empty store without bounds."""

    @pytest.fixture
    def store(self) -> ManyStore:
        raise NotImplementedError

    def test_it_supports_batches(self, store: ManyStore) -> None:
        assert isinstance(store, ManyStore)

    @pytest.mark.parametrize("number", [1, 3, 1234])
    def test_put_many_then_get_many(self, store: ManyStore, number: int) -> None:
        entries = {
            f"1:many:v:{at}": entry_of({"at": at}, stored_at=1_800_000_000.0 + at)
            for at in range(number)
        }
        removed = store.put_many(entries)
        assert (removed.evicted, removed.expired) == (0, 0)
        found = store.get_many([*entries, "1:many:v:absent"])
        assert {key: value_of(entry) for key, entry in found.items()} == {
            f"1:many:v:{at}": {"at": at} for at in range(number)
        }
        assert all(found[key].stored_at == entries[key].stored_at for key in entries)
        assert value_of(store.get("1:many:v:0")) == {"at": 0}

    def test_an_empty_batch_is_empty(self, store: ManyStore) -> None:
        assert store.get_many([]) == {}
        assert tuple(store.put_many({})) == (0, 0)
        assert store.get_many(["absent", "absent too"]) == {}

    def test_a_key_may_be_asked_for_twice(self, store: ManyStore) -> None:
        store.put("k", entry_of(1))
        assert {
            key: value_of(entry)
            for key, entry in store.get_many(["k", "k", "none", "none"]).items()
        } == {"k": 1}

    def test_put_many_replaces_entries(self, store: ManyStore) -> None:
        store.put("a", entry_of("old"))
        store.put_many({"a": entry_of("new"), "b": entry_of("b")})
        assert value_of(store.get("a")) == "new"
        assert value_of(store.get("b")) == "b"

    def test_large_values_go_along_with_small_ones(self, store: ManyStore) -> None:
        entries = {f"k{at}": entry_of("x" * (700_000 if at % 3 == 0 else at)) for at in range(20)}
        store.put_many(entries)
        found = store.get_many(list(entries))
        assert {key: len(value_of(entry)) for key, entry in found.items()} == {
            f"k{at}": 700_000 if at % 3 == 0 else at for at in range(20)
        }

    def test_an_oversized_value_is_rejected(self, store: ManyStore) -> None:
        with pytest.raises(ValueNotCacheable):
            store.put_many({"small": entry_of(1), "large": entry_of("x" * (MAX_BODY_BYTES + 1))})
        assert store.get("large") is None
