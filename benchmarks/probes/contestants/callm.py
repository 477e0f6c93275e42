"""callm around a function that calls the openai SDK."""

from collections.abc import Iterator
from typing import Any

import openai
from callm import CacheConfig, callm, configure

from benchmarks.probes.contestant import OfObjects

__all__ = ["Callm"]


class Callm(OfObjects):
    name = "callm"
    configured = (
        "`@callm(cache=CacheConfig(...))` around a function that calls the openai SDK,"
        " `configure(home=folder)`"
    )
    shared = "file"
    expires = namespaced = True
    packages = ("callm-toolkit", "openai")

    def prepare(self) -> None:
        configure(home=self.folder / "callm")
        cache = CacheConfig(
            ttl=self.ttl, **({"namespace": self.namespace} if self.namespace else {})
        )

        @callm(cache=cache)
        def call(**request: Any) -> Any:
            return self._client(openai.OpenAI, request).chat.completions.create(**request)

        @callm(cache=cache)
        async def acall(**request: Any) -> Any:
            return await self._client(openai.AsyncOpenAI, request).chat.completions.create(
                **request
            )

        self.call, self.acall = call, acall
        self.clients: dict[tuple[Any, str, str], Any] = {}

    def _client(self, kind: Any, request: dict[str, Any]) -> Any:
        """One for each address and API key, as programs have."""
        address = request.pop("base_url", self.base_url), request.pop("api_key", "sk-probe")
        if (kind, *address) not in self.clients:
            self.clients[kind, *address] = kind(
                base_url=address[0], api_key=address[1], max_retries=0
            )
        return self.clients[kind, *address]

    def ask(self, **request: Any) -> Any:
        return self.call(**request)

    async def aask(self, **request: Any) -> Any:
        return await self.acall(**request)

    def stream(self, **request: Any) -> Iterator[str]:
        for chunk in self.call(**request, stream=True):
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text
