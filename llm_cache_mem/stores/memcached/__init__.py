"""A store on Memcached."""

from llm_cache_mem.stores.memcached.store import MemcachedStore

__all__ = ["MemcachedStore"]
