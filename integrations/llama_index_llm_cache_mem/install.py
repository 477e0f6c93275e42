"""Cache every LlamaIndex LLM of the process: what the entry point of this package refers to."""

from collections.abc import Callable

from llama_index_llm_cache_mem.globals import set_llm_cache
from llm_cache_mem import LLMCache

__all__ = ["install"]


def install(cache: LLMCache) -> Callable[[], object]:
    """Answer every LlamaIndex LLM from *cache*; returns a function that restores what was set
    before."""
    switch = set_llm_cache(cache)
    return lambda: switch.__exit__(None, None, None)
