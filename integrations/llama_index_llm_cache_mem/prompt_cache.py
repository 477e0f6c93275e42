"""A LlamaIndex event handler that tells a PromptCacheTracker of every call of an LLM."""

from collections import OrderedDict
from threading import Lock
from time import monotonic
from typing import Any, Final

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

__all__ = ["PromptCacheHandler"]

_MOST_UNDER_WAY: Final = 4096


class PromptCacheHandler(BaseEventHandler):
    """``get_dispatcher().add_event_handler(PromptCacheHandler(tracker))`` watches every LLM of the process, streams too.

    Hits of this library's cache are left out, for nobody was paid for them.
    """

    _tracker: PromptCacheTracker = PrivateAttr()
    _under_way: "OrderedDict[str, tuple[dict[str, Any], float]]" = PrivateAttr(default_factory=OrderedDict)
    _lock: Any = PrivateAttr(default_factory=Lock)

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
        with self._lock:
            self._under_way[event.span_id or ""] = request, monotonic()
            if len(self._under_way) > _MOST_UNDER_WAY:  # of calls that never ended
                self._under_way.popitem(last=False)

    def _end(self, event: Any) -> None:
        with self._lock:
            request, began = self._under_way.pop(event.span_id or "", (None, 0.0))
        if request is None or event.response is None or HIT_TAG in (event.tags or {}):
            return
        self._tracker.observe({**request, "messages": _turns(event)}, event.response, seconds=monotonic() - began)


def _turns(event: Any) -> Any:
    if isinstance(event, LLMCompletionEndEvent):
        return event.prompt
    try:
        return messages_to_dicts(event.messages)
    except RequestNotCacheable:  # a file that is gone: the call was made all the same
        return []
