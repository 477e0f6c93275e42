"""Structured output of the providers whose classes ask their client for it directly, past the
leaves."""

import sys
from collections.abc import AsyncIterator, Callable, Iterable
from copy import deepcopy
from functools import lru_cache, partial
from typing import Any, Final

from llama_index_llm_cache_mem.calls import ModelCall, ashare, share
from llama_index_llm_cache_mem.events import in_span
from llama_index_llm_cache_mem.leaves import Target
from llama_index_llm_cache_mem.messages import messages_to_dicts
from llama_index_llm_cache_mem.requests import request_of
from llm_cache_mem import Request, ValueNotCacheable
from llm_cache_mem.engine.circumstances import circumstances_of
from llm_cache_mem.engine.streams import ChunkRecording
from llm_cache_mem.values.payload import Payload

__all__ = ["ASYNC", "KIND", "SYNC", "WHOLE", "methods_of", "passes_leaves_by", "provider_of"]

KIND: Final = "llama_index.structured"

WHOLE: Final = frozenset({"structured_predict", "astructured_predict"})
_ALL: Final = WHOLE | {"stream_structured_predict", "astream_structured_predict"}
_PROVIDERS: Final = {
    "llama_index.llms.anthropic.base:Anthropic": _ALL,
    "llama_index.llms.google_genai.base:GoogleGenAI": _ALL,
    "llama_index.llms.openai.responses:OpenAIResponses": WHOLE,
}
"""The classes that ask their client, and the methods in which they do. All others, of 102
integrations, go through ``chat``."""


@lru_cache(maxsize=512)
def provider_of(cls: type) -> type | None:
    """The class among the bases of *cls* that goes past its leaves."""
    return next(
        (base for base in cls.__mro__ if f"{base.__module__}:{base.__qualname__}" in _PROVIDERS),
        None,
    )


def methods_of(cls: Any) -> frozenset[str]:
    """The methods in which *cls*, one of those classes itself, goes past its leaves."""
    return _PROVIDERS.get(f"{cls.__module__}:{cls.__qualname__}", frozenset())


def passes_leaves_by(llm: Any, name: str) -> bool:
    """Whether what method *name* of *llm* gives does not come through ``chat`` or ``complete``."""
    provider = provider_of(llm.__class__)
    if provider is None or name not in methods_of(provider):
        return False
    native = getattr(
        sys.modules.get(provider.__module__), "is_anthropic_structured_output_supported", None
    )
    if native is None:
        return True
    return bool(native(llm.model)) and not type(llm._client).__name__.endswith(
        ("Vertex", "Bedrock")
    )


def _request(target: Target, args: Any, kwargs: Any) -> Request | None:
    def split(
        output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> tuple[Any, dict[str, Any]]:
        return messages_to_dicts(prompt.format_messages(**prompt_args)), {
            **(llm_kwargs or {}),
            "output_cls": output_cls,
        }

    return request_of(target, KIND, lambda: split(*args, **kwargs))


def _predict(target: Target, args: Any, kwargs: Any) -> Any:
    method = target.method("structured_predict")
    request = _request(target, args, kwargs)
    if request is None:
        return method(*args, **kwargs)
    model = ModelCall(method, args, kwargs)
    again = ModelCall(method, args, kwargs)
    answer = target.cache.engine.call(request, model, zero_usage=True, again=again)

    def structured_predict(
        self: Any, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        return answer

    return answer if model.called else _spanned(target, structured_predict)(*args, **kwargs)


async def _apredict(target: Target, args: Any, kwargs: Any) -> Any:
    method = target.method("astructured_predict")
    request = _request(target, args, kwargs)
    if request is None:
        return await method(*args, **kwargs)
    model = ModelCall(method, args, kwargs)
    again = ModelCall(method, args, kwargs)
    answer = await target.cache.engine.acall(request, model, zero_usage=True, again=again)

    async def astructured_predict(
        self: Any, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        return answer

    return answer if model.called else await _spanned(target, astructured_predict)(*args, **kwargs)


def _stream(target: Target, args: Any, kwargs: Any) -> Any:
    method = target.method("stream_structured_predict")
    request = _request(target, args, kwargs)
    if request is None:
        return method(*args, **kwargs)

    def as_hit(values: Iterable[Any]) -> Any:
        def stream_structured_predict(
            self: Any, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
        ) -> Any:
            return (value for value in values)

        return _spanned(target, stream_structured_predict)(*args, **kwargs)

    engine, recording = target.cache.engine, partial(_Last, request)
    hit = engine.lookup(request, zero_usage=True)
    if hit is not None:
        verifier = engine.verifier_for(request)
        if verifier is not None:
            again = ModelCall(method, args, kwargs)
            verifier.verify_stream(request, hit.entry, again, recording, Payload.as_tree)
        return as_hit([hit.value])
    shared = engine.share_stream(
        request,
        ModelCall(method, args, kwargs),
        recording=recording,
        decode=lambda value: [value],
        circumstances=lambda: circumstances_of(target.inner.structured_predict, {}),
    )
    return share(shared, as_hit)


async def _astream(target: Target, args: Any, kwargs: Any) -> Any:
    method = target.method("astream_structured_predict")
    request = _request(target, args, kwargs)
    if request is None:
        return await method(*args, **kwargs)

    async def as_hit(values: AsyncIterator[Any]) -> Any:
        async def astream_structured_predict(
            self: Any, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
        ) -> Any:
            return values

        return await _spanned(target, astream_structured_predict)(*args, **kwargs)

    async def only(value: Any) -> AsyncIterator[Any]:
        yield value

    engine, recording = target.cache.engine, partial(_Last, request)
    hit = await engine.alookup(request, zero_usage=True)
    if hit is not None:
        verifier = engine.verifier_for(request)
        if verifier is not None:
            again = ModelCall(method, args, kwargs)
            verifier.averify_stream(request, hit.entry, again, recording, Payload.as_tree)
        return await as_hit(only(hit.value))
    shared = await engine.ashare_stream(
        request,
        ModelCall(method, args, kwargs),
        recording=recording,
        decode=lambda value: [value],
        circumstances=lambda: circumstances_of(target.inner.structured_predict, {}),
    )
    return ashare(shared, as_hit)


def _spanned(target: Target, body: Callable[..., Any]) -> Callable[..., Any]:
    """*body*, which has the answer, in the span that LlamaIndex puts around these methods."""
    return in_span(target, provider_of(target.inner.__class__), body.__name__, body)


class _Last(ChunkRecording):
    """The recording of a stream of ever more complete objects: the last, if it is of the class that
    was asked for."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self._cls = request.params.get("output_cls")
        self._value: Any = None

    def add(self, chunk: Any) -> Any:
        form = deepcopy(chunk)
        self._value = form if type(chunk) is self._cls else None
        return form

    def copy(self, form: Any) -> Any:
        return deepcopy(form)

    def entry(self) -> tuple[Any, Any]:
        if self._value is None:
            raise ValueNotCacheable("stream", "its last object is not of the class asked for")
        return self._value, self._value


SYNC: Final = {"structured_predict": _predict, "stream_structured_predict": _stream}
ASYNC: Final = {"astructured_predict": _apredict, "astream_structured_predict": _astream}
