"""The methods in which LangChain's chat models meet their provider, answered from a cache where
they can be."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from langchain_llm_cache_mem.agreement import answer_in
from langchain_llm_cache_mem.binding import binding_of, with_manager
from langchain_llm_cache_mem.generations import dump
from langchain_llm_cache_mem.streaming import astream, stream
from langchain_llm_cache_mem.validation import note_answer
from llm_cache_mem.engine.circumstances import circumstances_of, timeout_of

__all__ = ["methods"]


def methods(cls: type[BaseChatModel]) -> dict[str, Any]:
    """The methods to put over those of *cls*; streams only if it has some, since LangChain looks
    for that. Events of a model's own would go past the cache: LangChain makes them from chunks."""
    found: dict[str, Any] = {"_generate": _generate, "_agenerate": _agenerate}
    streams = cls._stream is not BaseChatModel._stream
    if streams:
        found["_stream"] = _stream
        found |= {name: None for name in _EVENTS if hasattr(cls, name)}
    if streams or cls._astream is not BaseChatModel._astream:
        found["_astream"] = _astream
    return found


_EVENTS = ("_stream_chat_model_events", "_astream_chat_model_events")


def _generate(
    self: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: CallbackManagerForLLMRun | None = None,
    **kwargs: Any,
) -> ChatResult:
    binding = binding_of(self)
    model = binding.direct(self)
    made: list[ChatResult] = []

    def call(manager: CallbackManagerForLLMRun | None = run_manager) -> Any:
        if model.rate_limiter is not None:
            model.rate_limiter.acquire(blocking=True)
        named = with_manager(manager, kwargs, model._generate)
        made.append(model._generate(messages, stop, **named))
        return made[-1].generations

    request = binding.request(model, messages, stop, kwargs, run_manager)
    if request is None:
        generations = call()
    else:
        params = request.params
        generations = binding.cache.engine.call(
            request,
            call,
            encode=lambda _: _stored(made[-1], params),
            decode=binding.load,
            circumstances=lambda: circumstances_of(self._generate, kwargs),
            timeout=timeout_of(kwargs, model),
            zero_usage=binding.usage == "zero",
            again=lambda: call(None),  # the run is over by then
            seen=answer_in,
        )
        note_answer(binding.cache.engine, request, generations, run_manager)
    return _result(made, generations)


async def _agenerate(
    self: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: AsyncCallbackManagerForLLMRun | None = None,
    **kwargs: Any,
) -> ChatResult:
    binding = binding_of(self)
    model = binding.direct(self)
    made: list[ChatResult] = []

    async def call(manager: AsyncCallbackManagerForLLMRun | None = run_manager) -> Any:
        if model.rate_limiter is not None:
            await model.rate_limiter.aacquire(blocking=True)
        named = with_manager(manager, kwargs, model._agenerate)
        made.append(await model._agenerate(messages, stop, **named))
        return made[-1].generations

    request = binding.request(model, messages, stop, kwargs, run_manager)
    if request is None:
        generations = await call()
    else:
        params = request.params
        generations = await binding.cache.engine.acall(
            request,
            call,
            encode=lambda _: _stored(made[-1], params),
            decode=binding.load,
            circumstances=lambda: circumstances_of(self._agenerate, kwargs),
            timeout=timeout_of(kwargs, model),
            zero_usage=binding.usage == "zero",
            again=lambda: call(None),  # the run is over by then
            seen=answer_in,
        )
        note_answer(binding.cache.engine, request, generations, run_manager)
    return _result(made, generations)


def _stream(
    self: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: CallbackManagerForLLMRun | None = None,
    **kwargs: Any,
) -> Iterator[ChatGenerationChunk]:
    return stream(self, messages, stop, run_manager, kwargs)


async def _astream(
    self: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: AsyncCallbackManagerForLLMRun | None = None,
    **kwargs: Any,
) -> AsyncIterator[ChatGenerationChunk]:
    async with aclosing(astream(self, messages, stop, run_manager, kwargs)) as chunks:
        async for chunk in chunks:
            yield chunk


def _stored(result: ChatResult, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What to store for *result*. LangChain is yet to write llm_output into the message, and will
    not find it in a hit."""
    stored = dump(result.generations, params)
    if len(stored) == 1 and result.llm_output:
        fields = stored[0]["message"]["fields"]
        told = (result.llm_output, stored[0].get("info") or {}, fields.get("response_metadata", {}))
        fields["response_metadata"] = {
            name: value for source in told for name, value in source.items()
        }
    return stored


def _result(made: list[ChatResult], generations: Any) -> ChatResult:
    """The provider's own result, if *generations* are of it."""
    return (
        made[-1]
        if made and made[-1].generations is generations
        else ChatResult(generations=generations)
    )
