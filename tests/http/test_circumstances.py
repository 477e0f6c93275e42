"""Over HTTP: a bad key, a short timeout or a dead proxy concerns its own caller only."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from http_server import Asked, Provider, Reply
from threads import WAIT_SECONDS, start, until

from llm_cache_mem import LLMCache
from llm_cache_mem.http import CacheTransport, cache_client

openai = pytest.importorskip("openai")

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "hello"},
        }
    ],
}


class Gate:
    """The provider's answer: 401, 429 or 500 for the key "bad", and only when it is let."""

    def __init__(self, status: int = 401) -> None:
        self.status = status
        self.started = threading.Semaphore(0)
        self.passed = threading.Semaphore(0)

    def __call__(self, asked: Asked) -> Reply:
        self.started.release()
        assert self.passed.acquire(timeout=WAIT_SECONDS)
        if asked.headers["authorization"] == "Bearer bad":
            headers = (("retry-after", "3600"),)
            return Reply(b'{"error": "of bad"}', status=self.status, headers=headers)
        return Reply(json.dumps(ANSWER).encode())


@pytest.fixture
def client(server: Provider) -> Iterator[Callable[..., Any]]:
    """Makes an OpenAI client of *cache* with a key; all are closed when the test ends."""
    with ExitStack() as stack:

        def make(cache: LLMCache, key: str, **arguments: Any) -> Any:
            own = {"base_url": f"{server.url}/v1", "api_key": key, "max_retries": 0}
            return cache_client(stack.enter_context(openai.OpenAI(**own, **arguments)), cache)

        yield make


def ask(made: Any) -> "Future[Any]":
    return start(lambda: made.chat.completions.create(**BODY).choices[0].message.content)


def waiting(cache: LLMCache) -> int:
    return sum(len(flight.waiters) for flight in cache.engine.flights._table._listed.values())


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_the_error_of_a_bad_key_is_never_shown_to_another(
    server: Provider, client: Any, status: int
) -> None:
    cache, gate = LLMCache(), Gate(status)
    server.answer = gate
    bad = ask(client(cache, "bad"))
    assert gate.started.acquire(timeout=WAIT_SECONDS)
    good = ask(client(cache, "good"))
    until(lambda: waiting(cache) == 1)
    gate.passed.release(2)
    with pytest.raises(openai.APIStatusError):
        bad.result(WAIT_SECONDS)
    assert good.result(WAIT_SECONDS) == "hello"
    assert [asked.headers["authorization"] for asked in server.asked] == [
        "Bearer bad",
        "Bearer good",
    ]


def test_callers_with_the_same_bad_key_share_its_error(server: Provider, client: Any) -> None:
    cache, gate = LLMCache(), Gate()
    server.answer = gate
    made = client(cache, "bad")
    futures = [ask(made) for _ in range(5)]
    until(lambda: waiting(cache) == 4)
    gate.passed.release(5)
    for future in futures:
        with pytest.raises(openai.AuthenticationError):
            future.result(WAIT_SECONDS)
    assert server.calls == 1


def test_a_client_waits_no_longer_than_its_own_timeout(server: Provider, client: Any) -> None:
    cache, gate = LLMCache(), Gate()
    server.answer = gate
    patient = ask(client(cache, "good"))
    assert gate.started.acquire(timeout=WAIT_SECONDS)
    hasty = ask(client(cache, "good", timeout=0.1))
    with pytest.raises(openai.APITimeoutError):
        hasty.result(WAIT_SECONDS)
    gate.passed.release()
    assert patient.result(WAIT_SECONDS) == "hello"
    assert server.calls == 1


def test_a_dead_proxy_concerns_its_own_client_only(server: Provider) -> None:
    cache, held, passed = LLMCache(), threading.Event(), threading.Event()

    class Dead(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            held.set()
            assert passed.wait(WAIT_SECONDS)
            raise httpx.ProxyError("dead", request=request)

    server.gives(Reply(json.dumps(ANSWER).encode()))
    url, headers = f"{server.url}/v1/chat/completions", {"authorization": "Bearer k"}
    with (
        httpx.Client(transport=CacheTransport(cache, Dead())) as behind,
        httpx.Client(transport=CacheTransport(cache)) as direct,
    ):
        first = start(lambda: behind.post(url, json=BODY, headers=headers))
        assert held.wait(WAIT_SECONDS)
        second = start(lambda: direct.post(url, json=BODY, headers=headers))
        until(lambda: waiting(cache) == 1)
        passed.set()
        with pytest.raises(httpx.ProxyError):
            first.result(WAIT_SECONDS)
        assert second.result(WAIT_SECONDS).json() == ANSWER
