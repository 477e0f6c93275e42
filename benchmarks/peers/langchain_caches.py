"""LangChain's caches, asked with two strings that LangChain makes for every call: here too, of
messages that are objects already."""

import warnings
from typing import Any

from benchmarks.peers.contestant import Contestant, Place
from benchmarks.workload import PARAMS

__all__ = ["InMemory", "OnRedis", "OnSQLite", "messages_of", "quiet"]


def messages_of(request: dict[str, Any]) -> list[Any]:
    """The messages of *request* as LangChain's objects."""
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

    kinds = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
    return [kinds[message["role"]](content=message["content"]) for message in request["messages"]]


class LangChain(Contestant):
    """What a chat model of LangChain does with its cache: dumps(messages), a string for the model
    and its parameters, lookup or update."""

    key = "LangChain's: dumps(messages), and a string for the model"
    cache: Any

    def asked(self, request: dict[str, Any]) -> list[Any]:
        return messages_of(request)

    def answered(self, value: dict[str, Any]) -> list[Any]:
        from langchain_core.messages import AIMessage
        from langchain_core.outputs import ChatGeneration

        value = super().answered(value)
        usage = value["usage"]
        counts = {"input_tokens": usage["input_tokens"], "output_tokens": usage["output_tokens"]}
        message = AIMessage(
            content=value["content"],
            response_metadata={
                name: value[name]
                for name in ("id", "model", "stop_reason", "stop_sequence", "usage")
            },
            usage_metadata={**counts, "total_tokens": sum(counts.values())},
        )
        return [ChatGeneration(message=message)]

    @staticmethod
    def alter(answer: Any) -> None:
        answer[0].message.content[0]["text"] = "changed by a caller"

    @staticmethod
    def _strings(asked: list[Any]) -> tuple[str, str]:
        from langchain_core.load import dumps

        return dumps(asked), str(sorted({**PARAMS, "stop": None}.items()))

    def get(self, asked: list[Any]) -> Any:
        return self.cache.lookup(*self._strings(asked))

    def put(self, asked: list[Any], answer: list[Any]) -> None:
        self.cache.update(*self._strings(asked), answer)


class InMemory(LangChain):
    """InMemoryCache of langchain-core."""

    name = "LangChain InMemoryCache"
    package = "langchain-core"
    value = "the stored object itself, to every caller the same"
    spares = "no copy, no hash, no time to live, no account of what it saved; first in, first out"

    def __init__(self, place: Place) -> None:
        from langchain_core.caches import InMemoryCache

        self.cache = InMemoryCache(maxsize=place.entries)


def quiet() -> None:
    """Let pass what langchain-core, which turns its own warnings on as it is imported, says at
    every hit of the community's caches."""
    warnings.filterwarnings("ignore", message=".*allowed_objects.*")


class OnSQLite(LangChain):
    """SQLiteCache of langchain-community, as it comes: one fsync and more for each put, no
    bound."""

    name = "LangChain SQLiteCache"
    package = "langchain-community"
    value = "LangChain's dumps and loads"
    spares = "no bound on its size, no time to live, no account of what it saved"

    def __init__(self, place: Place) -> None:
        from langchain_community.cache import SQLiteCache

        quiet()
        self.cache = SQLiteCache(str(place.folder / "langchain.db"))

    def close(self) -> None:
        self.cache.engine.dispose()


class OnRedis(LangChain):
    """RedisCache of langchain-community."""

    name = "LangChain RedisCache"
    package = "langchain-community"
    value = "LangChain's dumps and loads"
    spares = "no account of what it saved"

    def __init__(self, place: Place) -> None:
        from langchain_community.cache import RedisCache
        from redis import Redis

        quiet()
        self._client = Redis(port=place.port)
        self.cache = RedisCache(self._client, ttl=3600)

    def close(self) -> None:
        self._client.close()
