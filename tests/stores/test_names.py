"""A name server that does not answer: callers go on without the store, as with any other server
that does not."""

import socket
import threading
import time
from typing import Any

import pytest

from llm_cache_mem import LLMCache


@pytest.mark.usefixtures("usual_timeouts")
@pytest.mark.parametrize("url", ["redis://cache.example:6379/0", "memcached://cache.example:11211"])
def test_a_slow_name_lookup_blocks_no_other_caller(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    looked_up: list[str] = []

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        looked_up.append(host)
        answered.wait(60)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        with LLMCache(backend=url) as cache:
            for number in range(5):
                began = time.monotonic()
                assert (
                    cache.get_or_call(f"question {number}", lambda messages: "answer") == "answer"
                )
                assert (
                    time.monotonic() - began < 20
                )  # two operations of half a second, and a busy machine
            assert cache.stats().errors
    finally:
        answered.set()
    assert set(looked_up) == {"cache.example"}
    for thread in threading.enumerate():
        if thread.name == "llm-cache-mem connecting":
            thread.join(60)


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_a_lookup_counts_as_use(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{kind}_url").replace("127.0.0.1", "localhost")
    assert "localhost" in url
    with LLMCache(backend=url) as cache:
        cache.put("question", "answer")
        assert cache.get("question") == "answer"


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_a_name_that_is_not_known_is_a_miss(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with LLMCache(backend=f"{kind}://cache.example") as cache:
        assert cache.get("question") is None
