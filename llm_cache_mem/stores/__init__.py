"""Where entries live: the Store protocol, its implementations, and how a URL or a path becomes
one."""

from llm_cache_mem.stores.base import Removed, Store
from llm_cache_mem.stores.memory import MemoryStore
from llm_cache_mem.stores.urls import Backend, Opened, open_store, sqlite_path

__all__ = ["Backend", "MemoryStore", "Opened", "Removed", "Store", "open_store", "sqlite_path"]
