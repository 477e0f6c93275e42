"""Tool results: opt-in caching per tool, with lifetimes and invalidation by tool and entity."""

from llm_cache_mem.tools.cache import ToolCache
from llm_cache_mem.tools.counters import ToolCacheStats, ToolStats
from llm_cache_mem.tools.rules import Rule
from llm_cache_mem.tools.sessions import CachedSession

__all__ = ["CachedSession", "Rule", "ToolCache", "ToolCacheStats", "ToolStats"]
