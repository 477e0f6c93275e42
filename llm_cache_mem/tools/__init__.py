"""Tool results: a tool of which somebody said so is run once for the same arguments, until they are
too old or something changed."""

from llm_cache_mem.tools.cache import ToolCache
from llm_cache_mem.tools.counters import ToolCacheStats, ToolStats
from llm_cache_mem.tools.rules import Rule
from llm_cache_mem.tools.sessions import CachedSession

__all__ = ["CachedSession", "Rule", "ToolCache", "ToolCacheStats", "ToolStats"]
