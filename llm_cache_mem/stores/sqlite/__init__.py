"""A store in a SQLite file."""

from llm_cache_mem.stores.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
