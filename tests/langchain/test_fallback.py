"""LLMCacheMem(fallback=...): answers of another LangChain cache are taken over as they are asked for."""

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListChatModel
from langchain_llm_cache_mem import LLMCacheMem

from llm_cache_mem import LLMCache


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

    assert model(LLMCacheMem(LLMCache(), fallback=Broken())).invoke("hi").content == "new"


def test_a_fallback_has_to_be_a_langchain_cache() -> None:
    with pytest.raises(TypeError, match="BaseCache"):
        LLMCacheMem(fallback=object())  # type: ignore[arg-type]
