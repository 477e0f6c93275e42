"""agenticstack-cache around AgenticStack's provider for OpenAI."""

from collections.abc import AsyncGenerator
from typing import Any

from agenticstack.providers.base import Message, ProviderConfig, ToolCall, ToolDefinition
from agenticstack.providers.openai import OpenAIProvider
from agenticstack_cache import CachedProvider, SQLiteCache

from benchmarks.probes.contestant import Cannot, Looped, OfTexts

__all__ = ["AgenticStack"]

CONFIG = {
    "top_p",
    "max_tokens",
    "timeout",
}  # what its configuration has; the rest is given with the call


class AgenticStack(Looped, OfTexts):
    name = "agenticstack-cache"
    configured = "`CachedProvider(OpenAIProvider(...), cache=SQLiteCache(path, ttl=...))`"
    shared = "file"
    expires = True
    packages = ("agenticstack-cache", "agenticstack")

    def prepare(self) -> None:
        self.cache = SQLiteCache(str(self.folder / "agenticstack.db"), ttl=self.ttl)

    def _parts(
        self, request: dict[str, Any]
    ) -> tuple[Any, list[Message], list[ToolDefinition] | None, dict[str, Any]]:
        config: dict[str, Any] = {name: request.pop(name) for name in CONFIG & request.keys()}
        stop = request.pop("stop", None)
        config["stop"] = [stop] if isinstance(stop, str) else stop
        config["api_base"] = request.pop("base_url", self.base_url)
        config["api_key"] = request.pop("api_key", "sk-probe")
        provider = OpenAIProvider(
            ProviderConfig(model=request.pop("model"), max_retries=0, **config)
        )
        messages = [_message(each) for each in request.pop("messages")]
        tools = [ToolDefinition(**each["function"]) for each in request.pop("tools", ())]
        return CachedProvider(provider, cache=self.cache), messages, tools or None, request

    async def aask(self, **request: Any) -> Any:
        provider, messages, tools, rest = self._parts(request)
        return await provider.generate(messages, tools=tools, **rest)

    async def astream(self, **request: Any) -> AsyncGenerator[str]:
        provider, messages, tools, rest = self._parts(request)
        async for piece in provider.generate_stream(messages, tools=tools, **rest):
            yield piece

    def close(self) -> None:
        self.cache.close()


def _message(each: Any) -> Message:
    if not isinstance(each, dict):
        raise Cannot("has message objects of its own")
    calls = [ToolCall(id=call["id"], **call["function"]) for call in each.get("tool_calls", ())]
    return Message(
        role=each["role"],
        content=each["content"],
        tool_call_id=each.get("tool_call_id"),
        tool_calls=calls or None,
    )
