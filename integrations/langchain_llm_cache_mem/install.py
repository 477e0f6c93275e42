"""Cache every LangChain model of the process: what the entry point of this package refers to."""

from collections.abc import Callable

from langchain_core.globals import get_llm_cache, set_llm_cache

from langchain_llm_cache_mem.cache import LLMCacheMem
from llm_cache_mem import LLMCache

__all__ = ["install"]


def install(cache: LLMCache) -> Callable[[], object]:
    """Answer every LangChain model from *cache*; returns a function that restores the cache that
    was set before."""
    before = get_llm_cache()
    set_llm_cache(LLMCacheMem(cache))
    return lambda: set_llm_cache(before)
