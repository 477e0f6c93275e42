"""LLMCacheMem(fallback=...): answers of another LangChain cache are taken over as they are asked for."""

import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListChatModel
from langchain_llm_cache_mem import LLMCacheMem

from llm_cache_mem import CacheMissError, LLMCache, options
from llm_cache_mem.stores.sqlite import SQLiteStore


def model(cache: object) -> FakeListChatModel:
    return FakeListChatModel(responses=["new"], cache=cache)


@pytest.fixture
def old() -> InMemoryCache:
    """A cache of LangChain's with one answer."""
    cache = InMemoryCache()
    asked = FakeListChatModel(responses=["old"], cache=cache)
    asked.invoke("hi")
    (prompt, _), found = next(iter(cache._cache.items()))
    _, llm_string = _strings(model(cache), "hi")
    cache.update(prompt, llm_string, found)  # as if the model of today had asked
    return cache


def _strings(asked: FakeListChatModel, text: str) -> tuple[str, str]:
    class Seen(InMemoryCache):
        def lookup(self, prompt: str, llm_string: str) -> None:
            self.strings = (prompt, llm_string)

    seen = Seen()
    asked.model_copy(update={"cache": seen}).invoke(text)
    return seen.strings


def test_an_answer_is_taken_over_once(old: InMemoryCache) -> None:
    cache = LLMCacheMem(LLMCache(), fallback=old)
    assert model(cache).invoke("hi").content == "old"
    old.clear()
    assert model(cache).invoke("hi").content == "old"
    assert (cache.stats().hits, cache.stats().misses, cache.stats().stored) == (2, 0, 1)


async def test_async_calls_take_over_too(old: InMemoryCache) -> None:
    cache = LLMCacheMem(LLMCache(), fallback=old)
    assert (await model(cache).ainvoke("hi")).content == "old"
    assert cache.stats().hits == 1


def test_a_request_missing_in_the_fallback_is_called(old: InMemoryCache) -> None:
    cache = LLMCacheMem(LLMCache(), fallback=old)
    assert model(cache).invoke("another").content == "new"
    assert cache.stats().misses == 1


def test_a_failing_fallback_fails_no_call() -> None:
    class Broken(InMemoryCache):
        def lookup(self, prompt: str, llm_string: str) -> None:
            raise OSError("gone")

    cache = LLMCacheMem(LLMCache(), fallback=Broken())
    assert [model(cache).invoke("hi").content for _ in range(2)] == ["new", "new"]
    assert (cache.stats().hits, cache.stats().errors, cache.stats().skipped) == (1, 1, {})


@pytest.mark.parametrize("asked", [{"namespace": "b"}, {"sample": 1}, {"depends_on": ["doc:1"]}])
def test_only_plain_calls_take_over(old: InMemoryCache, asked: Any) -> None:
    cache = LLMCacheMem(LLMCache(namespace="a"), fallback=old)
    with options(**asked):
        assert model(cache).invoke("hi").content == "new"


def test_scopes_and_tenants_take_nothing_over(old: InMemoryCache) -> None:
    cache = LLMCacheMem(fallback=old, namespace_from=lambda config: config["metadata"]["user"])
    user = {"metadata": {"user": "bob"}}
    assert model(cache).invoke("hi", config=user).content == "new"
    assert model(LLMCacheMem(fallback=old).scoped("b")).invoke("hi").content == "new"


@pytest.mark.parametrize("mode", ["refresh", "off"])
def test_nothing_is_taken_over_in_other_modes(old: InMemoryCache, mode: Any) -> None:
    cache = LLMCacheMem(fallback=old)
    with options(mode=mode):
        assert model(cache).invoke("hi").content == "new"
    assert cache.stats().hits == 0


def test_replay_takes_nothing_over(old: InMemoryCache) -> None:
    with pytest.raises(CacheMissError), options(mode="replay"):
        model(LLMCacheMem(fallback=old)).invoke("hi")


def test_an_expired_answer_does_not_come_back(old: InMemoryCache) -> None:
    now = [1e9]
    shared = LLMCache(ttl_seconds=60, clock=lambda: now[0])
    cache = LLMCacheMem(shared, fallback=old)
    assert model(cache).invoke("hi").content == "old"
    now[0] += 61
    again = LLMCacheMem(shared, fallback=old)  # as another process would
    assert [model(each).invoke("hi").content for each in (again, cache)] == ["new", "new"]
    shared.clear()
    assert model(cache).invoke("hi").content == "new"


async def test_a_cleared_answer_does_not_come_back(old: InMemoryCache) -> None:
    cache = LLMCacheMem(fallback=old)
    cache.clear()
    assert model(cache).invoke("hi").content == "new"
    cache = LLMCacheMem(fallback=old)
    await cache.aclear()
    assert (await model(cache).ainvoke("hi")).content == "new"
    below = LLMCache()
    cache = LLMCacheMem(below, fallback=old)
    below.clear()
    assert model(cache).invoke("hi").content == "new"


async def test_async_calls_leave_the_store_to_a_thread(old: InMemoryCache, tmp_path: Path) -> None:
    threads = set()

    class Watched(SQLiteStore):
        def get(self, key: str) -> Any:
            threads.add(threading.current_thread())
            return super().get(key)

        def put(self, key: str, entry: Any) -> Any:
            threads.add(threading.current_thread())
            return super().put(key, entry)

    with LLMCache(backend=Watched(tmp_path / "cache.db")) as shared:
        cache = LLMCacheMem(shared, fallback=old)
        assert (await model(cache).ainvoke("hi")).content == "old"
    assert threads
    assert threading.main_thread() not in threads


def test_an_answer_taken_over_is_no_paid_call(old: InMemoryCache) -> None:
    shared, paid = LLMCache(), []
    shared.engine.writer.billing.listen(lambda *call: paid.append(call))
    assert model(LLMCacheMem(shared, fallback=old)).invoke("hi").content == "old"
    assert not paid


def test_an_empty_answer_is_not_taken_over(old: InMemoryCache) -> None:
    for found in old._cache.values():
        found[0].message.content = found[0].text = ""
    cache = LLMCacheMem(fallback=old)
    assert model(cache).invoke("hi").content == "new"
    assert sum(cache.stats().skipped.values()) == 1


def test_a_fallback_has_to_be_a_langchain_cache() -> None:
    with pytest.raises(TypeError, match="BaseCache"):
        LLMCacheMem(fallback=object())  # type: ignore[arg-type]
