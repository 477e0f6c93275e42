"""The HTTP layer in a fleet: clients of two caches on one store, as two processes have them, make
one request to the provider."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from threads import until

from llm_cache_mem import LLMCache
from llm_cache_mem.http import CacheTransport

URL = "https://api.openai.com/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
CHUNKS = [
    b'data: {"choices": [{"index": 0, "delta": {"content": "yes"}}]}\n\n',
    b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n',
    b"data: [DONE]\n\n",
]


class Provider:
    """Streams an answer whose last part waits to be let through."""

    def __init__(self) -> None:
        self.requests = 0
        self.go_on = threading.Event()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        return httpx.Response(
            200, headers={"content-type": "text/event-stream"}, stream=_Stream(self.go_on)
        )


class _Stream(httpx.SyncByteStream):
    def __init__(self, go_on: threading.Event) -> None:
        self._go_on = go_on

    def __iter__(self) -> Iterator[bytes]:
        yield CHUNKS[0]
        assert self._go_on.wait(60)
        yield from CHUNKS[1:]


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[Callable[[Provider], list[httpx.Client]]]:
    made: list[Any] = []

    def make(provider: Provider) -> list[httpx.Client]:
        caches = [LLMCache(backend=tmp_path / "cache.db", coalesce="fleet") for _ in range(2)]
        found = [
            httpx.Client(transport=CacheTransport(cache, httpx.MockTransport(provider)))
            for cache in caches
        ]
        made.extend([*found, *caches])
        return found

    yield make
    for each in made:
        each.close()


def whole(client: httpx.Client) -> bytes:
    with client.stream("POST", URL, json=BODY) as response:
        return b"".join(response.iter_bytes())


def test_a_stream_that_another_process_reads_is_waited_for(
    clients: Callable[[Provider], list[httpx.Client]],
) -> None:
    provider = Provider()
    one, other = clients(provider)
    with ThreadPoolExecutor() as pool:
        first: Future[bytes] = pool.submit(whole, one)
        until(lambda: provider.requests == 1)
        second = pool.submit(whole, other)
        time.sleep(0.2)
        assert not second.done()
        provider.go_on.set()
        assert first.result(60) == second.result(60) == b"".join(CHUNKS)
    assert provider.requests == 1


def test_a_stream_that_is_given_up_lets_the_next_one_call(
    clients: Callable[[Provider], list[httpx.Client]],
) -> None:
    provider = Provider()
    one, other = clients(provider)
    with ThreadPoolExecutor() as pool:
        with one.stream("POST", URL, json=BODY) as response:
            assert next(response.iter_bytes()) == CHUNKS[0]
            second = pool.submit(whole, other)
            time.sleep(0.1)
            assert provider.requests == 1
        provider.go_on.set()
        assert second.result(60) == b"".join(CHUNKS)
    assert provider.requests == 2
