"""This library, by ``get_or_call`` around a function that calls the provider."""

from collections.abc import Iterator
from typing import Any

from benchmarks.probes.contestants.functions import FunctionPeer, completion
from llm_cache_mem import LLMCache

__all__ = ["Memory", "Redis", "SQLite"]


class Memory(FunctionPeer):
    name = "llm-cache-mem"
    configured = "`LLMCache()`, `get_or_call`"
    bounded = expires = namespaced = True
    packages = ("llm-cache-mem",)

    def backend(self) -> str:
        return "memory"

    def prepare(self) -> None:
        settings: dict[str, Any] = {} if self.max_size is None else {"max_size": self.max_size}
        if self.ttl is not None:
            settings["ttl_seconds"] = self.ttl
        self.cache = LLMCache(
            backend=self.backend(), namespace=self.namespace, clock=self.bench.clock, **settings
        )

    def ask(self, **request: Any) -> Any:
        return self.cache.get_or_call(request.pop("messages"), self.call, **request)

    async def aask(self, **request: Any) -> Any:
        return await self.cache.aget_or_call(request.pop("messages"), self.acall, **request)

    def stream(self, **request: Any) -> Iterator[str]:
        return self.cache.get_or_call(request.pop("messages"), self.pieces, stream=True, **request)

    def replace(self, texts: list[str], **request: Any) -> None:
        self.cache.put(request.pop("messages"), completion(texts), **request)

    def close(self) -> None:
        self.cache.close()


class SQLite(Memory):
    name = "llm-cache-mem, SQLite"
    configured = '`LLMCache(backend="sqlite:///...")`, `get_or_call`'
    shared = "file"

    def backend(self) -> str:
        return f"sqlite:///{self.folder / 'answers.db'}"


class Redis(Memory):
    name = "llm-cache-mem, Redis"
    configured = '`LLMCache(backend="redis://...")`, `get_or_call`'
    shared = "server"
    bounded = False
    packages = ("llm-cache-mem", "redis")

    def backend(self) -> str:
        return f"redis://127.0.0.1:{self.bench.redis_port()}/0"
