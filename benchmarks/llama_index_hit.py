"""``python -m benchmarks.llama_index_hit``: what a hit adds to LlamaIndex's own decorators, how it
grows, a thousand concurrent calls.

The bare decorators are those of ``MockLLM.chat`` around a method that has its answer ready: what
LlamaIndex itself takes for a call before any model is asked. With nobody listening a hit sends no
events; with a listener it sends all of them.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.llms.callbacks import llm_chat_callback
from llama_index_instrumentation import root_dispatcher
from llama_index_llm_cache_mem import CachedLLM

from benchmarks.harness import Variant, compare, show
from llm_cache_mem import LLMCache

__all__ = ["growth", "hits", "stampede"]

ADDED_MICROS = 100
ANSWER = ChatResponse(
    message=ChatMessage(role="assistant", content="z" * 1000),
    raw={"id": "1", "usage": {"total_tokens": 3250}},
)


class Ready(MockLLM):
    """Its chat is nothing but the decorators."""

    @llm_chat_callback()
    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return ANSWER

    @llm_chat_callback()
    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        CALLS.append(None)
        await asyncio.sleep(0.01)
        return ANSWER


CALLS: list[None] = []


class Listener(BaseEventHandler):
    """Hears everything, does nothing."""

    def handle(self, event: Any, **kwargs: Any) -> None:
        pass


@contextmanager
def listening() -> Iterator[None]:
    """Somebody listens to all events."""
    before = list(root_dispatcher.event_handlers)
    root_dispatcher.add_event_handler(Listener())
    try:
        yield
    finally:
        root_dispatcher.event_handlers = before


def chats(llm: Any, size: int, number: int = 50) -> Callable[[], list[Callable[[], object]]]:
    """A batch of equal one-message chats, of new objects and new strings each time."""
    half = "x" * (size - 1)
    llm.chat([ChatMessage(role="user", content=half + "?")])
    return lambda: [
        _chat(llm, [ChatMessage(role="user", content=half + "?")]) for _ in range(number)
    ]


def _chat(llm: Any, messages: list[ChatMessage]) -> Callable[[], object]:
    return lambda: llm.chat(messages)


def hits() -> None:
    """A hit beside the bare decorators, without and with a listener."""
    for heard in (False, True):
        cached = CachedLLM(Ready(max_tokens=None), LLMCache())
        variants = [
            Variant("bare decorators", chats(Ready(max_tokens=None), 100)),
            Variant("MockLLM.chat", chats(MockLLM(), 100)),
            Variant("llm-cache-mem, a hit", chats(cached, 100)),
        ]
        if heard:
            with listening():
                bare, mock, ours = compare(variants, rounds=41)
        else:
            bare, mock, ours = compare(variants, rounds=41)
        show(
            f"chat of one message of 100 characters, {'somebody' if heard else 'nobody'} listening",
            [bare, mock, ours],
        )
        added = ours.micros - bare.micros
        print(
            f"  added to the bare decorators: {added:.1f} us (must be <= {ADDED_MICROS}:"
            f" {'ok' if added <= ADDED_MICROS else 'NO'})"
        )


def growth() -> None:
    """Hits of ever larger messages: ten times the size must not take more than ten times as
    long."""
    cached = CachedLLM(Ready(max_tokens=None), LLMCache())
    sizes = (100, 1_000, 10_000, 100_000, 1_000_000)
    results = compare(
        [Variant(f"{size:>9,} characters", chats(cached, size, number=20)) for size in sizes],
        rounds=21,
    )
    show("hits of one message, by its size", results)
    steps = [larger.micros / smaller.micros for smaller, larger in pairwise(results)]
    print(
        f"  for ten times the size: {', '.join(f'{step:.1f}' for step in steps)} times as long:"
        f" {'ok' if max(steps) <= 10 else 'NO'}"
    )


def stampede() -> None:
    """A thousand concurrent identical achat."""

    async def thousand(llm: Any) -> None:
        await asyncio.gather(
            *(llm.achat([ChatMessage(role="user", content="x")]) for _ in range(1000))
        )

    print("\ncalls of the model made by 1,000 concurrent identical achat")
    for name, llm in (
        ("bare", Ready(max_tokens=None)),
        ("llm-cache-mem", CachedLLM(Ready(max_tokens=None), LLMCache())),
    ):
        CALLS.clear()
        asyncio.run(thousand(llm))
        print(f"  {name:<14} {len(CALLS)}")


if __name__ == "__main__":
    hits()
    growth()
    stampede()
