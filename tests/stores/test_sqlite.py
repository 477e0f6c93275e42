"""SQLiteStore as a store: what all of them do, the model, a history of many threads, and what is its own."""

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from stores.conformance import MakeStore, StoreConformance, entry_of, value_of
from stores.history import record, violations
from stores.model import StoreMachine

from llm_cache_mem.stores.sqlite import SQLiteStore


class TestConformance(StoreConformance):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Iterator[MakeStore]:
        made: list[SQLiteStore] = []

        def make(**options: Any) -> SQLiteStore:
            made.append(SQLiteStore(tmp_path / f"{len(made)}.db", **options))
            return made[-1]

        yield make
        for store in made:
            store.close()


class SQLiteMachine(StoreMachine):
    persistent = True

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()

    def open_store(self, *, clock: Callable[[], float], max_size: int | None, max_bytes: int | None) -> SQLiteStore:
        return SQLiteStore(Path(self.folder.name, "cache.db"), clock=clock, max_size=max_size, max_bytes=max_bytes)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.folder.cleanup()


TestModel = SQLiteMachine.TestCase
TestModel.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


def test_what_32_threads_saw_could_have_happened(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    store = SQLiteStore(tmp_path / "c.db", lock_timeout=10)
    history = record(store, threads=32, calls=100_000, seconds=10, seed=seed)
    store.close()
    print(f"{len(history)} calls")
    assert violations(history) == []
    assert len(history) > 1_000
