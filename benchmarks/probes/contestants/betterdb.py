"""BetterDB's agent cache: what to look up and to store is for the program, its key is the adapter's
for the openai SDK."""

import os
from typing import Any

os.environ["BETTERDB_TELEMETRY"] = "false"  # it would report to its vendor

from betterdb_agent_cache import AgentCache
from betterdb_agent_cache.adapters.openai import prepare_params
from betterdb_agent_cache.types import AgentCacheOptions
from valkey.asyncio import Valkey

from benchmarks.probes.contestant import Cannot, Looped
from benchmarks.probes.contestants.functions import FunctionPeer

__all__ = ["BetterDB"]


class BetterDB(Looped, FunctionPeer):
    name = "BetterDB agent-cache"
    configured = (
        "`AgentCache(AgentCacheOptions(client=Valkey(...)))`, `llm.check` and `llm.store` "
        "with what `prepare_params` of its openai adapter makes, without its telemetry"
    )
    general = True  # the program stores what it finds worth it
    shared = "server"
    expires = namespaced = True
    packages = ("betterdb-agent-cache", "valkey")

    def prepare(self) -> None:
        port = self.bench.redis_port()
        self.bench.run(self._open(port))

    async def _open(self, port: int) -> None:
        self.client = Valkey(port=port)
        settings: dict[str, Any] = {"name": self.namespace} if self.namespace else {}
        self.cache = AgentCache(
            AgentCacheOptions(
                client=self.client,
                default_ttl=None if self.ttl is None else int(self.ttl),
                **settings,
            )
        )

    async def aask(self, **request: Any) -> Any:
        params = await prepare_params(request)
        found = await self.cache.llm.check(params)
        if found.hit:
            return found.response
        answer = await self.acall(**request)
        text = answer["choices"][0]["message"]["content"]
        await self.cache.llm.store(params, text)
        return text

    def text(self, answer: Any) -> Any:
        return answer

    def spoil(self, answer: Any) -> None:
        raise Cannot("answers with a text, which nobody can change")

    def close(self) -> None:
        self.bench.run(self._close())

    async def _close(self) -> None:
        await self.cache.shutdown()
        await self.client.aclose()
