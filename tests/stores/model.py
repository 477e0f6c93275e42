"""A store against the simplest thing that behaves as it must: a dict in order of use, with a clock.
Any store can be the subject."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Clock
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from stores.conformance import entry_of, value_of

from llm_cache_mem.stores.base import Store
from llm_cache_mem.values.entry import Entry

__all__ = ["StoreMachine", "check_against_model", "sequences"]

KEYS = [
    f"1:{namespace}:{kind}:{number}"
    for namespace in ("a", "ab")
    for kind in ("v", "w")
    for number in range(3)
]
PREFIXES = ["", "1:", "1:a", "1:a:", "1:a:v:", "1:ab:w:", "1:b:"]
TTLS = [None, 0.5, 10.0, 3600.0]

keys = st.sampled_from(KEYS)


def sequences(number: int) -> pytest.MarkDecorator:
    """*number* sequences of 50 steps; in the long form 5,000 of 100."""
    long = pytest.param(5_000, 100, marks=pytest.mark.slow)
    return pytest.mark.parametrize(("number", "steps"), [(number, 50), long])


def check_against_model(machine: type["StoreMachine"], number: int, steps: int) -> None:
    how = settings(
        max_examples=number,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(machine, settings=how)


class StoreMachine(RuleBasedStateMachine):
    """Subclass with ``open_store(clock=, max_size=, max_bytes=)``; the same store again when
    *persistent*."""

    persistent = False
    ordered = True  # holds its bounds itself and evicts the least recently used
    by_key = False  # has no bounds, removes nothing in passing, and lists in the order of the keys

    def open_store(
        self, *, clock: Callable[[], float], max_size: int | None, max_bytes: int | None
    ) -> Store:
        raise NotImplementedError

    @initialize(
        max_size=st.sampled_from([None, 1, 2, 4, 8]),
        max_bytes=st.sampled_from([None, None, 1000, 2500]),
    )
    def begin(self, max_size: int | None, max_bytes: int | None) -> None:
        self.clock = Clock()
        self.bounds: dict[str, int | None] = (
            {"max_size": max_size, "max_bytes": max_bytes}
            if self.ordered and not self.by_key
            else {}
        )
        self.bounds = {"max_size": None, "max_bytes": None} | self.bounds
        self.store = self.open_store(clock=self.clock, **self.bounds)
        self.model: OrderedDict[str, Entry] = OrderedDict()
        self.serial = 0

    @rule(key=keys, ttl=st.sampled_from(TTLS), length=st.integers(0, 300))
    def put(self, key: str, ttl: float | None, length: int) -> None:
        self.serial += 1
        now = self.clock()
        entry = entry_of(
            [key, self.serial, "x" * length],
            stored_at=now,
            expires_at=None if ttl is None else now + ttl,
        )
        removed = self.store.put(key, entry)
        self.model.pop(key, None)
        self.model[key] = entry
        if removed.evicted or removed.expired or not self.ordered:
            self.account_for_removals(removed.evicted + removed.expired)
        assert self.store.size() == len(self.model)
        assert self.bounds["max_size"] is None or len(self.model) <= self.bounds["max_size"]

    @rule(several=st.lists(keys, min_size=1, max_size=4))
    def get(self, several: list[str]) -> None:
        for key in several:
            entry = self.store.get(key)
            expected = self.model.get(key)
            if expected is None:
                assert entry is None
            elif entry is None:
                assert not self.ordered
                assert self.expired(key)
                del self.model[key]
            else:
                assert_same(entry, expected)
                self.model.move_to_end(key)

    @rule(key=keys, version=st.sampled_from(["any", "this", "other"]))
    def delete(self, key: str, version: str) -> None:
        expected = self.model.get(key)
        stored_at = (
            None
            if version == "any"
            else (expected.stored_at if expected else 1.0) + (version == "other")
        )
        deleted = self.store.delete(key, stored_at=stored_at)
        assert deleted == (expected is not None and version != "other") or (
            not self.ordered and self.expired(key)
        )
        if expected is not None and version != "other":
            del self.model[key]

    @rule(prefix=st.sampled_from(PREFIXES))
    def clear(self, prefix: str) -> None:
        count = self.store.clear(prefix)
        matching = [key for key in self.model if key.startswith(prefix)]
        assert count == len(matching) or not self.ordered
        for key in matching:
            del self.model[key]

    @rule()
    def purge(self) -> None:
        expired = [key for key in self.model if self.expired(key)]
        assert self.store.purge() == len(expired) or not self.ordered
        for key in expired:
            del self.model[key]

    @rule(prefix=st.sampled_from(PREFIXES))
    def look(self, prefix: str) -> None:
        listed = list(self.store.entries(prefix))
        expected = [(key, entry) for key, entry in self.model.items() if key.startswith(prefix)]
        if self.by_key:
            expected.sort(key=lambda pair: pair[0])
        if not self.ordered:
            listed = sorted(listed, key=lambda pair: pair[0])
            expected = sorted((key, entry) for key, entry in expected if not self.expired(key))
        assert [key for key, _ in listed] == [key for key, _ in expected]
        for (_, entry), (_, wanted) in zip(listed, expected, strict=True):
            assert_same(entry, wanted)
        assert self.store.size(prefix) == len(expected)

    @rule(seconds=st.sampled_from([0.5, 1.0, 30.0, 3600.0, 86400.0, -1.0, -3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.persistent)
    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open_store(clock=self.clock, **self.bounds)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.look("")
            self.store.close()

    def expired(self, key: str) -> bool:
        entry = self.model.get(key)
        return (
            entry is not None and entry.expires_at is not None and entry.expires_at <= self.clock()
        )

    def account_for_removals(self, count: int) -> None:
        """What a put removed must have expired, or have been the least recently used of what had
        not, and no more than needed."""
        held = {key for key, _ in self.store.entries()}
        assert held <= set(self.model)
        gone = [key for key in self.model if key not in held]
        alive = [key for key in self.model if not self.expired(key)]
        gone_alive = [key for key in gone if not self.expired(key)]
        if self.ordered:
            assert len(gone) == count
            assert gone_alive == alive[: len(gone_alive)]
            if self.bounds["max_bytes"] is None:
                assert len(gone_alive) <= max(
                    0, len(self.model) - (self.bounds["max_size"] or len(self.model))
                )
        else:
            assert gone_alive == []
        for key in gone:
            del self.model[key]


def assert_same(entry: Any, expected: Entry) -> None:
    assert value_of(entry) == value_of(expected)
    assert (entry.stored_at, entry.expires_at) == (expected.stored_at, expected.expires_at)
