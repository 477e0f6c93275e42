"""Embeddings text by text: only texts that are not stored are sent, and each answer is the one that
the provider would have given to the whole list."""

import asyncio
import base64
import json
import random
import threading
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import pytest
from http_server import Asked, Provider, Reply

from llm_cache_mem import CacheMissError, LLMCache, installed, options
from llm_cache_mem.http import AsyncCacheTransport, CacheTransport

SEED = 17


def vector(text: Any, size: int = 24, kind: str = "float") -> Any:
    """The vector of *text*: the same in every request."""
    numbers = random.Random(json.dumps(text))
    found = array("f", (numbers.gauss(0, 0.05) for _ in range(size)))
    if kind == "base64":
        return base64.b64encode(found.tobytes()).decode()
    if kind == "int8":
        return [numbers.randrange(-128, 128) for _ in range(size)]
    return [float(format(number, ".7g")) for number in found]


def tokens(text: Any) -> int:
    return len(text.split()) if isinstance(text, str) else len(text)


class Shape(NamedTuple):
    """How one provider is asked, and how it answers."""

    path: str
    body: Callable[[list[Any]], dict[str, Any]]
    texts: Callable[[dict[str, Any]], list[Any]]
    answer: Callable[[dict[str, Any], list[Any]], dict[str, Any]]


def listed(body: dict[str, Any]) -> list[Any]:
    given = body["input"]
    alone = isinstance(given, str) or isinstance(given[0], int)
    return [given] if alone else given


def openai_answer(body: dict[str, Any], texts: list[Any]) -> dict[str, Any]:
    kind, used = body.get("encoding_format", "float"), sum(map(tokens, texts))
    size = body.get("dimensions", 24)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": at, "embedding": vector(text, size, kind)}
            for at, text in enumerate(texts)
        ],
        "model": body["model"],
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def cohere_answer(body: dict[str, Any], texts: list[Any]) -> dict[str, Any]:
    kinds = body["embedding_types"]
    return {
        "id": "one",
        "embeddings": {kind: [vector(text, 24, kind) for text in texts] for kind in kinds},
        "texts": texts,
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"input_tokens": sum(map(tokens, texts))},
        },
        "response_type": "embeddings_by_type",
    }


def gemini_text(asked: dict[str, Any]) -> str:
    text: str = asked["content"]["parts"][0]["text"]
    return text


SHAPES = {
    "openai": Shape(
        "/v1/embeddings",
        lambda texts: {"input": texts, "model": "m", "encoding_format": "base64"},
        listed,
        openai_answer,
    ),
    "azure": Shape(
        "/openai/deployments/m/embeddings?api-version=2024-10-21",
        lambda texts: {"model": "m", "input": texts, "dimensions": 16},
        listed,
        openai_answer,
    ),
    "cohere": Shape(
        "/v2/embed",
        lambda texts: {
            "model": "m",
            "texts": texts,
            "input_type": "search_document",
            "embedding_types": ["float", "int8", "base64"],
        },
        lambda body: body["texts"],
        cohere_answer,
    ),
    "gemini": Shape(
        "/v1beta/models/m:batchEmbedContents",
        lambda texts: {
            "requests": [
                {"model": "models/m", "content": {"parts": [{"text": text}]}} for text in texts
            ]
        },
        lambda body: list(map(gemini_text, body["requests"])),
        lambda body, texts: {
            "embeddings": [{"values": vector(text)} for text in texts],
            "usageMetadata": {"promptTokenCount": sum(map(tokens, texts))},
        },
    ),
    "ollama": Shape(
        "/api/embed",
        lambda texts: {"model": "m", "input": texts},
        listed,
        lambda body, texts: {
            "model": "m",
            "embeddings": list(map(vector, texts)),
            "prompt_eval_count": sum(map(tokens, texts)),
        },
    ),
    "mistral": Shape(
        "/v1/embeddings",
        lambda texts: {"model": "mistral-embed", "input": texts},
        listed,
        lambda body, texts: {"id": "e", **openai_answer(body, texts)},
    ),
    "voyage": Shape(
        "/v1/embeddings",
        lambda texts: {"input": texts, "model": "voyage-3", "input_type": "document"},
        listed,
        lambda body, texts: {
            **openai_answer(body, texts),
            "usage": {"total_tokens": sum(map(tokens, texts))},
        },
    ),
}


def serve(server: Provider, shape: Shape, sent: list[Any]) -> None:
    """Answer as *shape* does; *sent* gets each text that comes."""

    def answer(asked: Asked) -> Reply:
        texts = shape.texts(asked.body)
        sent.extend(texts)
        return Reply(json.dumps(shape.answer(asked.body, texts)).encode())

    server.answer = answer


@pytest.fixture
def cache() -> LLMCache:
    return LLMCache(prices={}, max_size=100_000)


@pytest.fixture
def sent() -> list[Any]:
    return []


def client(server: Provider, cache: LLMCache) -> httpx.Client:
    return httpx.Client(base_url=server.url, transport=CacheTransport(cache))


def asked(client: httpx.Client, shape: Shape, texts: Any) -> Any:
    response = client.post(shape.path, json=shape.body(texts))
    assert response.status_code == 200
    return response.json()


def check_batches(name: str, number: int) -> None:
    print("seed", SEED)
    chance, shape, sent = random.Random(f"{SEED} {name}"), SHAPES[name], []
    words = [f"w{n}" for n in range(40)]
    texts = [
        " ".join(chance.choices(words, k=chance.randrange(1, 9))) + f" t{n}" for n in range(400)
    ]

    def handle(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        found = shape.texts(body)
        sent.append(found)
        return httpx.Response(200, json=shape.answer(body, found))

    cache = LLMCache(prices={}, max_size=300)  # fewer than there are texts
    transport = CacheTransport(cache, httpx.MockTransport(handle))
    with httpx.Client(base_url="http://provider", transport=transport) as http:
        for _ in range(number):
            batch = chance.choices(texts, k=chance.randrange(1, 12))
            seen = len(sent)
            body = shape.body(batch)
            assert http.post(shape.path, json=body).json() == shape.answer(body, batch)
            assert all(len(set(each)) == len(each) for each in sent[seen:])
            assert len(sent) - seen <= 1


@pytest.mark.parametrize("name", SHAPES)
def test_answers_are_those_to_the_whole_list(name: str) -> None:
    check_batches(name, 30)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_answers_to_10_000_batches_are_right(name: str) -> None:
    check_batches(name, 2_000)


# -- What is sent


def test_of_1000_texts_the_10_that_changed_are_sent(
    server: Provider, cache: LLMCache, sent: list[Any]
) -> None:
    shape = SHAPES["openai"]
    serve(server, shape, sent)
    texts = [f"text {n}" for n in range(1000)]
    with client(server, cache) as http:
        asked(http, shape, texts)
        changed = [f"new {n}" if n % 100 == 5 else text for n, text in enumerate(texts)]
        sent.clear()
        answer = asked(http, shape, changed)
    assert sent == [text for text in changed if text.startswith("new")]
    assert len(server.asked) == 2
    assert answer == shape.answer(shape.body(changed), changed)
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.size) == (990, 1010, 1010)
    assert stats.provider_by_model["m"].calls == 2


def test_text_alone_and_in_a_list_share_an_entry(
    server: Provider, cache: LLMCache, sent: list[Any]
) -> None:
    shape = SHAPES["openai"]
    serve(server, shape, sent)
    with client(server, cache) as http:
        alone = asked(http, shape, "one text")
        assert asked(http, shape, ["one text"]) == alone
        asked(http, shape, ["another", "one text"])
        assert asked(http, shape, "another") == shape.answer(shape.body("another"), ["another"])
    assert sent == ["one text", "another"]


def test_gemini_single_and_batch_share_an_entry(
    server: Provider, cache: LLMCache, sent: list[Any]
) -> None:
    def answer(request: Asked) -> Reply:
        if request.path.endswith("embedContent"):
            sent.append("single")
            text = gemini_text(request.body)
            return Reply(json.dumps({"embedding": {"values": vector(text)}}).encode())
        texts = SHAPES["gemini"].texts(request.body)
        sent.extend(texts)
        return Reply(json.dumps(SHAPES["gemini"].answer(request.body, texts)).encode())

    server.answer = answer
    content = {"parts": [{"text": "a text"}]}
    with client(server, cache) as http:
        path = "/v1beta/models/m:embedContent"
        single = http.post(path, json={"content": content}).json()
        assert single == {"embedding": {"values": vector("a text")}}
        both = asked(http, SHAPES["gemini"], ["a text", "b"])
        assert [item["values"] for item in both["embeddings"]] == [vector("a text"), vector("b")]
        b = http.post(path, json={"content": {"parts": [{"text": "b"}]}}).json()
        assert b["embedding"] == {"values": vector("b")}
    assert sent == ["single", "b"]


def test_tokens_and_texts_do_not_share(server: Provider, cache: LLMCache, sent: list[Any]) -> None:
    shape = SHAPES["openai"]
    serve(server, shape, sent)
    with client(server, cache) as http:
        for _ in range(2):
            assert asked(http, shape, [1, 2, 3]) == shape.answer(shape.body(0), [[1, 2, 3]])
            both = asked(http, shape, [[4], [1, 2, 3]])
            assert both == shape.answer(shape.body(0), [[4], [1, 2, 3]])
            asked(http, shape, "[1, 2, 3]")
    assert sent == [[1, 2, 3], [4], "[1, 2, 3]"]


def test_images_stay_one_request(server: Provider, cache: LLMCache) -> None:
    answer = {"embeddings": {"float": [vector("image")]}, "images": [{"width": 1}]}
    server.answer = lambda asked: Reply(json.dumps(answer).encode())
    body = {"model": "m", "images": ["data:image/png;base64,AAAA"], "input_type": "image"}
    with client(server, cache) as http:
        assert http.post("/v2/embed", json=body).json() == answer
        assert http.post("/v2/embed", json=body).json() == answer
    assert (len(server.asked), cache.stats().hits) == (1, 1)


def test_vectors_that_depend_on_the_list_stay_one_request(
    server: Provider, cache: LLMCache, sent: list[Any]
) -> None:
    shape = SHAPES["openai"]
    serve(server, shape, sent)
    with client(server, cache) as http:
        for texts in (["a", "b"], ["a", "c"], ["a", "b"]):
            http.post(shape.path, json={**shape.body(texts), "late_chunking": True})
    assert sent == ["a", "b", "a", "c"]
    assert cache.stats().hits == 1


@pytest.mark.parametrize("empty", [None, []])
def test_empty_vectors_are_not_stored(
    empty: Any, server: Provider, cache: LLMCache, sent: list[Any]
) -> None:
    shape = SHAPES["mistral"]
    serve(server, shape, sent)
    whole = server.answer

    def with_an_empty_one(asked: Asked) -> Reply:
        body = json.loads(whole(asked).body)
        body["data"][0]["embedding"] = empty
        return Reply(json.dumps(body).encode())

    with client(server, cache) as http:
        server.answer = with_an_empty_one
        asked(http, shape, ["a", "b"])
        server.answer = whole
        found = asked(http, shape, ["a", "b"])
    assert [item["embedding"] for item in found["data"]] == list(map(vector, "ab"))
    assert sent == ["a", "b", "a"]


def test_other_settings_are_other_entries(
    server: Provider, cache: LLMCache, sent: list[Any]
) -> None:
    shape = SHAPES["openai"]
    serve(server, shape, sent)
    with client(server, cache) as http:
        for changes in ({}, {"dimensions": 8}, {"encoding_format": "float"}, {"model": "n"}):
            body = {**shape.body(["a", "b"]), **changes}
            for _ in range(2):
                found = http.post(shape.path, json=body).json()
                assert found == shape.answer(body, ["a", "b"])
    assert len(sent) == 8


def test_signed_bodies_are_not_changed(server: Provider, cache: LLMCache, sent: list[Any]) -> None:
    shape = SHAPES["openai"]
    serve(server, shape, sent)
    with client(server, cache) as http:
        http.headers["x-amz-content-sha256"] = "digest"
        asked(http, shape, ["a"])
        asked(http, shape, ["a", "b"])
    assert sent == ["a", "a", "b"]


# -- What does not come


def test_error_is_passed_on_and_stored_texts_stay(
    server: Provider, cache: LLMCache, sent: list[Any]
) -> None:
    shape = SHAPES["openai"]
    with client(server, cache) as http:
        serve(server, shape, sent)
        asked(http, shape, ["a"])
        server.answer = lambda asked: Reply(b'{"error": {"message": "busy"}}', status=429)
        response = http.post(shape.path, json=shape.body(["a", "b"]))
        assert (response.status_code, response.json()["error"]["message"]) == (429, "busy")
        serve(server, shape, sent)
        asked(http, shape, ["a", "b"])
    assert sent == ["a", "b"]


def test_vectors_that_came_are_stored(server: Provider, cache: LLMCache, sent: list[Any]) -> None:
    shape = SHAPES["mistral"]
    serve(server, shape, sent)
    whole = server.answer

    def without_the_second(asked: Asked) -> Reply:
        body = json.loads(whole(asked).body)
        del body["data"][1]
        return Reply(json.dumps(body).encode())

    with client(server, cache) as http:
        server.answer = without_the_second
        assert len(asked(http, shape, ["a", "b", "c"])["data"]) == 2
        server.answer = whole
        sent.clear()
        found = asked(http, shape, ["a", "b", "c"])
    assert [item["embedding"] for item in found["data"]] == list(map(vector, "abc"))
    assert sent == ["b"]


@pytest.mark.parametrize("body", [b"<html>", b'{"data": 5}', b'{"data": [1]}', b"[]"])
def test_what_is_no_answer_goes_to_the_caller(
    body: bytes, server: Provider, cache: LLMCache
) -> None:
    shape = SHAPES["openai"]
    server.answer = lambda asked: Reply(body)
    with client(server, cache) as http:
        for _ in range(2):
            assert http.post(shape.path, json=shape.body(["a", "b"])).content == body
    assert (len(server.asked), cache.stats().size) == (2, 0)


def test_replay_names_a_text_that_is_not_recorded(
    server: Provider, cache: LLMCache, sent: list[Any]
) -> None:
    shape = SHAPES["openai"]
    serve(server, shape, sent)
    with client(server, cache) as http:
        asked(http, shape, ["a", "b"])
        with options(mode="replay"):
            asked(http, shape, ["b", "a"])
            with pytest.raises(CacheMissError):
                http.post(shape.path, json=shape.body(["a", "c"]))


# -- At once, and over all libraries


def test_overlapping_batches_send_each_text_once(
    server: Provider, cache: LLMCache, sent: list[Any]
) -> None:
    shape, together = SHAPES["openai"], threading.Barrier(8)
    serve(server, shape, sent)
    texts = [f"text {n}" for n in range(20)]
    wrong: list[Any] = []

    def ask(number: int) -> None:
        mine = random.Random(f"{SEED} {number}").sample(texts, 12)
        with client(server, cache) as http:
            together.wait()
            found = asked(http, shape, mine)
            if found != shape.answer(shape.body(mine), mine):
                wrong.append(mine)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(sent) == len(set(sent))


def test_tasks_send_each_text_once(server: Provider, cache: LLMCache, sent: list[Any]) -> None:
    shape = SHAPES["openai"]
    serve(server, shape, sent)

    async def main() -> list[Any]:
        transport = AsyncCacheTransport(cache)
        async with httpx.AsyncClient(base_url=server.url, transport=transport) as http:
            batches = [["a", "b"], ["b", "c"], ["a", "c", "d"]]
            found = await asyncio.gather(
                *(http.post(shape.path, json=shape.body(batch)) for batch in batches)
            )
            return [
                each.json() == shape.answer(shape.body(batch), batch)
                for each, batch in zip(found, batches, strict=True)
            ]

    assert asyncio.run(main()) == [True] * 3
    assert sorted(sent) == ["a", "b", "c", "d"]


def by_requests(url: str, body: Any) -> Any:
    import requests

    return requests.post(url, json=body, timeout=10).json()


def by_aiohttp(url: str, body: Any) -> Any:
    import aiohttp

    async def post() -> Any:
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
            return await response.json()

    return asyncio.run(post())


def by_httpx(url: str, body: Any) -> Any:
    return httpx.post(url, json=body).json()


def test_all_libraries_share_the_entries_of_texts(
    server: Provider, cache: LLMCache, sent: list[Any]
) -> None:
    shape = SHAPES["ollama"]
    serve(server, shape, sent)
    with installed(cache):
        for number, post in enumerate((by_requests, by_aiohttp, by_httpx)):
            texts = [f"text {n}" for n in range(number, number + 3)]
            for _ in range(2):
                found = post(server.url + shape.path, shape.body(texts))
                assert found == shape.answer(shape.body(texts), texts)
    assert sent == [f"text {n}" for n in range(5)]


# -- What is stored


@pytest.mark.parametrize("kind", ["base64", "float"])
def test_entry_of_1536_dimensions_is_small(kind: str, server: Provider, tmp_path: Any) -> None:
    shape = SHAPES["openai"]
    serve(server, shape, [])
    cache = LLMCache(backend=str(tmp_path / "cache.db"), prices={})
    body = {**shape.body(["a", "b"]), "encoding_format": kind, "dimensions": 1536}
    with client(server, cache) as http:
        first = http.post(shape.path, json=body).json()
        assert http.post(shape.path, json=body).json() == first
    for key, entry in cache.engine.entries():
        assert len(entry.pack(key)) <= 6500
    cache.close()


def test_usage_that_is_paid_for_is_all_that_zero_reports(server: Provider, cache: LLMCache) -> None:
    shape = SHAPES["openai"]
    serve(server, shape, [])
    transport = CacheTransport(cache, usage="zero")
    with httpx.Client(base_url=server.url, transport=transport) as http:
        assert asked(http, shape, ["one two", "three"])["usage"]["total_tokens"] == 3
        assert asked(http, shape, ["three", "four five"])["usage"]["total_tokens"] == 2
        assert asked(http, shape, ["one two", "three"])["usage"]["total_tokens"] == 0
