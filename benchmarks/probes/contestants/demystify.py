"""demystify-platform-cache: its exact cache behind its single-flight, put together as its parts are
meant to be."""

from typing import Any

from demystify_platform_cache import MemoryExactCache, SingleFlight, exact_key

from benchmarks.probes.contestant import Cannot, Looped
from benchmarks.probes.contestants.functions import FunctionPeer, completion

__all__ = ["Demystify"]


class Demystify(Looped, FunctionPeer):
    name = "demystify"
    configured = '`SingleFlight` around `MemoryExactCache`, `exact_key("v1", request)`'
    general = True
    bounded = expires = namespaced = True
    packages = ("demystify-platform-cache",)

    def prepare(self) -> None:
        bound = {} if self.max_size is None else {"max_entries_per_namespace": self.max_size}
        self.cache: Any = MemoryExactCache(**bound)
        self.flights = SingleFlight()

    async def aask(self, **request: Any) -> Any:
        if "api_key" in request or "timeout" in request:
            raise Cannot("which arguments count is for the caller to say")
        key, space = exact_key("v1", request), self.namespace or "answers"
        entry = await self.cache.get(space, key)
        if entry is not None:
            return entry.value

        async def miss() -> Any:
            answer = await self.acall(**request)
            await self.cache.set(space, key, answer, ttl_ms=self.ttl and self.ttl * 1000)
            return answer

        return (await self.flights.do(f"{space}:{key}", miss)).value

    def replace(self, texts: list[str], **request: Any) -> None:
        self.needs_the_loop()
        self.bench.run(
            self.cache.set(self.namespace or "answers", exact_key("v1", request), completion(texts))
        )
