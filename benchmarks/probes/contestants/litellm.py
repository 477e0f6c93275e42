"""LiteLLM's caches under its ``completion``."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch prices when imported

import litellm
from litellm.caching.caching import Cache
from litellm.caching.in_memory_cache import InMemoryCache

from benchmarks.probes.contestant import OfObjects

__all__ = ["Disk", "Local", "Redis"]

litellm.suppress_debug_info = True
with contextlib.suppress(ImportError):  # what hits and tools make it import, once for all probes
    import litellm.llms.anthropic.pass_through.messages.streaming_iterator
    import litellm.responses.mcp.litellm_proxy_mcp_handler


class LiteLLMPeer(OfObjects):
    expires = namespaced = True
    packages = ("litellm",)

    def make(self) -> Cache:
        raise NotImplementedError

    def prepare(self) -> None:
        self.cache: Any = self.make()

    def _arguments(self, request: dict[str, Any]) -> dict[str, Any]:
        litellm.cache = self.cache
        made: dict[str, Any] = {
            "api_base": self.base_url,
            "api_key": "sk-probe",
            "num_retries": 0,
            "max_retries": 0,
            **request,
        }
        made["model"] = f"openai/{made['model']}"
        if "base_url" in made:
            made["api_base"] = made.pop("base_url")
        if "extra_body" in made:
            made.update(
                made.pop("extra_body")
            )  # the provider's own parameters are arguments like any other
        if self.ttl is not None:
            made["ttl"] = self.ttl
        if self.namespace:
            made["cache"] = {"namespace": self.namespace}
        return made

    def ask(self, **request: Any) -> Any:
        return litellm.completion(**self._arguments(request))

    async def aask(self, **request: Any) -> Any:
        return await litellm.acompletion(**self._arguments(request))

    def stream(self, **request: Any) -> Iterator[str]:
        for chunk in litellm.completion(stream=True, **self._arguments(request)):
            if text := chunk.choices[0].delta.content:
                yield text

    def replace(self, texts: list[str], **request: Any) -> None:
        choices = [
            litellm.Choices(index=index, message=litellm.Message(content=text))
            for index, text in enumerate(texts)
        ]
        arguments = self._arguments(request)
        self.cache.add_cache(
            litellm.ModelResponse(choices=choices).model_dump_json(),
            **{**arguments, "model": request["model"]},
        )

    def settle(self) -> None:
        time.sleep(1.0)  # streams are stored by a thread of its own

    def close(self) -> None:
        litellm.cache = None


class Local(LiteLLMPeer):
    name = "LiteLLM local"
    configured = (
        '`litellm.cache = Cache(type="local")`; `InMemoryCache(max_size_in_memory=...)` for the'
        " bound. Beside it fastapi, soundfile and mcp, without which every hit of this version"
        " raises, and every call with tools"
    )
    bounded = True

    def make(self) -> Cache:
        made: Any = Cache(type="local", ttl=self.ttl)
        if self.max_size is not None:
            made.cache = InMemoryCache(max_size_in_memory=self.max_size)
        return made  # type: ignore[no-any-return]


class Disk(LiteLLMPeer):
    name = "LiteLLM disk"
    configured = '`Cache(type="disk", disk_cache_dir=...)`; removed in newer versions'
    shared = "file"
    packages = ("litellm", "diskcache")

    def make(self) -> Cache:
        return Cache(type="disk", disk_cache_dir=str(self.folder / "litellm"), ttl=self.ttl)


class Redis(LiteLLMPeer):
    name = "LiteLLM redis"
    configured = '`Cache(type="redis", host=..., port=...)`'
    shared = "server"
    packages = ("litellm", "redis")

    def make(self) -> Cache:
        return Cache(
            type="redis", host="127.0.0.1", port=str(self.bench.redis_port()), ttl=self.ttl
        )
