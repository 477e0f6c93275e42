"""What a client of the gateway gets: the answers that it would get from its provider, once each."""

import asyncio
import gc
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_client import ANSWER, ASK, CHAT, REPLY, STREAM, STREAMED, mark, post
from http_sdks import SDKS, chosen
from http_server import Asked, Reply, reply_of, rows

from llm_cache_mem import LLMCache, options
from llm_cache_mem.gateway import credential_namespace
from llm_cache_mem.http import cache_client

SIGNED = "AWS4-HMAC-SHA256 Credential=A/1/us/bedrock/aws4_request, Signature=0"


def outcome(call: Callable[[], Any]) -> tuple[Any, Any]:
    try:
        return call(), None
    except Exception as exc:
        return None, (type(exc), getattr(exc, "status_code", getattr(exc, "code", None)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "most", [1, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"]
)
@pytest.mark.parametrize("name", SDKS)
def test_every_sdk_gets_equal_answers_through_the_gateway(
    shared_data: Path, start: Any, name: str, most: int | None
) -> None:
    gateway = start(LLMCache(max_size=None, prices={}), share="all")
    sdk, tried = SDKS[name], Counter[str]()
    direct, through = (
        sdk.make(url, False) for url in (gateway.upstream.url, f"{gateway.url}/other")
    )
    seen = Counter[Any]()
    for row in rows(shared_data):
        kind = (row["endpoint"], row["response"]["status"] == 200, "stream" in row["features"])
        if chosen(row) != name or (most is not None and seen[kind] >= most):
            continue
        seen[kind] += 1
        gateway.upstream.gives(reply_of(row))
        expected = outcome(partial(sdk.sync, direct, row))
        sent = gateway.upstream.asked[-1] if gateway.upstream.calls else None
        for _ in range(2):
            assert outcome(partial(sdk.sync, through, row)) == expected, row["id"]
        passed = gateway.upstream.asked[-1]
        if sent is not None and passed is not sent:
            assert (passed.method, passed.path) == (sent.method, sent.path)
            # a text that stands in a request for embeddings twice is sent once
            assert passed.body == sent.body or "embed" in sent.path
        tried[row["endpoint"]] += 1
        gateway.cache.clear()
    print(name, dict(tried), gateway.cache.stats().hits, gateway.cache.stats().skipped)
    del direct, through
    gc.collect()


def test_the_same_request_is_answered_once(start: Any) -> None:
    gateway = start()
    gateway.upstream.gives(REPLY)
    first, second = post(gateway.url + CHAT), post(gateway.url + CHAT)
    assert (mark(first), mark(second)) == ("miss", "hit")
    assert first.json() == second.json() == ANSWER
    assert second.headers["age"] == "0"
    assert gateway.upstream.calls == 1


def test_two_credentials_share_nothing_by_default(start: Any) -> None:
    apart, together = start(), start(share="all")
    apart.upstream.gives(REPLY)
    assert [mark(post(apart.url + CHAT, token=who)) for who in "abab"] == [
        "miss",
        "miss",
        "hit",
        "hit",
    ]
    assert [mark(post(together.url + CHAT, token=who)) for who in "ab"] == ["miss", "hit"]


def test_a_signed_request_goes_past_the_cache(start: Any) -> None:
    gateway = start()
    gateway.upstream.gives(REPLY)
    for _ in range(2):
        response = httpx.post(gateway.url + CHAT, json=ASK, headers={"authorization": SIGNED})
        assert (response.json(), mark(response)) == (ANSWER, "skipped:signature")
    assert gateway.upstream.calls == 2


def test_a_namespace_is_taken_only_from_trusted_networks(start: Any) -> None:
    strict, trusting = start(), start(trust=["127.0.0.0/8"])
    trusting.upstream.gives(REPLY)
    refused = post(strict.url + CHAT, X_LLM_Cache_Namespace="acme")
    assert refused.status_code == 403
    assert "--trust" in refused.json()["error"]["message"]
    assert strict.upstream.calls == 0
    for who in "ab":
        post(trusting.url + CHAT, token=who, X_LLM_Cache_Namespace="acme")
    assert trusting.upstream.calls == 1
    with options(namespace="acme"):
        assert trusting.cache.stats().size == 1


def test_a_python_program_and_the_gateway_answer_each_other(start: Any) -> None:
    import openai

    gateway = start()
    gateway.upstream.gives(REPLY)
    namespace = credential_namespace([("Authorization", "Bearer k")], gateway.key)
    client = cache_client(
        openai.OpenAI(api_key="k", base_url=f"{gateway.upstream.url}/v1"), gateway.cache
    )
    with options(namespace=namespace):
        client.chat.completions.create(**ASK)
    assert mark(post(gateway.url + CHAT)) == "hit"
    other = {**ASK, "messages": [{"role": "user", "content": "other"}]}
    assert mark(post(gateway.url + CHAT, other)) == "miss"
    with options(namespace=namespace):
        client.chat.completions.create(**other)
    assert gateway.upstream.calls == 2


def test_headers_of_a_call_are_its_options(start: Any) -> None:
    clock = [1_000_000.0]
    gateway = start(LLMCache(prices={}, clock=lambda: clock[0]))
    gateway.upstream.gives(REPLY)
    url = gateway.url + CHAT
    assert mark(post(url)) == "miss"
    assert mark(post(url, X_LLM_Cache_Mode="refresh")) == "miss"
    assert mark(post(url, X_LLM_Cache_Mode="off")) is None
    assert mark(post(url, X_LLM_Cache_Sample="1")) == "miss"
    clock[0] += 60
    assert mark(post(url, X_LLM_Cache_TTL="1m")) == "miss"
    clock[0] += 30
    assert mark(post(url, X_LLM_Cache_TTL="31")) == "hit"
    assert "x-llm-cache-ttl" not in gateway.upstream.asked[-1].headers
    assert mark(post(url, X_LLM_Cache_Tags="team=search, job = nightly")) == "hit"
    assert gateway.cache.stats().by_tag.keys() == {"team=search", "job=nightly"}
    for name, value, text in [
        ("Mode", "of", "not 'of'"),
        ("TTL", "soon", "soon"),
        ("Sample", "-1", "not '-1'"),
        ("Tags", "=search", "the name of a tag"),
        ("Tags", "search", "tags are NAME=VALUE"),
        ("Depends-On", "doc:a\tb", "a name must be"),
        ("Depends-On", '["doc:a"', "not JSON"),
        ("Depends-On", "[[" * 10_000, "nested too deeply"),
        ("Depends-On", '["doc:a", 1]', "depends_on: a name must be a str, not int"),
        ("Tll", "1h", "known are x-llm-cache-depends-on, x-llm-cache-mode"),
    ]:
        wrong = post(url, **{f"X_LLM_Cache_{name}": value})
        assert wrong.status_code == 400
        assert text in wrong.json()["error"]["message"]


@pytest.mark.parametrize(
    "lines",
    [
        ["doc:a, doc:手册"],
        ["doc:a,,", "doc:手册,"],
        ["", '["doc:\\u624b\\u518c"]'],
        ['["doc:a,b", "doc:手册"]'],
        [b"doc:\xe9, doc:\xe9"],
    ],
)
def test_names_of_documents_in_headers(start: Any, lines: list[Any]) -> None:
    """In UTF-8 or Latin-1, in one header or several, with commas in a JSON list."""
    gateway = start()
    gateway.upstream.gives(REPLY)
    name = "doc:é" if type(lines[0]) is bytes else "doc:手册"
    header = "X-LLM-Cache-Depends-On"
    sent = [(header, x if type(x) is bytes else x.encode()) for x in lines]

    def ask() -> str | None:
        return mark(httpx.post(gateway.url + CHAT, json=ASK, headers=sent))

    assert [ask(), ask()] == ["miss", "hit"]
    gateway.cache.invalidate("doc:none")
    assert ask() == "hit"
    gateway.cache.invalidate(name)
    assert ask() == "miss"


def test_replay_never_calls_and_names_the_missing_request(start: Any) -> None:
    gateway = start(LLMCache(mode="replay"))
    missing = post(gateway.url + CHAT)
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "cache_miss"
    signed = httpx.post(gateway.url + CHAT, json=ASK, headers={"authorization": SIGNED})
    models = httpx.get(gateway.url + "/openai/v1/models")
    assert signed.status_code == models.status_code == 404
    assert "replay" in signed.json()["error"]["message"]
    assert gateway.upstream.calls == 0


def test_callers_of_a_gateway_with_a_token_have_to_send_it(start: Any) -> None:
    gateway = start(token="open sesame")
    gateway.upstream.gives(REPLY)
    assert post(gateway.url + CHAT).status_code == 401
    assert post(gateway.url + CHAT, X_LLM_Cache_Token="wrong").status_code == 401
    assert post(gateway.url + CHAT, X_LLM_Cache_Token="open sesame").json() == ANSWER
    assert "x-llm-cache-token" not in gateway.upstream.asked[-1].headers


@pytest.mark.parametrize(
    ("host", "settings", "status"),
    [
        ("evil.example:4040", {}, 403),
        ("evil.example", {"page_hosts": ("cache.example",)}, 403),
        ("cache.example:4040", {"page_hosts": ("cache.example",)}, 200),
        ("127.0.0.1:4040", {}, 200),
        ("[::1]:4040", {}, 200),
        ("10.1.2.3", {}, 200),  # no other site has this machine's address
        ("evil.example", {"token": "open sesame"}, 200),
    ],
)
def test_a_site_whose_name_leads_here_reads_nothing(
    start: Any, host: str, settings: dict[str, Any], status: int
) -> None:
    gateway = start(**settings)
    gateway.upstream.gives(REPLY)
    headers = {"host": host} | (
        {"x-llm-cache-token": settings["token"]} if "token" in settings else {}
    )
    assert httpx.post(gateway.url + CHAT, json=ASK, headers=headers).status_code == status
    assert httpx.get(gateway.url + "/metrics", headers=headers).status_code == status


def test_metrics_need_the_token(start: Any) -> None:
    gateway = start(token="open sesame")
    assert httpx.get(gateway.url + "/metrics").status_code == 401
    headers = {"authorization": "Bearer open sesame"}
    assert "llm_cache_mem_" in httpx.get(gateway.url + "/metrics", headers=headers).text


def test_an_unknown_upstream_is_named_with_the_known_ones(start: Any) -> None:
    missing = post(start().url + "/nowhere/v1/chat/completions")
    assert missing.status_code == 404
    assert "/openai/" in missing.json()["error"]["message"]


def test_an_upstream_that_cannot_be_reached_is_a_bad_gateway(start: Any) -> None:
    gateway = start(upstreams={"gone": "http://127.0.0.1:1"})
    failed = post(gateway.url + "/gone/v1/chat/completions?key=SECRET")
    assert failed.status_code == 502
    assert "gone: cannot connect" in failed.json()["error"]["message"]
    assert "SECRET" not in failed.text


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
def test_errors_pass_unchanged_and_are_not_stored(start: Any, status: int) -> None:
    gateway = start()
    body = b'{"error": {"message": "no", "type": "t"}}'
    gateway.upstream.gives(Reply(body, status=status, headers=(("retry-after", "3"),)))
    for _ in range(2):
        response = post(gateway.url + CHAT)
        assert (response.status_code, response.content) == (status, body)
        assert response.headers["retry-after"] == "3"
    assert gateway.upstream.calls == 2
    assert gateway.cache.stats().size == 0


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "POST"])
def test_other_requests_pass_unchanged(start: Any, method: str) -> None:
    gateway = start()
    gateway.upstream.answer = lambda asked: Reply(b"\x00\xff", "application/octet-stream", 201)
    if method not in ("GET", "POST"):
        response = httpx.request(method, f"{gateway.url}/openai/v1/files/a%2Fb?x=1&y=%20")
        assert response.status_code == 501  # the answer of this provider to such methods
        return
    content = None if method == "GET" else b"piece" * 50_000
    response = httpx.request(
        method, f"{gateway.url}/openai/v1/files/a%2Fb?x=1&y=%20", content=content
    )
    assert (response.status_code, response.content) == (201, b"\x00\xff")
    asked: Asked = gateway.upstream.asked[-1]
    assert (asked.method, asked.path) == (method, "/v1/files/a%2Fb?x=1&y=%20")
    assert asked.body == content
    assert mark(response) is None


def test_identical_streams_are_one_call(start: Any) -> None:
    gateway = start()
    gate = threading.Event()
    gateway.upstream.gives(STREAMED._replace(gate=lambda number: gate.wait(30)))
    body = {**ASK, "stream": True}

    async def ask(client: httpx.AsyncClient) -> tuple[bytes, str | None]:
        async with client.stream(
            "POST", gateway.url + CHAT, json=body, headers={"authorization": "Bearer k"}
        ) as response:
            gate.set()
            return await response.aread(), response.headers.get("x-llm-cache-mem")

    async def main() -> list[tuple[bytes, str | None]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=30, limits=limits) as client:
            return await asyncio.gather(*(ask(client) for _ in range(40)))

    answers = asyncio.run(main())
    assert {content for content, _ in answers} == {STREAM}
    assert {how for _, how in answers} <= {"miss", "coalesced", "hit"}
    assert gateway.upstream.calls == 1


def test_the_last_client_that_leaves_ends_the_call(start: Any) -> None:
    gateway = start()
    gate = threading.Event()
    gateway.upstream.gives(STREAMED._replace(gate=lambda number: number < 2 or gate.wait(30)))
    with (
        httpx.Client() as client,
        client.stream("POST", gateway.url + CHAT, json={**ASK, "stream": True}) as response,
    ):
        assert next(response.iter_raw())
    assert gateway.ended.wait(30)
    gate.set()
    assert gateway.upstream.wait_for_connections(0)
    assert gateway.cache.stats().stored == 0


def test_a_stream_that_breaks_off_is_seen_to_break_off(start: Any, caplog: Any) -> None:
    gateway = start()
    gateway.upstream.gives(STREAMED._replace(cut=len(STREAM) // 2))
    with pytest.raises(httpx.RemoteProtocolError):
        post(gateway.url + CHAT, {**ASK, "stream": True})
    assert gateway.cache.stats().stored == 0
    assert not [record for record in caplog.records if record.exc_info]


def test_websockets_are_refused_with_a_reason(start: Any) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    url = start().url.replace("http:", "ws:") + "/openai/v1/realtime?model=m"
    with pytest.raises(InvalidStatus) as refused, connect(url):
        pass
    assert refused.value.response.status_code == 501
    assert b"websockets" in refused.value.response.body


def test_no_credential_is_logged_or_stored(start: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    gateway = start(LLMCache(prices={}, keep_requests=True))
    gateway.upstream.gives(REPLY)
    for _ in range(2):
        post(gateway.url + CHAT + "?key=SECRET-q", token="SECRET-h", x_api_key="SECRET-x")
    stored = [
        (key, entry.payload.decode(), entry.request)
        for key, entry in gateway.cache.engine.backend.entries("")
    ]
    ours = [record for record in caplog.records if not record.name.startswith("http")]
    assert stored
    assert "SECRET" not in repr(stored)
    assert "SECRET" not in repr([record.getMessage() for record in ours])


def test_embeddings_are_answered_text_by_text(start: Any) -> None:
    def embed(asked: Any) -> Reply:
        texts = asked.body["input"]
        data = [{"index": n, "embedding": [len(t) / 8.0] * 20} for n, t in enumerate(texts)]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return Reply(json.dumps({"data": data, "model": "m", "usage": usage}).encode())

    gateway = start()
    gateway.upstream.answer = embed
    url = f"{gateway.url}/openai/v1/embeddings"
    post(url, {"model": "m", "input": ["a", "bb"]})
    found = post(url, {"model": "m", "input": ["bb", "ccc", "a"]})
    assert [item["embedding"][0] for item in found.json()["data"]] == [0.25, 0.375, 0.125]
    assert (mark(found), found.json()["usage"]["total_tokens"]) == ("miss", 3)
    assert gateway.upstream.asked[-1].body["input"] == ["ccc"]
    assert mark(post(url, {"model": "m", "input": ["ccc"]})) == "hit"
