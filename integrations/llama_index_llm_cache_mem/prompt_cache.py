"""A LlamaIndex event handler that tells a PromptCacheTracker of every call of an LLM."""

from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionStartEvent,
)

from llama_index_llm_cache_mem.events import HIT_TAG
from llama_index_llm_cache_mem.messages import messages_to_dicts
from llm_cache_mem import RequestNotCacheable
from llm_cache_mem.prompt_cache import PromptCacheTracker
from llm_cache_mem.prompt_cache.pending import PendingCalls

__all__ = ["PromptCacheHandler"]


class PromptCacheHandler(BaseEventHandler):
    """``get_dispatcher().add_event_handler(PromptCacheHandler(tracker))`` watches every LLM of the
    process, streams too.

    Hits of this library's cache are left out, because they were not paid for.
    """

    _tracker: PromptCacheTracker = PrivateAttr()
    _pending: PendingCalls = PrivateAttr(default_factory=PendingCalls)

    def __init__(self, tracker: PromptCacheTracker) -> None:
        super().__init__()
        self._tracker = tracker

    @classmethod
    def class_name(cls) -> str:
        return "PromptCacheHandler"

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, (LLMChatStartEvent, LLMCompletionStartEvent)):
            self._begin(event)
        elif isinstance(event, (LLMChatEndEvent, LLMCompletionEndEvent)):
            self._end(event)

    def _begin(self, event: Any) -> None:
        told = event.model_dict
        request = {"model": told.get("model") or told.get("model_name"), **event.additional_kwargs}
        self._pending.begin(event.span_id or "", request)

    def _end(self, event: Any) -> None:
        call = self._pending.end(event.span_id or "")
        if call is None or event.response is None or HIT_TAG in (event.tags or {}):
            return
        request, seconds = call
        self._tracker.observe(
            {**request, "messages": _turns(event)}, event.response, seconds=seconds
        )


def _turns(event: Any) -> Any:
    if isinstance(event, LLMCompletionEndEvent):
        return event.prompt
    try:
        return messages_to_dicts(event.messages)
    except RequestNotCacheable:  # a file that is gone: the call was made all the same
        return []
