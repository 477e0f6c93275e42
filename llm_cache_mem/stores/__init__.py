"""Stores: the protocol, its implementations, and how a URL or a path becomes one."""

from llm_cache_mem.stores.base import Removed, Store, StoreSettings
from llm_cache_mem.stores.memory import MemoryStore
from llm_cache_mem.stores.urls import Backend, Opened, open_store

__all__ = ["Backend", "MemoryStore", "Opened", "Removed", "Store", "StoreSettings", "open_store"]
