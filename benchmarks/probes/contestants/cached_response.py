"""cached-response: its decorator for functions that call a model, on its SQLite file."""

from typing import Any

from cached_response import cached_llm_response

from benchmarks.probes.contestants.functions import FunctionPeer, of_function

__all__ = ["CachedResponse"]


class CachedResponse(FunctionPeer):
    name = "cached-response"
    configured = (
        '`@cached_llm_response(mode="conservative", path=..., min_words=0)`; `refresh_start` and'
        " `refresh_force` for the time to live"
    )
    general = True
    shared = "file"
    expires = namespaced = True
    packages = ("cached-response",)

    def prepare(self) -> None:
        settings: dict[str, Any] = {
            "mode": "conservative",
            "path": self.folder / "answers.sqlite3",
            "min_words": 0,
        }
        if self.ttl is not None:
            settings.update(refresh_start=0.99 * self.ttl, refresh_force=self.ttl)
        if self.namespace:
            settings["namespace"] = self.namespace

        @cached_llm_response(**settings)
        def complete_(**request: Any) -> dict[str, Any]:
            return self.call(**request)

        @cached_llm_response(**settings)
        async def acomplete_(**request: Any) -> dict[str, Any]:
            return await self.acall(**request)

        self.wrapped, self.awrapped = complete_, acomplete_

    def ask(self, **request: Any) -> Any:
        return self.wrapped(**of_function(request))

    async def aask(self, **request: Any) -> Any:
        return await self.awrapped(**of_function(request))
