"""A store on Redis or Valkey."""

from llm_cache_mem.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
