"""The exact-match cache in front of every LLM call: the same request is answered once and paid for
once."""

from typing import Any

from llm_cache_mem._util import compiled
from llm_cache_mem.accounting.pricing import Price
from llm_cache_mem.accounting.provider import ProviderCacheStats
from llm_cache_mem.accounting.stats import CacheStats, Event, ModelStats, Saving, TagStats
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.reader import Hit
from llm_cache_mem.errors import (
    CacheMissError,
    LLMCacheError,
    RequestNotCacheable,
    StoreError,
    ValueNotCacheable,
)
from llm_cache_mem.installation import install, installed, uninstall
from llm_cache_mem.keys.call_ids import stable_ids
from llm_cache_mem.keys.folding import folding
from llm_cache_mem.keys.functions import compose, ignoring, last_turn, masking
from llm_cache_mem.keys.request import Request
from llm_cache_mem.options import options
from llm_cache_mem.responses.usage import Report, Usage
from llm_cache_mem.stores import MemoryStore, Store
from llm_cache_mem.values.classes import register

__all__ = [
    "CacheMissError",
    "CacheStats",
    "Event",
    "Hit",
    "LLMCache",
    "LLMCacheError",
    "MemoryStore",
    "ModelStats",
    "Price",
    "ProviderCacheStats",
    "Report",
    "Request",
    "RequestNotCacheable",
    "Saving",
    "Store",
    "StoreError",
    "TagStats",
    "Usage",
    "ValueNotCacheable",
    "compose",
    "folding",
    "ignoring",
    "install",
    "installed",
    "last_turn",
    "masking",
    "options",
    "register",
    "speedups",
    "stable_ids",
    "uninstall",
]
__version__ = "0.1.0"
speedups: bool = compiled.speedups is not None
"""Whether the compiled part is in use: it was built, and LLM_CACHE_MEM_NO_SPEEDUPS is not set."""


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext llm_cache_mem``: the magics %llm_cache and %%llm_cache."""
    from llm_cache_mem.notebook import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext llm_cache_mem``."""
    from llm_cache_mem.notebook import unload

    unload(shell)
