"""LangChain's models behind llm-cache-mem: ``set_llm_cache(LLMCacheMem())`` for all of them, ``cached(model, cache)`` for one."""

from langchain_llm_cache_mem.cache import LLMCacheMem
from langchain_llm_cache_mem.model import cached

__all__ = ["LLMCacheMem", "cached"]
