"""The gateway under clients and providers that misbehave: the others go on."""

import contextlib
import json
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from gateway_client import ANSWER, ASK, CHAT, REPLY, STREAM, STREAMED, mark, post
from stores.servers import running_redis, until

from llm_cache_mem import LLMCache


def test_an_upload_that_stops_halfway_leaves_nothing_behind(start: Any) -> None:
    gateway = start()
    gateway.upstream.gives(REPLY)
    address = urlsplit(gateway.url)
    for kind in (b"application/json", b"application/octet-stream"):
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(
                b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: "
                + kind
                + b'\r\ncontent-length: 1000\r\n\r\n{"model": "m"'
            )
    assert post(gateway.url + CHAT).json() == ANSWER
    assert gateway.upstream.wait_for_connections(1)


def test_a_slow_reader_delays_only_itself(start: Any) -> None:
    gateway = start()
    gate = threading.Event()
    gateway.upstream.gives(STREAMED._replace(gate=lambda number: number < 1 or gate.wait(30)))
    body = {**ASK, "stream": True}
    with (
        httpx.Client(timeout=30) as client,
        client.stream("POST", gateway.url + CHAT, json=body) as slow,
    ):
        pieces = slow.iter_raw()
        first = next(pieces)
        gate.set()
        fast = httpx.post(gateway.url + CHAT, json=body, timeout=30)
        assert fast.content == STREAM
        assert first + b"".join(pieces) == STREAM
    assert gateway.upstream.calls == 1


@pytest.mark.parametrize("kind", ["json", "stream"])
def test_a_broken_answer_is_not_stored(start: Any, kind: str) -> None:
    gateway = start()
    whole = REPLY if kind == "json" else STREAMED
    body = {**ASK, "stream": kind == "stream"}
    for cut in (0, 1, len(whole.body) // 2, len(whole.body) - 1):
        gateway.upstream.gives(whole._replace(cut=cut))
        with contextlib.suppress(httpx.HTTPError):
            got = post(gateway.url + CHAT, body)
            assert got.status_code == 502 or got.content != whole.body
    assert gateway.cache.stats().stored == 0
    gateway.upstream.gives(whole)
    assert post(gateway.url + CHAT, body).content == whole.body


def test_a_store_that_fails_lets_calls_through(start: Any, tmp_path: Path) -> None:
    gateway = start(LLMCache(backend=tmp_path / "cache.db", prices={}))
    gateway.upstream.gives(REPLY)
    post(gateway.url + CHAT)
    (tmp_path / "cache.db").write_bytes(b"not a database" * 1000)
    for number in range(5):
        other = {**ASK, "messages": [{"role": "user", "content": str(number)}]}
        assert post(gateway.url + CHAT, other).json() == ANSWER
    assert httpx.get(gateway.url + "/healthz").json() == {"status": "ok"}


def test_a_paused_redis_lets_calls_through(start: Any, usual_timeouts: None) -> None:
    with running_redis() as server, LLMCache(backend=server.url, prices={}) as cache:
        gateway = start(cache)
        gateway.upstream.gives(REPLY)
        until(lambda: mark(post(gateway.url + CHAT)) == "hit", "a hit")
        before = gateway.upstream.calls
        server.pause()
        for _ in range(4):
            assert post(gateway.url + CHAT).json() == ANSWER
        assert gateway.upstream.calls == before + 4
        assert cache.stats().errors
        server.resume()


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"model": NaN}', b'{"a": 1, "a": 2}', b"\xff", json.dumps("x").encode()],
)
def test_bodies_that_are_no_requests_go_to_the_provider(start: Any, body: bytes) -> None:
    gateway = start()
    gateway.upstream.gives(REPLY)
    headers = {"content-type": "application/json"}
    for _ in range(2):
        response = httpx.post(gateway.url + CHAT, content=body, headers=headers)
        assert response.json() == ANSWER
        assert response.headers["x-llm-cache-mem"] == "skipped:request"
    assert gateway.upstream.calls == 2


def test_a_body_larger_than_the_cache_reads_passes(start: Any) -> None:
    gateway = start()
    gateway.upstream.gives(REPLY)
    body = json.dumps({**ASK, "padding": "x" * (65 * 1024 * 1024)}).encode()
    headers = {"content-type": "application/json"}
    response = httpx.post(gateway.url + CHAT, content=body, headers=headers, timeout=120)
    assert response.json() == ANSWER
    assert len(gateway.upstream.asked[-1].body["padding"]) == 65 * 1024 * 1024
