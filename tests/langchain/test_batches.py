"""How often a batch of prompts asks the store: once to read and once to write, where LangChain lets
the cache see the batch."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListLLM
from langchain_llm_cache_mem import LLMCacheMem, cached

from llm_cache_mem import LLMCache
from llm_cache_mem.stores import Removed
from llm_cache_mem.stores.sqlite import SQLiteStore
from llm_cache_mem.values.entry import Entry

PROMPTS = [f"prompt {number}" for number in range(20)]


class Counting(SQLiteStore):
    """Notes each round trip."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.trips: list[str] = []

    def get(self, key: str) -> Entry | None:
        self.trips.append("get")
        return super().get(key)

    def put(self, key: str, entry: Entry) -> Removed:
        self.trips.append("put")
        return super().put(key, entry)

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        self.trips.append(f"get {len(keys)}")
        return super().get_many(keys)

    def put_many(self, entries: Mapping[str, Entry]) -> Removed:
        self.trips.append(f"put {len(entries)}")
        return super().put_many(entries)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Counting]:
    store = Counting(tmp_path / "cache.db")
    yield store
    store.close()


WAYS: dict[str, Callable[[Any], Any]] = {
    "batch": lambda model: model.batch(PROMPTS),
    "abatch": lambda model: asyncio.run(model.abatch(PROMPTS)),
    "generate": lambda model: [each[0].text for each in model.generate(PROMPTS).generations],
}


def model() -> FakeListLLM:
    return FakeListLLM(responses=[f"answer {number}" for number in range(20)])


@pytest.mark.parametrize("way", WAYS)
def test_a_wrapped_llm_asks_the_store_once_for_a_batch(store: Counting, way: str) -> None:
    llm = cached(model(), LLMCache(backend=store))
    answers = WAYS[way](llm)
    assert store.trips == ["get 20", "put 20"]
    store.trips.clear()
    assert WAYS[way](llm) == answers
    assert store.trips == ["get 20"]


def test_through_langchains_own_interface_prompts_come_one_by_one(store: Counting) -> None:
    """BaseCache has no call for several prompts: that many round trips are LangChain's."""
    llm = model()
    llm.cache = LLMCacheMem(LLMCache(backend=store))
    answers = llm.batch(PROMPTS)
    assert store.trips == ["get"] * 20 + ["put"] * 20
    assert llm.batch(PROMPTS) == answers
