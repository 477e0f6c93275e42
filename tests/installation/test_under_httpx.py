"""Which requests of httpx and httpx2 an installed cache answers, and which it never touches."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest
import respx
from http_server import Provider, Reply
from installation.answers import BODY, CHAT, STREAM, answer

from llm_cache_mem import CacheMissError, LLMCache, RequestNotCacheable, installed, options
from llm_cache_mem.http.providers import server_of, uncached_reason
from llm_cache_mem.installation.under_httpx import _sync

LIBRARIES = [httpx, httpx2]
OPENAI = f"https://api.openai.com{CHAT}"


@pytest.fixture(params=LIBRARIES, ids=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def cache() -> Iterator[LLMCache]:
    cache = LLMCache(prices={})
    with installed(cache):
        yield cache


def mark(response: Any) -> str | None:
    found: str | None = response.headers.get("x-llm-cache-mem")
    return found


def test_a_stream_is_replayed_as_it_came(library: Any, server: Provider, cache: LLMCache) -> None:
    server.gives(STREAM._replace(piece=40))
    with library.Client(base_url=server.url) as client:
        bodies = []
        for _ in range(2):
            with client.stream("POST", CHAT, json={**BODY, "stream": True}) as response:
                bodies.append(list(response.iter_bytes()))
    assert bodies[0] == bodies[1]
    assert server.calls == 1


def test_async_clients_share_the_entries(library: Any, server: Provider, cache: LLMCache) -> None:
    server.gives(answer())

    async def ask() -> list[str | None]:
        async with library.AsyncClient(base_url=server.url) as client:
            found = await asyncio.gather(*(client.post(CHAT, json=BODY) for _ in range(5)))
            return [mark(response) for response in found]

    marks = asyncio.run(ask())
    assert sorted(map(str, marks)) == ["coalesced"] * 4 + ["miss"]
    with library.Client(base_url=server.url) as client:
        assert mark(client.post(CHAT, json=BODY)) == "hit"
    assert server.calls == 1


def test_clients_with_own_proxy_or_transport_are_covered(
    library: Any, server: Provider, cache: LLMCache
) -> None:
    """A proxy for plain HTTP is sent the whole URL, as the server of this test is."""
    server.gives(answer())

    class Retrying(library.BaseTransport):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            self.under = library.HTTPTransport(retries=1)

        def handle_request(self, request: Any) -> Any:
            return self.under.handle_request(request)

        def close(self) -> None:
            self.under.close()

    for settings in ({"proxy": server.url}, {"transport": Retrying()}):
        with library.Client(**settings) as client:
            marks = [mark(client.post(f"{server.url}{CHAT}", json=BODY)) for _ in range(2)]
            assert marks[1] == "hit"
    assert server.calls == 1


def test_event_hooks_and_elapsed_see_a_hit_as_a_call(
    library: Any, server: Provider, cache: LLMCache
) -> None:
    server.gives(answer())
    seen: list[str] = []
    hooks = {
        "request": [lambda request: seen.append("asked")],
        "response": [lambda response: seen.append("answered")],
    }
    with library.Client(base_url=server.url, event_hooks=hooks) as client:
        for _ in range(2):
            assert client.post(CHAT, json=BODY).elapsed.total_seconds() >= 0
    assert seen == ["asked", "answered"] * 2


# -- Mocks


def test_a_mock_transport_is_left_alone_unless_asked_for(library: Any) -> None:
    calls = []

    def handler(request: Any) -> Any:
        calls.append(request)
        return library.Response(200, content=answer().body)

    cache = LLMCache(prices={})
    with library.Client(transport=library.MockTransport(handler)) as client:
        with installed(cache):
            assert [mark(client.post(OPENAI, json=BODY)) for _ in range(2)] == [None, None]
        with installed(cache, mocks=True):
            assert [mark(client.post(OPENAI, json=BODY)) for _ in range(2)] == ["miss", "hit"]
    assert len(calls) == 3
    assert cache.stats().misses == 1


@pytest.mark.parametrize("mocks", [False, True])
def test_respx_is_left_alone_unless_asked_for(mocks: bool) -> None:
    with respx.mock, installed(LLMCache(), mocks=mocks), httpx.Client() as client:
        route = respx.post(OPENAI).mock(httpx.Response(200, content=answer().body))
        for _ in range(2):
            client.post(OPENAI, json=BODY)
        assert route.call_count == (1 if mocks else 2)


@pytest.mark.parametrize("before", [False, True], ids=["after install", "before install"])
def test_pytest_httpx_is_left_alone(before: bool, request: pytest.FixtureRequest) -> None:
    def ask() -> None:
        with httpx.Client() as client:
            for _ in range(2):
                assert mark(client.post(OPENAI, json=BODY)) is None

    if before:
        mock = request.getfixturevalue("httpx_mock")
        mock.add_response(content=answer().body, is_reusable=True)
        with installed(LLMCache()):
            ask()
    else:
        with installed(LLMCache()):
            mock = request.getfixturevalue("httpx_mock")
            mock.add_response(content=answer().body, is_reusable=True)
            ask()


# -- What is a request for a model


def test_everything_else_passes_byte_for_byte(
    library: Any, server: Provider, cache: LLMCache
) -> None:
    """With the cache and without, the server sees the same requests and the client the same
    answers."""
    server.gives(Reply(b'{"ok": true}', headers=(("x-own", "1"),)))
    asked = [
        ("POST", "/rooms/5/messages", {"json": {"model": "m", "messages": []}}),
        ("POST", "/messages", {"json": BODY}),
        ("POST", "/v1/messages", {"json": {"text": "no model is named here"}}),
        ("POST", "/api/chat", {"json": {"message": "hello"}}),
        ("POST", "/v1/things", {"json": BODY}),
        ("POST", "/graphql", {"content": b"\x00\xff", "headers": {"x-a": "b"}}),
        ("GET", CHAT, {}),
    ]

    def send() -> list[Any]:
        server.asked.clear()
        with library.Client(base_url=server.url) as client:
            found = [client.request(method, path, **how) for method, path, how in asked]
        answers = [(r.status_code, r.content, sorted(r.headers.multi_items())) for r in found]
        undated = [
            (status, body, [pair for pair in headers if pair[0] != "date"])
            for status, body, headers in answers
        ]
        return [list(server.asked), undated]

    with_cache = send()
    with installed(LLMCache(mode="off")):
        assert send() == with_cache
    assert cache.stats().misses == 0
    assert not cache.stats().skipped


def test_a_server_of_your_own_is_named_by_hosts(library: Any, server: Provider) -> None:
    server.gives(Reply(b'{"content": "hi"}'))
    where = server.url.replace("127.0.0.1", "localhost").removeprefix("http://")
    with installed(LLMCache(), hosts=[where]), library.Client() as client:
        found = [client.post(f"http://{where}/messages", json=BODY) for _ in range(2)]
    assert [mark(response) for response in found] == ["miss", "hit"]


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("api.openai.com", "provider"),
        ("API.OpenAI.com", "provider"),
        ("my-resource.openai.azure.com", "provider"),
        ("us-central1-aiplatform.googleapis.com", "provider"),
        ("bedrock-runtime.eu-central-1.amazonaws.com", "provider"),
        ("bedrock-runtime.cn-north-1.amazonaws.com.cn", "provider"),
        ("bedrock-runtime-fips.us-east-1.amazonaws.com", "provider"),
        ("runtime.sagemaker.us-east-1.amazonaws.com", "provider"),
        ("s3.us-east-1.amazonaws.com", None),
        ("api.openai.com.evil.example", None),
        ("notapi.openai.com.example", None),
        ("storage.googleapis.com", None),
        ("localhost", "loopback"),
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("10.0.0.7", None),
        ("example.com", None),
    ],
)
def test_servers_are_known_by_their_names(host: str, server: str | None) -> None:
    assert server_of(host) == server


UNCACHED = [
    ("https://api.openai.com/v1/audio/speech", "audio"),
    ("https://api.openai.com/v1/images/generations", "images"),
    ("https://api.mistral.ai/v1/ocr", "OCR"),
    ("https://us-central1-aiplatform.googleapis.com/v1/projects/p/models/m:predict", "predictions"),
    ("https://us-south.ml.cloud.ibm.com/ml/v1/text/chat?version=1", "watsonx"),
    ("https://runtime.sagemaker.us-east-1.amazonaws.com/endpoints/e/invocations", "SageMaker"),
    ("https://api.anthropic.com/v1/messages/batches", "batches"),
]


@pytest.mark.parametrize(("url", "reason"), UNCACHED)
def test_an_endpoint_that_is_not_cached_is_counted(url: str, reason: str) -> None:
    def handler(request: Any) -> Any:
        return httpx.Response(200, json={"data": []})

    cache = LLMCache()
    with httpx.Client(transport=httpx.MockTransport(handler)) as client:
        with installed(cache, mocks=True):
            client.post(url, json={"model": "m", "input": "hi"})
        with (
            installed(LLMCache(mode="replay"), mocks=True),
            pytest.raises(RequestNotCacheable, match="replay"),
        ):
            client.post(url, json={"model": "m", "input": "hi"})
    assert cache.stats().skipped == {reason: 1}
    assert uncached_reason("GET", httpx.URL(url).path) is None


def test_input_tokens_are_cached(server: Provider, cache: LLMCache) -> None:
    server.gives(Reply(b'{"object": "response.input_tokens", "input_tokens": 11}'))
    with httpx.Client(base_url=server.url) as client:
        asked = {"model": "m", "input": "hi"}
        found = [client.post("/v1/responses/input_tokens", json=asked) for _ in range(2)]
    assert [mark(response) for response in found] == ["miss", "hit"]


# -- Replay


def test_replay_blocks_only_unrecorded_provider_calls(library: Any, server: Provider) -> None:
    server.gives(answer())
    cache = LLMCache(prices={})
    with installed(cache), library.Client(base_url=server.url) as client, options(mode="replay"):
        with pytest.raises(CacheMissError):
            client.post(CHAT, json=BODY)
        with pytest.raises(RequestNotCacheable):
            client.get("https://api.openai.com/v1/models")
        assert client.get("/health").status_code == 200
        assert client.post("/rooms/5/messages", json=BODY).status_code == 200
    assert [asked.path for asked in server.asked] == ["/health", "/rooms/5/messages"]


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_an_sdk_raises_the_miss_at_once(sdk: str, server: Provider) -> None:
    import anthropic
    import openai

    def ask() -> None:
        if sdk == "openai":
            openai.OpenAI(api_key="k").chat.completions.create(**BODY)
        else:
            anthropic.Anthropic(api_key="k").messages.create(max_tokens=5, **BODY)

    with installed(LLMCache(mode="replay")), pytest.raises(CacheMissError):
        ask()


# -- What it costs


def test_other_requests_cost_at_most_twenty_microseconds(library: Any) -> None:
    """The replaced method, called with a request for no model, against the library's own."""
    requests = [
        library.Request("POST", "https://example.com/api/orders", json={"a": 1}),
        library.Request("GET", "http://localhost:8000/health"),
        library.Request("GET", "https://api.openai.com/v1/models"),
    ]
    replaced = _sync(lambda self, request: None)
    with installed(LLMCache()):
        costs = []
        for _ in range(9):
            began = time.thread_time()
            for _ in range(1000):
                for request in requests:
                    replaced(None, request)
            costs.append((time.thread_time() - began) / 3000)
    print(f"{library.__name__}: {min(costs) * 1e6:.2f} us CPU added to a request for no model")
    assert min(costs) < 20e-6


def test_a_body_that_is_no_json_passes_and_is_counted(server: Provider, cache: LLMCache) -> None:
    server.gives(answer())
    with httpx.Client(base_url=server.url) as client:
        broken = client.post(CHAT, content=b"{", headers={"content-type": "application/json"})
    assert json.loads(broken.content)["model"] == "m"
    assert cache.stats().skipped == {"request": 1}
