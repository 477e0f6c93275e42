"""``CachedLLM`` and ``set_llm_cache`` with ``install`` underneath on the same cache: the HTTP entry
answers, and each call is counted once."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from http_server import Provider, Reply, provider
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import MockLLM
from llama_index_llm_cache_mem import CachedLLM, set_llm_cache

from llm_cache_mem import LLMCache, installed

openai = pytest.importorskip("llama_index.llms.openai", exc_type=ImportError)

ASKED = [ChatMessage(role="user", content="hi")]


@pytest.fixture
def server() -> Iterator[Provider]:
    with provider() as server:
        server.answer = reply
        yield server


def reply(asked: Any) -> Reply:
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    head = {"id": "1", "created": 1, "model": "m"}
    if asked.body.get("stream"):
        deltas = [{"delta": {"content": "Paris."}}, {"delta": {}, "finish_reason": "stop"}]
        events = [
            {**head, "object": "chat.completion.chunk", "choices": [{"index": 0, **delta}]}
            for delta in deltas
        ]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return Reply(f"{text}data: [DONE]\n\n".encode(), "text/event-stream")
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "Paris."},
        "finish_reason": "stop",
    }
    body = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
    return Reply(json.dumps(body).encode())


def llm(server: Provider) -> Any:
    return openai.OpenAI(model="gpt-4o-mini", api_key="k", api_base=f"{server.url}/v1")


def thrice(model: Any, method: str) -> list[Any]:
    """The answers to three calls, one after the other."""

    async def asynchronous() -> list[Any]:
        found = []
        for _ in range(3):
            if method == "achat":
                found.append((await model.achat(ASKED)).message.content)
            else:
                chunks = [chunk async for chunk in await model.astream_chat(ASKED)]
                found.append(chunks[-1].message.content)
        await model._get_aclient().close()
        return found

    if method == "chat":
        return [model.chat(ASKED).message.content for _ in range(3)]
    if method == "stream":
        return [list(model.stream_chat(ASKED))[-1].message.content for _ in range(3)]
    return asyncio.run(asynchronous())


@pytest.mark.parametrize("how", ["CachedLLM", "set_llm_cache"])
@pytest.mark.parametrize("method", ["chat", "achat", "stream", "astream"])
def test_one_entry_one_count_one_call(how: str, method: str, server: Provider) -> None:
    cache = LLMCache(prices={})
    model = llm(server)
    if how == "CachedLLM":
        model = CachedLLM(model, cache)
    else:
        set_llm_cache(cache)
    try:
        with installed(cache):
            assert thrice(model, method) == ["Paris."] * 3
    finally:
        set_llm_cache(None)
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.size, server.calls) == (2, 1, 1, 1)


def test_a_hit_below_bills_nothing(server: Provider) -> None:
    cache = LLMCache(prices={})
    model = CachedLLM(llm(server), cache)
    with installed(cache):
        used = [model.chat(ASKED).raw.usage.total_tokens for _ in range(2)]
    assert used == [9, 0]


def test_a_model_in_this_process_is_cached_as_ever() -> None:
    cache = LLMCache()
    model = CachedLLM(MockLLM(max_tokens=4), cache)
    with installed(cache):
        for _ in range(2):
            model.chat(ASKED)
    assert (cache.stats().hits, cache.stats().misses) == (1, 1)
