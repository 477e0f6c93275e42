"""A LangChain callback that tells a PromptCacheTracker of every call of a model."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from langchain_llm_cache_mem.inline import InlineHandler
from langchain_llm_cache_mem.shape import as_params, message_as_dict, sent
from llm_cache_mem import RequestNotCacheable
from llm_cache_mem.prompt_cache import PromptCacheTracker
from llm_cache_mem.prompt_cache.pending import PendingCalls

__all__ = ["PromptCacheCallback"]


class PromptCacheCallback(InlineHandler):
    """``model.invoke(..., config={"callbacks": [PromptCacheCallback(tracker)]})``, or
    ``callbacks=`` of a model, chain or agent.

    Sync, async, batches and streams; hits of a cache are left out, because they were not paid for.
    Threads may share one. It waits for nothing, and the next call must not be seen before this one.
    """

    def __init__(self, tracker: PromptCacheTracker) -> None:
        self.tracker = tracker
        self._pending = PendingCalls()

    def on_chat_model_start(
        self, serialized: Any, messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        turns = [_as_dict(message) for message in (messages[0] if messages else ())]
        self._pending.begin(run_id, {**_params(kwargs), "messages": turns})

    def on_llm_start(
        self, serialized: Any, prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        self._pending.begin(run_id, {**_params(kwargs), "messages": prompts[0] if prompts else ""})

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._pending.end(run_id)
        generations: Sequence[Any] = response.generations[0] if response.generations else []
        if call is None or not generations or any(map(_is_hit, generations)):
            return
        answer = getattr(generations[0], "message", None) or response
        request, seconds = call
        self.tracker.observe(request, answer, seconds=seconds)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._pending.end(run_id)


def _params(kwargs: dict[str, Any]) -> dict[str, Any]:
    params = kwargs.get("invocation_params")
    return as_params(params, {}) if isinstance(params, dict) else {}


def _as_dict(message: BaseMessage) -> dict[str, Any]:
    try:
        return message_as_dict(sent(message.__dict__), with_response_id=False)
    except (
        RequestNotCacheable
    ):  # no model is sent such a message, but the call is made all the same
        return {"role": message.type}


def _is_hit(generation: Any) -> bool:
    """Whether a cache answered: this library's, which says so, or another's, which LangChain marks
    as costing nothing."""
    message = getattr(generation, "message", None)
    metadata, usage = (
        getattr(message, "response_metadata", None) or {},
        getattr(message, "usage_metadata", None) or {},
    )
    return bool(metadata.get("llm_cache_mem")) or usage.get("total_cost") == 0
