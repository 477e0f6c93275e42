"""LangChain's own test suites for caches, over memory and SQLite."""

from collections.abc import Callable

import pytest
from langchain_core.caches import BaseCache
from langchain_llm_cache_mem import LLMCacheMem
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite


class TestSync(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, make_cache: Callable[..., LLMCacheMem]) -> BaseCache:
        return make_cache()


class TestAsync(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, make_cache: Callable[..., LLMCacheMem]) -> BaseCache:
        return make_cache()
