"""The one place of the library that knows the integrations: a cache for every model of a framework,
and back again."""

import sys
from collections.abc import Callable
from typing import Final

from llm_cache_mem.cache import LLMCache

__all__ = ["FRAMEWORKS", "install", "is_imported"]


def _langchain(cache: LLMCache) -> Callable[[], object]:
    from langchain_core.globals import get_llm_cache, set_llm_cache
    from langchain_llm_cache_mem import LLMCacheMem

    before = get_llm_cache()
    set_llm_cache(LLMCacheMem(cache))
    return lambda: set_llm_cache(before)


def _llama_index(cache: LLMCache) -> Callable[[], object]:
    from llama_index_llm_cache_mem import set_llm_cache

    switch = set_llm_cache(cache)
    return lambda: switch.__exit__(None, None, None)


FRAMEWORKS: Final = {"langchain": "langchain_core", "llama_index": "llama_index.core"}
"""The frameworks by name, with the module that tells whether one is there."""

_PUT_IN: Final = {"langchain": _langchain, "llama_index": _llama_index}


def is_imported(framework: str) -> bool:
    """Whether the program has imported *framework*."""
    return FRAMEWORKS[framework] in sys.modules


def install(cache: LLMCache, framework: str) -> Callable[[], object] | None:
    """Answer every model of *framework* from *cache*; what puts back what was set before. None if
    it is not installed."""
    try:
        return _PUT_IN[framework](cache)
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != FRAMEWORKS[framework].partition(".")[
            0
        ]:  # installed but broken: let that error speak
            raise
        return None
