"""LlamaIndex's instrumentation tags are tags of the cache."""

from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.llms import MockLLM
from llama_index_llm_cache_mem import CachedLLM

from llm_cache_mem import LLMCache, options


def test_calls_count_for_the_instrumentation_tags_around_them():
    cache = LLMCache()
    llm = CachedLLM(MockLLM(max_tokens=3), cache)
    with options(tags={"env": "test"}), instrument_tags({"team": "search", "run": object()}):
        for _ in range(2):
            llm.complete("hello")
    by_tag = cache.stats().by_tag
    assert set(by_tag) == {"team=search", "env=test"}
    assert (by_tag["team=search"].hits, by_tag["team=search"].misses) == (1, 1)
    ((_, entry),) = cache.engine.entries()
    assert entry.tags == ("env=test", "team=search")
