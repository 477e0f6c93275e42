"""CachedModel: any Pydantic AI model behind an LLMCache; the example of "Write an integration"."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai import ModelMessage, ModelResponse
from pydantic_ai.messages import ModelMessagesTypeAdapter
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from llm_cache_mem import LLMCache, Report, Request, Usage
from llm_cache_mem.engine.circumstances import circumstances_of, timeout_of

_PARAMETERS = TypeAdapter(ModelRequestParameters)
# What Pydantic AI notes in a history and sends to no provider.
_NEVER_SENT = {"timestamp", "run_id", "conversation_id", "usage", "metadata", "model_id"}


class CachedModel(WrapperModel):
    """*wrapped*, answered from *cache* where it can be; whole answers and streams share entries."""

    def __init__(self, wrapped: Model, cache: LLMCache) -> None:
        super().__init__(wrapped)
        self.engine = cache.engine

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        arguments = (messages, model_settings, model_request_parameters)
        request, settings = self._request(*arguments), dict(model_settings or {})
        if request is None:
            return await self.wrapped.request(*arguments)
        return await self.engine.acall(  # type: ignore[no-any-return]
            request,
            lambda: self.wrapped.request(*arguments),
            encode=_encode,
            decode=_decode,
            report=_report,
            circumstances=lambda: circumstances_of(self.wrapped.request, settings),
            timeout=timeout_of(settings),
        )

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: Any = None,
    ) -> AsyncIterator[Any]:
        arguments = (messages, model_settings, model_request_parameters)
        request, epoch = self._request(*arguments), self.engine.epoch
        if request and (hit := await self.engine.alookup(request, _decode)):
            yield CompletedStreamedResponse(
                hit.value, model_request_parameters=model_request_parameters, replay_events=True
            )
            return
        async with self.wrapped.request_stream(*arguments, run_context) as stream:
            yield stream
            response = stream.get()
        if request is not None and response.state == "complete":
            with self.engine.fail_open:
                report = _report(response)
                await self.engine.astore(request, _encode(response), response=report, epoch=epoch)

    def _request(self, messages: Any, settings: Any, parameters: Any) -> Request | None:
        with self.engine.fail_open:
            history = _sent(ModelMessagesTypeAdapter.dump_python(messages, mode="json"))
            params = {**(settings or {}), **_PARAMETERS.dump_python(parameters, mode="json")}
            params |= {"model": self.model_name, "system": self.system, "base_url": self.base_url}
            return self.engine.request(history, params, kind="pydantic-ai")
        return None


def _sent(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _sent(value) for name, value in part.items() if name not in _NEVER_SENT}
    return [_sent(one) for one in part] if isinstance(part, list) else part


def _encode(response: ModelResponse) -> Any:
    return ModelMessagesTypeAdapter.dump_python([response], mode="json")[0]


def _decode(value: Any) -> Any:
    return ModelMessagesTypeAdapter.validate_python([value])[0]


def _report(response: ModelResponse) -> Report:
    used, reason = response.usage, response.finish_reason or "stop"
    refused = None if response.parts and reason in ("stop", "tool_call") else reason
    counts = (used.input_tokens, used.output_tokens, used.cache_read_tokens)
    return Report(refused, Usage(*counts, used.cache_write_tokens), response.model_name)
