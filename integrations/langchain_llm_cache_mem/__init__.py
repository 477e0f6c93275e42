"""LangChain's models behind llm-cache-mem: ``set_llm_cache(LLMCacheMem())`` for all of them,
``cached(model, cache)`` for one."""

try:
    import langchain_core  # noqa: F401
except ModuleNotFoundError as exc:
    if exc.name != "langchain_core":  # installed but broken: let that error speak
        raise
    raise ImportError(
        "LangChain's cache needs langchain-core: pip install 'llm-cache-mem[langchain]'",
        name="langchain_core",
    ) from None

from langchain_llm_cache_mem.cache import LLMCacheMem
from langchain_llm_cache_mem.cached_tool import cached_tool
from langchain_llm_cache_mem.model import cached
from langchain_llm_cache_mem.prompt_cache import PromptCacheCallback

__all__ = ["LLMCacheMem", "PromptCacheCallback", "cached", "cached_tool"]
