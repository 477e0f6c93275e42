"""AutoGen's ChatCompletionCache over its OpenAI client, on the disk as its documentation has it."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import diskcache
from autogen_core import FunctionCall
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    ModelFamily,
    SystemMessage,
    UserMessage,
)
from autogen_ext.cache_store.diskcache import DiskCacheStore
from autogen_ext.models.cache import ChatCompletionCache
from autogen_ext.models.openai import OpenAIChatCompletionClient

from benchmarks.probes.contestant import Cannot, Looped, OfTexts

__all__ = ["AutoGen"]

ABLE = {
    "vision": True,
    "function_calling": True,
    "json_output": True,
    "structured_output": True,
    "multiple_system_messages": True,
    "family": ModelFamily.UNKNOWN,
}


class AutoGen(Looped, OfTexts):
    name = "AutoGen"
    configured = (
        "`ChatCompletionCache(OpenAIChatCompletionClient(...),"
        " DiskCacheStore(diskcache.Cache(folder)))`"
    )
    shared = "file"
    packages = ("autogen-ext", "diskcache")

    def prepare(self) -> None:
        self.disk = diskcache.Cache(str(self.folder / "autogen"))
        self.store: Any = DiskCacheStore(self.disk)
        self.clients: dict[str, Any] = {}

    def _parts(self, request: dict[str, Any]) -> tuple[Any, list[Any], dict[str, Any]]:
        settings = {
            "model": request.pop("model"),
            "base_url": request.pop("base_url", self.base_url),
            "api_key": request.pop("api_key", "sk-probe"),
        }
        name = json.dumps(settings)
        if name not in self.clients:  # one for each, as programs have
            self.clients[name] = OpenAIChatCompletionClient(
                **settings, max_retries=0, model_info=ABLE
            )
        client = self.clients[name]
        messages = [_message(each) for each in request.pop("messages")]
        known: dict[str, Any] = {}
        if "tools" in request:
            known["tools"] = [each["function"] for each in request.pop("tools")]
        if "tool_choice" in request:
            known["tool_choice"] = request.pop("tool_choice")
        return (
            ChatCompletionCache(client, self.store),
            messages,
            {**known, "extra_create_args": request},
        )

    async def aask(self, **request: Any) -> Any:
        client, messages, rest = self._parts(request)
        return await client.create(messages, **rest)

    async def astream(self, **request: Any) -> AsyncGenerator[str]:
        client, messages, rest = self._parts(request)
        async for piece in client.create_stream(messages, **rest):
            if isinstance(piece, str):
                yield piece

    def close(self) -> None:
        self.disk.close()


def _message(each: Any) -> Any:
    if not isinstance(each, dict):
        raise Cannot("has message objects of its own")
    role, content = each["role"], each["content"]
    if role == "system":
        return SystemMessage(content=content)
    if role == "tool":
        result = FunctionExecutionResult(
            content=content, name="look_up", call_id=each["tool_call_id"], is_error=False
        )
        return FunctionExecutionResultMessage(content=[result])
    if role == "assistant":
        calls = [
            FunctionCall(id=call["id"], **call["function"]) for call in each.get("tool_calls", ())
        ]
        return AssistantMessage(content=calls or content, source="assistant")
    if isinstance(content, list):
        from autogen_core import Image

        return UserMessage(
            content=[
                part["text"] if part["type"] == "text" else Image.from_uri(part["image_url"]["url"])
                for part in content
            ],
            source="user",
        )
    return UserMessage(
        content=content if isinstance(content, str) else json.dumps(content), source="user"
    )
