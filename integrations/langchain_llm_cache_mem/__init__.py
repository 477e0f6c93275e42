"""LangChain's models behind llm-cache-mem."""

from langchain_llm_cache_mem.cache import LLMCacheMem

__all__ = ["LLMCacheMem"]
