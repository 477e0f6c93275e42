"""The exact-match cache in front of every LLM call: the same request is answered once and paid for once."""

from typing import TYPE_CHECKING, Any

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine import Hit
from llm_cache_mem.errors import (
    CacheMissError,
    LLMCacheError,
    RequestNotCacheable,
    StoreError,
    ValueNotCacheable,
)
from llm_cache_mem.keys import ignoring, last_turn, masking
from llm_cache_mem.options import options
from llm_cache_mem.pricing import Price
from llm_cache_mem.request import Request
from llm_cache_mem.stores import MemoryStore, Store

if TYPE_CHECKING:  # loaded when first asked for, below
    from llm_cache_mem.codec_classes import register
    from llm_cache_mem.stats import CacheStats, Event, ModelStats, Saving
    from llm_cache_mem.stats_provider import ProviderCacheStats

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
    "Request",
    "RequestNotCacheable",
    "Saving",
    "Store",
    "StoreError",
    "ValueNotCacheable",
    "ignoring",
    "last_turn",
    "masking",
    "options",
    "register",
]
__version__ = "0.1.0"

_LATER = {
    **dict.fromkeys(("CacheStats", "Event", "ModelStats", "Saving"), "stats"),
    "ProviderCacheStats": "stats_provider",
    "register": "codec_classes",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    from importlib import import_module

    globals()[name] = found = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext llm_cache_mem``: the magics %llm_cache and %%llm_cache."""
    from llm_cache_mem.notebook import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext llm_cache_mem``."""
    from llm_cache_mem.notebook import unload

    unload(shell)
