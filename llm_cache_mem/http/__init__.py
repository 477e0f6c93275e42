"""A cache under the HTTP client of a provider's SDK: httpx and httpx2, sync and async, streaming or
not."""

from llm_cache_mem.http.clients import cache_client
from llm_cache_mem.http.transport import AsyncCacheTransport, CacheTransport

__all__ = ["AsyncCacheTransport", "CacheTransport", "cache_client"]
