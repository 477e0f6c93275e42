"""Runs with the cache installed under the SDK: one entry, one count, one call."""

import json

import pytest
from http_server import Reply, provider

from llm_cache_mem import LLMCache, installed

openai = pytest.importorskip("openai")

ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


def test_an_installed_cache_counts_each_request_once() -> None:
    cache = LLMCache(max_size=None, prices={"m": (1_000_000, 0)})
    requests = [
        {"messages": [{"role": "user", "content": str(number % 7)}], "model": "m"}
        for number in range(10)
    ]
    with provider() as server, installed(cache, hosts=["127.0.0.1"]):
        server.gives(Reply(json.dumps(ANSWER).encode()))
        client = openai.OpenAI(api_key="k", base_url=f"{server.url}/v1")
        first = list(cache.map(client.chat.completions.create, requests))
        assert [(result.hit, result.usd) for result in first] == [(False, 3.0)] * 7 + [
            (True, 0)
        ] * 3
        again = list(cache.map(client.chat.completions.create, requests))
        assert all(result.hit and result.usd == 0 for result in again)
        client.chat.completions.create(**requests[0])
        assert server.calls == 7
        client.close()
    stats = cache.stats()
    assert (stats.misses, stats.hits, stats.coalesced) == (10, 11, 3)
