"""LlamaIndex through llm-cache-mem: wrap one LLM, or every LLM of the process, and the same call is
paid for once."""

try:
    import llama_index.core  # noqa: F401
except ModuleNotFoundError as exc:
    if exc.name not in (
        "llama_index",
        "llama_index.core",
    ):  # installed but broken: let that error speak
        raise
    raise ImportError(
        "llama_index_llm_cache_mem needs llama-index-core: pip install"
        " 'llm-cache-mem[llama-index]'",
        name="llama_index.core",
    ) from None

from llama_index_llm_cache_mem.base import CachedLLM, cache_of, uncached
from llama_index_llm_cache_mem.cached_tool import cached_tool
from llama_index_llm_cache_mem.embeddings import CachedEmbedding
from llama_index_llm_cache_mem.globals import get_llm_cache, set_llm_cache
from llama_index_llm_cache_mem.messages import message_to_dict
from llama_index_llm_cache_mem.prompt_cache import PromptCacheHandler

__all__ = [
    "CachedEmbedding",
    "CachedLLM",
    "PromptCacheHandler",
    "cache_of",
    "cached_tool",
    "get_llm_cache",
    "message_to_dict",
    "set_llm_cache",
    "uncached",
]
