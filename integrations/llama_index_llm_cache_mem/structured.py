"""Structured output of the providers whose classes ask their client for it directly, past the leaves."""

import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from typing import Any, Final

from llama_index.core.bridge.pydantic import BaseModel

from llama_index_llm_cache_mem.calls import Target
from llama_index_llm_cache_mem.events import tell_span
from llama_index_llm_cache_mem.keys import call_params, identity
from llama_index_llm_cache_mem.messages import messages_to_dicts
from llm_cache_mem import Request, RequestNotCacheable

__all__ = ["ASYNC", "KIND", "SYNC", "methods_of", "passes_leaves_by", "provider_of"]

KIND: Final = "llama_index.structured"

_WHOLE: Final = frozenset({"structured_predict", "astructured_predict"})
_ALL: Final = _WHOLE | {"stream_structured_predict", "astream_structured_predict"}
_PROVIDERS: Final = {
    "llama_index.llms.anthropic.base:Anthropic": _ALL,
    "llama_index.llms.google_genai.base:GoogleGenAI": _ALL,
    "llama_index.llms.openai.responses:OpenAIResponses": _WHOLE,
}
"""The classes that ask their client, and the methods in which they do. All others, of 102 integrations, go through ``chat``."""


@lru_cache(maxsize=512)
def provider_of(cls: type) -> type | None:
    """The class among the bases of *cls* that goes past its leaves."""
    return next((base for base in cls.__mro__ if f"{base.__module__}:{base.__qualname__}" in _PROVIDERS), None)


def methods_of(cls: Any) -> frozenset[str]:
    """The methods in which *cls*, one of those classes itself, goes past its leaves."""
    return _PROVIDERS.get(f"{cls.__module__}:{cls.__qualname__}", frozenset())


def passes_leaves_by(llm: Any, name: str) -> bool:
    """Whether what method *name* of *llm* gives does not come through ``chat`` or ``complete``."""
    provider = provider_of(llm.__class__)
    if provider is None or name not in methods_of(provider):
        return False
    native = getattr(sys.modules.get(provider.__module__), "is_anthropic_structured_output_supported", None)
    if native is None:
        return True
    return bool(native(llm.model)) and not type(llm._client).__name__.endswith(("Vertex", "Bedrock"))


def _request(target: Target, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any) -> Request | None:
    messages = messages_to_dicts(prompt.format_messages(**prompt_args))
    params = call_params(identity(target.inner), {**(llm_kwargs or {}), "output_cls": output_cls})
    return target.cache.request_or_none(messages, params, kind=KIND)


def _request_or_none(target: Target, args: Any, kwargs: Any) -> Request | None:
    if target.cache.is_off:
        return None
    try:
        return _request(target, *args, **kwargs)
    except RequestNotCacheable as exc:
        target.cache.bypass("request", "a call goes uncached: %s", exc)
    except Exception as exc:  # noqa: BLE001  # as in calls.py
        target.cache.bypass("request", "a call goes uncached: it could not be read (%s)", type(exc).__name__)
    return None


def _span(target: Target, name: str, body: Callable[..., Any]) -> Callable[..., Any]:
    provider = provider_of(target.inner.__class__)
    return tell_span(target, type(target.inner) if provider is None else provider, name, body)


def _predict(target: Target, args: Any, kwargs: Any) -> Any:
    method = target.method("structured_predict")
    request = _request_or_none(target, args, kwargs)
    if request is None:
        return method(*args, **kwargs)
    asked: list[None] = []

    def ask() -> Any:
        asked.append(None)
        return method(*args, **kwargs)

    answer = target.cache.call(request, ask)
    if asked:
        return answer

    def structured_predict(self: Any, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any) -> Any:
        return answer

    return _span(target, "structured_predict", structured_predict)(*args, **kwargs)


async def _apredict(target: Target, args: Any, kwargs: Any) -> Any:
    method = target.method("astructured_predict")
    request = _request_or_none(target, args, kwargs)
    if request is None:
        return await method(*args, **kwargs)
    asked: list[None] = []

    async def ask() -> Any:
        asked.append(None)
        return await method(*args, **kwargs)

    answer = await target.cache.acall(request, ask)
    if asked:
        return answer

    async def astructured_predict(self: Any, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any) -> Any:
        return answer

    return await _span(target, "astructured_predict", astructured_predict)(*args, **kwargs)


def _stream(target: Target, args: Any, kwargs: Any) -> Any:
    method = target.method("stream_structured_predict")
    request = _request_or_none(target, args, kwargs)
    if request is None:
        return method(*args, **kwargs)
    hit = target.cache.lookup(request)
    if hit is None:
        return _collect(_Last(target, request), method(*args, **kwargs))

    def stream_structured_predict(self: Any, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any) -> Any:
        return (value for value in (hit.value,))

    return _span(target, "stream_structured_predict", stream_structured_predict)(*args, **kwargs)


async def _astream(target: Target, args: Any, kwargs: Any) -> Any:
    method = target.method("astream_structured_predict")
    request = _request_or_none(target, args, kwargs)
    if request is None:
        return await method(*args, **kwargs)
    hit = await target.cache.alookup(request)
    if hit is None:
        return _acollect(_Last(target, request), await method(*args, **kwargs))

    async def only() -> AsyncIterator[Any]:
        yield hit.value

    async def astream_structured_predict(self: Any, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any) -> Any:
        return only()

    return await _span(target, "astream_structured_predict", astream_structured_predict)(*args, **kwargs)


class _Last:
    """The last object of a stream of ever more complete ones, if it is one of the class that was asked for."""

    def __init__(self, target: Target, request: Request) -> None:
        self._cache, self._request = target.cache, request
        self._epoch, self._began = target.cache.epoch, time.monotonic()
        self.value: Any = None

    def add(self, value: Any) -> None:
        self.value = value.model_copy(deep=True) if type(value) is self._request.params.get("output_cls") else None

    def kept(self) -> dict[str, Any] | None:
        if not isinstance(self.value, BaseModel) or self._cache.epoch != self._epoch:
            return None
        return {"request": self._request, "value": self.value, "response": self.value, "seconds": time.monotonic() - self._began}


def _collect(last: _Last, source: Any) -> Iterator[Any]:
    try:
        for value in source:
            last.add(value)
            yield value
        if (kept := last.kept()) is not None:
            last._cache.keep(**kept)
    finally:
        source.close()


async def _acollect(last: _Last, source: Any) -> AsyncIterator[Any]:
    try:
        async for value in source:
            last.add(value)
            yield value
        if (kept := last.kept()) is not None:
            await last._cache.akeep(**kept)
    finally:
        await source.aclose()


SYNC: Final = {"structured_predict": _predict, "stream_structured_predict": _stream}
ASYNC: Final = {"astructured_predict": _apredict, "astream_structured_predict": _astream}
