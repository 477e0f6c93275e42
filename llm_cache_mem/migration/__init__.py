"""Bring answers along from other caches and recordings, by asking a cache for each request with the
recorded answer in the provider's place."""

from llm_cache_mem.migration.sources import SOURCES, Moved, Skipped, move

__all__ = ["SOURCES", "Moved", "Skipped", "move"]
