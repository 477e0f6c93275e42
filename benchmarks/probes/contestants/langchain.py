"""LangChain's caches under its ChatOpenAI, and this library's in their place."""

import json
import warnings
from collections.abc import Iterator
from typing import Any

from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration
from langchain_openai import ChatOpenAI

from benchmarks.probes.contestant import Cannot, Peer

__all__ = ["InMemory", "Ours", "OursAlone", "Redis", "SQLite"]

# What of a request is a field of the model; the rest is given with the call, as ``bind`` and
# ``bind_tools`` do.
FIELDS = (
    "model",
    "temperature",
    "top_p",
    "max_tokens",
    "n",
    "seed",
    "reasoning_effort",
    "base_url",
    "api_key",
    "timeout",
    "extra_body",
)

ChatOpenAI(api_key="sk-warm", model="gpt-4o-mini")  # what it imports late, once for all probes


class LangChainPeer(Peer):
    packages = ("langchain-core", "langchain-openai")

    def make(self) -> BaseCache:
        raise NotImplementedError

    def prepare(self) -> None:
        self.cache = self.make()
        self._keys: dict[str, tuple[str, str]] = {}

    def model(self, request: dict[str, Any]) -> Any:
        fields: dict[str, Any] = {
            "base_url": self.base_url,
            "api_key": "sk-probe",
            "max_retries": 0,
        }
        fields.update((name, request.pop(name)) for name in FIELDS if name in request)
        return ChatOpenAI(cache=self.cache, use_responses_api=False, **fields)

    def ask(self, **request: Any) -> Any:
        messages = request.pop("messages")
        if request.get("n", 1) > 1:
            return self.model(request).generate([convert_to_messages(messages)], **request)
        return self.model(request).invoke(messages, **request)

    async def aask(self, **request: Any) -> Any:
        messages = request.pop("messages")
        return await self.model(request).ainvoke(messages, **request)

    def stream(self, **request: Any) -> Iterator[str]:
        messages = request.pop("messages")
        for chunk in self.model(request).stream(messages, **request):
            if chunk.content:
                yield chunk.content

    def text(self, answer: Any) -> Any:
        if isinstance(answer, AIMessage):
            return answer.content
        texts = [generation.text for generation in answer.generations[0]]
        return texts[0] if len(texts) == 1 else texts

    def spoil(self, answer: Any) -> None:
        answer.content = "spoilt"

    def replace(self, texts: list[str], **request: Any) -> None:
        prompt, described = self._key(request)
        self.cache.update(
            prompt, described, [ChatGeneration(message=AIMessage(text)) for text in texts]
        )

    def all_texts(self, **request: Any) -> list[str]:
        messages = request.pop("messages")  # ``invoke`` gives the first and drops the others
        answer = self.model(request).generate([convert_to_messages(messages)], **request)
        return [generation.text for generation in answer.generations[0]]

    def _key(self, request: dict[str, Any]) -> tuple[str, str]:
        """What LangChain gives its cache for a request, which takes long to make."""
        name = json.dumps(request)
        if name not in self._keys:
            messages = [
                _without_id(message) for message in convert_to_messages(request.pop("messages"))
            ]
            model = self.model(request)
            self._keys[name] = dumps(messages), model._get_llm_string(stop=None, **request)
        return self._keys[name]


def _without_id(message: Any) -> Any:
    return message.model_copy(update={"id": None})


class InMemory(LangChainPeer):
    name = "LangChain InMemoryCache"
    configured = "`ChatOpenAI(cache=InMemoryCache())`; `maxsize` for the bound"
    bounded = True

    def make(self) -> BaseCache:
        return InMemoryCache() if self.max_size is None else InMemoryCache(maxsize=self.max_size)


class SQLite(LangChainPeer):
    name = "LangChain SQLiteCache"
    configured = "`ChatOpenAI(cache=SQLiteCache(path))`"
    shared = "file"
    packages = ("langchain-community", "langchain-openai")

    def make(self) -> BaseCache:
        warnings.simplefilter("ignore")
        from langchain_community.cache import SQLiteCache

        return SQLiteCache(str(self.folder / "langchain.db"))


class Redis(LangChainPeer):
    name = "LangChain RedisCache"
    configured = (
        "`ChatOpenAI(cache=RedisCache(Redis(...), ttl=...))` of langchain-community, redis-py's own"
        " timeouts"
    )
    shared = "server"
    expires = True
    packages = ("langchain-community", "redis")

    def make(self) -> BaseCache:
        warnings.simplefilter("ignore")
        import redis
        from langchain_community.cache import RedisCache

        ttl = None if self.ttl is None else int(self.ttl)
        return RedisCache(redis.Redis(port=self.bench.redis_port()), ttl=ttl)


class OursAlone(LangChainPeer):
    name = "llm-cache-mem, LLMCacheMem alone"
    configured = "`ChatOpenAI(cache=LLMCacheMem())`, as with `set_llm_cache`"
    bounded = expires = namespaced = True
    packages = ("llm-cache-mem", "langchain-openai")

    def make(self) -> BaseCache:
        from langchain_llm_cache_mem import LLMCacheMem

        settings: dict[str, Any] = {} if self.max_size is None else {"max_size": self.max_size}
        if self.ttl is not None:
            settings["ttl_seconds"] = self.ttl
        return LLMCacheMem(namespace=self.namespace, clock=self.bench.clock, **settings)

    def replace(self, texts: list[str], **request: Any) -> None:
        raise Cannot("stores only what it called for")


class Ours(OursAlone):
    name = "llm-cache-mem, LangChain"
    configured = "`cached(ChatOpenAI(), LLMCacheMem())`"

    def model(self, request: dict[str, Any]) -> Any:
        from langchain_llm_cache_mem import cached

        return cached(super().model(request), self.cache)
