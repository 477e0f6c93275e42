"""The live calls that a batch stands for: the key of each, and the form in which its answer is
stored, so that either finds what the other has stored."""

import json
from collections.abc import Mapping
from typing import Any

from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.engine.layers import RequestSeen
from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.evaluation.providers import Provider
from llm_cache_mem.keys.request import Request

__all__ = ["HttpCalls", "MethodCalls"]


class MethodCalls:
    """Calls of ``get_or_call`` and ``map`` with the method of the SDK."""

    def __init__(self, engine: Engine, provider: Provider) -> None:
        self._engine = engine
        self._provider = provider

    def request(self, messages: Any, params: Mapping[str, Any]) -> Request | None:
        """The request of a call; None if it has no key."""
        return self._engine.request_of(self._provider.live, messages, dict(params))

    def encode(self, answer: Any) -> Any:
        """What is stored of *answer*, an object of the SDK."""
        return answer

    def decode(self, value: Any) -> Any:
        """The object of the SDK in a stored *value*."""
        return value


class HttpCalls(MethodCalls):
    """Calls of a client that ``cache_client`` made: they are requests of the HTTP layer."""

    def request(self, messages: Any, params: Mapping[str, Any]) -> Request | None:
        """As above. The SDK is asked for it, and its call ends where the request is known."""
        try:
            with self._engine.layers.only_seen():
                self._provider.live(messages=messages, **params)
        except RequestSeen as seen:
            return seen.request
        return None

    def encode(self, answer: Any) -> Any:
        return {
            "status": 200,
            "headers": [["content-type", "application/json"]],
            "text": answer.to_json(indent=None),
        }

    def decode(self, value: Any) -> Any:
        try:
            body = value.get("text") or value.get("data")
            return self._provider.read(json.loads(body))
        except (AttributeError, TypeError, ValueError) as exc:
            raise EntryUnreadable("not an HTTP exchange") from exc
