"""``cache_client``: the same kind of client, on the connections, timeouts and retries that it
had."""

import asyncio
import gc
import json
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from http_sdks import SDKS
from http_server import Provider, Reply

from llm_cache_mem import CacheMissError, LLMCache, RequestNotCacheable, options
from llm_cache_mem.http import AsyncCacheTransport, CacheTransport, cache_client

ANSWER = json.dumps(
    {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Paris."}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }
).encode()  # fmt: skip
MESSAGE = json.dumps(
    {
        "id": "1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "Paris."}],
        "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 7, "output_tokens": 2},
    }
).encode()  # fmt: skip
ASKED: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def cache() -> LLMCache:
    return LLMCache(prices={})


@pytest.fixture(autouse=True)
def answers(server: Provider) -> None:
    server.answer = lambda asked: Reply(
        MESSAGE if "messages" in asked.path else ANSWER, headers=(("x-request-id", "r1"),)
    )


def chat(client: Any) -> Any:
    return client.chat.completions.create(model="m", messages=ASKED)


def make_openai(server: Provider, **settings: Any) -> openai.OpenAI:
    return openai.OpenAI(api_key="k", base_url=f"{server.url}/v1", **settings)


# -- Copies


def test_a_copy_is_cached_and_the_original_is_not(server: Provider, cache: LLMCache) -> None:
    with make_openai(server) as original:
        cached = cache_client(original, cache)
        assert type(cached) is openai.OpenAI
        assert chat(cached) == chat(cached)
        assert server.calls == 1
        chat(original)
        assert server.calls == 2
        assert server.connections == 1  # the same pool


def test_a_client_made_on_the_spot_stays_open(server: Provider, cache: LLMCache) -> None:
    cached = cache_client(make_openai(server), cache)
    gc.collect()
    chat(cached)
    other = cache_client(cached, LLMCache())
    del cached
    gc.collect()
    chat(other)
    assert server.calls == 2
    other.close()
    assert server.wait_for_connections(0)


def test_settings_of_the_client_and_of_its_http_client_stay(
    server: Provider, cache: LLMCache
) -> None:
    seen: list[str] = []
    http = httpx2.Client(
        timeout=7.5,
        headers={"x-team": "a"},
        event_hooks={"request": [lambda request: seen.append(request.url.path)]},
    )
    with make_openai(
        server, max_retries=5, timeout=3.25, default_headers={"x-of-ours": "1"}, http_client=http
    ) as original:
        cached = cache_client(original, cache)
        assert (cached.max_retries, cached.timeout, cached.base_url) == (5, 3.25, original.base_url)
        assert cached._client.timeout == httpx2.Timeout(7.5)
        chat(cached)
        chat(cached)
    assert seen == ["/v1/chat/completions"] * 2
    assert (
        server.asked[0].headers["x-team"],
        server.asked[0].headers["x-of-ours"],
        server.calls,
    ) == ("a", "1", 1)


def test_retries_of_the_sdk_go_on_working(server: Provider, cache: LLMCache) -> None:
    replies = [
        Reply(b"{}", status=503, headers=(("retry-after-ms", "1"),)),
        Reply(b"{}", status=429, headers=(("retry-after-ms", "1"),)),
    ]
    server.answer = lambda asked: replies.pop(0) if replies else Reply(ANSWER)
    with cache_client(make_openai(server, max_retries=3), cache) as client:
        first = chat(client)
        assert server.calls == 3
        assert chat(client) == first  # the retry header is no part of the request
        assert server.calls == 3


def test_proxies_and_mounts_are_cached_too(server: Provider, cache: LLMCache) -> None:
    mounted = httpx.HTTPTransport()
    with cache_client(
        httpx.Client(mounts={"http://": mounted, "https://none": None}), cache
    ) as client:
        for _ in range(2):
            client.post(f"{server.url}/v1/chat/completions", json={"model": "m", "messages": ASKED})
        assert [type(mount) for mount in client._mounts.values()] == [type(None), CacheTransport]
    assert server.calls == 1


def test_raw_and_streaming_responses_tell_a_hit(server: Provider, cache: LLMCache) -> None:
    with cache_client(make_openai(server), cache) as client:
        first = client.chat.completions.with_raw_response.create(model="m", messages=ASKED)
        second = client.chat.completions.with_raw_response.create(model="m", messages=ASKED)
        assert (first.headers["x-llm-cache-mem"], first.headers["x-request-id"]) == ("miss", "r1")
        assert (second.headers["x-llm-cache-mem"], second.headers["age"]) == ("hit", "0")
        assert first.parse() == second.parse()
        with client.chat.completions.with_streaming_response.create(
            model="m", messages=ASKED
        ) as third:
            assert third.headers["x-llm-cache-mem"] == "hit"
            assert b"".join(third.iter_bytes()) == ANSWER


def test_copies_of_the_cached_client_stay_cached(server: Provider, cache: LLMCache) -> None:
    with cache_client(make_openai(server), cache) as client:
        chat(client)
        chat(client.with_options(timeout=3, max_retries=0))
    assert server.calls == 1


def test_another_cache_takes_the_place_of_the_first(server: Provider, cache: LLMCache) -> None:
    other = LLMCache()
    with cache_client(cache_client(make_openai(server), cache), other) as client:
        chat(client)
    assert (cache.stats().misses, other.stats().misses) == (0, 1)


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_bare_http_clients_are_copied(
    server: Provider, cache: LLMCache, library: Any
) -> None:
    original = library.AsyncClient(base_url=server.url)
    async with cache_client(original, cache) as client:
        assert isinstance(client, library.AsyncClient)
        assert isinstance(client._transport, AsyncCacheTransport)
        for _ in range(2):
            assert (await client.post("/v1/chat/completions", json={"messages": ASKED})).json()[
                "model"
            ] == "m"
    assert server.calls == 1
    assert not isinstance(original._transport, AsyncCacheTransport)


async def test_a_dual_transport_follows_the_kind_of_its_client(
    cache: LLMCache,
) -> None:
    """As a mock transport is one, sync and async."""
    calls = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        calls.append(request)
        return httpx2.Response(200, content=ANSWER, headers={"content-type": "application/json"})

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    async with cache_client(openai.AsyncOpenAI(api_key="k", http_client=http), cache) as client:
        first, again = await chat(client), await chat(client)
    with cache_client(
        openai.OpenAI(
            api_key="k", http_client=httpx2.Client(transport=httpx2.MockTransport(answer))
        ),
        cache,
    ) as sync:
        assert chat(sync) == again == first
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["mistralai", "cohere", "ollama", "google-genai"])
def test_sdks_that_cannot_copy_are_given_the_cache_themselves(
    server: Provider, cache: LLMCache, name: str
) -> None:
    client = SDKS[name].make(server.url, False)
    assert cache_client(client, cache) is client


async def test_clients_for_several_loops_are_cached_in_each(
    server: Provider, cache: LLMCache
) -> None:
    client = cache_client(SDKS["google-genai"].make(server.url, True), cache)
    row = {
        "endpoint": "generateContent",
        "request": {
            "body": json.dumps({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]})
        },
    }
    given = {
        "candidates": [
            {"content": {"parts": [{"text": "ho"}], "role": "model"}, "finishReason": "STOP"}
        ],
        "modelVersion": "m",
    }
    server.answer = lambda asked: Reply(json.dumps(given).encode())

    def elsewhere() -> Any:
        with asyncio.Runner() as runner:
            answer = SDKS["google-genai"].asynchronous(client, row, runner)
            runner.run(close())
            return answer

    async def close() -> None:
        await client._api_client._async_httpx_client._client_for_running_loop().aclose()

    assert await asyncio.to_thread(elsewhere) == await asyncio.to_thread(elsewhere)
    assert server.calls == 1
    client.close()


# -- Replay through SDKs that retry whatever a transport raises


def make_groq(server: Provider) -> Any:
    return SDKS["groq"].make(server.url, False).with_options(max_retries=4)


def make_anthropic(server: Provider) -> Any:
    return anthropic.Anthropic(api_key="k", base_url=server.url)


@pytest.mark.parametrize(
    ("make", "ask"),
    [
        (make_openai, chat),
        (make_anthropic, lambda c: c.messages.create(model="m", max_tokens=9, messages=ASKED)),
        (make_groq, chat),
        (lambda server: SDKS["mistralai"].make(server.url, False), lambda c: c.chat.complete(model="m", messages=ASKED)),
        (lambda server: SDKS["cohere"].make(server.url, False), lambda c: c.chat(model="m", messages=ASKED)),
        (lambda server: SDKS["ollama"].make(server.url, False), lambda c: c.chat(model="m", messages=ASKED)),
        (lambda server: SDKS["google-genai"].make(server.url, False), lambda c: c.models.generate_content(model="m", contents="hi")),
    ],
    ids=["openai", "anthropic", "groq", "mistralai", "cohere", "ollama", "google-genai"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_miss_in_replay_reaches_the_caller_unchanged(
    server: Provider, cache: LLMCache, make: Any, ask: Any
) -> None:
    client = cache_client(make(server), cache)
    with options(mode="replay"), pytest.raises(CacheMissError):
        ask(client)
    assert (server.calls, cache.stats().misses) == (0, 1)


async def test_and_through_the_async_ones(server: Provider, cache: LLMCache) -> None:
    async with cache_client(openai.AsyncOpenAI(api_key="k", base_url=server.url), cache) as client:
        with options(mode="replay"):
            with pytest.raises(CacheMissError):
                await chat(client)
            with pytest.raises(CacheMissError):
                await client.chat.completions.create(model="m", messages=ASKED, stream=True)
            with pytest.raises(RequestNotCacheable):
                await client.models.list()
    async with cache_client(
        anthropic.AsyncAnthropic(api_key="k", base_url=server.url), cache
    ) as claude:
        with options(mode="replay"), pytest.raises(CacheMissError):
            await claude.messages.create(model="m", max_tokens=9, messages=ASKED)
    assert server.calls == 0


# -- What cannot be done


@pytest.mark.parametrize("thing", [None, 5, "client", object()])
def test_an_object_without_an_http_client_is_rejected(cache: LLMCache, thing: Any) -> None:
    with pytest.raises(TypeError, match=r"http_client=httpx\.Client"):
        cache_client(thing, cache)


def test_the_arguments_the_wrong_way_round_are_refused(server: Provider, cache: LLMCache) -> None:
    with make_openai(server) as client, pytest.raises(TypeError, match="are swapped"):
        cache_client(cache, client)  # type: ignore[arg-type]


# -- Under LangChain


def test_langchain_models_work_on_cached_clients(server: Provider, cache: LLMCache) -> None:
    from langchain_anthropic import ChatAnthropic
    from langchain_openai import ChatOpenAI

    with httpx2.Client(transport=CacheTransport(cache)) as http:
        gpt = ChatOpenAI(model="m", api_key="k", base_url=f"{server.url}/v1", http_client=http)
        first, second = gpt.invoke("hi"), gpt.invoke("hi")
        assert (first.content, second.content, server.calls) == ("Paris.", "Paris.", 1)
        assert first.usage_metadata == second.usage_metadata
        claude = ChatAnthropic(model="m", api_key="k", base_url=server.url)
        claude.__dict__["_client"] = cache_client(claude._client, cache)
        assert claude.invoke("hi").content == claude.invoke("hi").content == "Paris."
    assert server.calls == 2


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
def test_llama_index_models_work_on_cached_clients(server: Provider, cache: LLMCache) -> None:
    llms = pytest.importorskip(
        "llama_index.llms.openai", reason="LlamaIndex's package is not here", exc_type=ImportError
    )
    from llama_index.core.base.llms.types import ChatMessage

    with httpx2.Client(transport=CacheTransport(cache)) as http:
        llm = llms.OpenAI(
            model="gpt-4o", api_key="k", api_base=f"{server.url}/v1", http_client=http
        )
        answers = [llm.chat([ChatMessage("hi")]).message.content for _ in range(2)]
    assert (answers, server.calls) == (["Paris.", "Paris."], 1)


# -- With requests kept


def test_a_stored_request_shows_the_difference_and_no_secret(server: Provider) -> None:
    cache = LLMCache(keep_requests=True)
    with cache_client(
        openai.OpenAI(api_key="sk-SECRET", base_url=f"{server.url}/v1", organization="org-SECRET"),
        cache,
    ) as client:
        client.chat.completions.create(model="m", messages=ASKED, temperature=0)
        with options(mode="replay"), pytest.raises(CacheMissError, match="temperature") as missed:
            client.chat.completions.create(model="m", messages=ASKED, temperature=1)
    kept = [entry.request or b"" for _, entry in cache.engine.entries()]
    assert b'"http.path"' in kept[0]
    assert not any("SECRET" in text for text in (str(missed.value), repr(kept)))
