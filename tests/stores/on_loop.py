"""What a store or a cache does for the tasks of an event loop, behind the methods that threads
call, so that the tests of these hold for both."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from llm_cache_mem import LLMCache
from llm_cache_mem.values.entry import Entry

__all__ = ["CacheOnLoop", "Loop", "StoreOnLoop"]

SECONDS = 120.0


class Loop:
    """An event loop in a thread of its own; a forked child makes another for each call."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, Any]) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.start(work).result(SECONDS) if self._pid == os.getpid() else asyncio.run(work)

    def close(self) -> None:
        if self._pid == os.getpid() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


class StoreOnLoop:
    """*store*, but ``get`` is its ``aget``, in a task."""

    def __init__(self, store: Any) -> None:
        assert store.reads_on_loop
        self._store = store
        self._on = Loop()

    def get(self, key: str) -> Entry | None:
        return self._on.run(self._store.aget(key))  # type: ignore[no-any-return]

    def close(self) -> None:
        self._store.close()
        self._on.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class CacheOnLoop:
    """*cache*, but ``get_or_call`` is its ``aget_or_call``, in a task."""

    def __init__(self, cache: LLMCache) -> None:
        self.inner = cache
        self.loop = Loop()

    def get_or_call(self, messages: Any, fn: Callable[[Any], Any]) -> Any:
        async def call(messages: Any) -> Any:
            return fn(messages)

        return self.loop.run(self.inner.aget_or_call(messages, call))

    def close(self) -> None:
        self.inner.close()
        self.loop.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
