"""Requests by requests, urllib3, boto3 and aiohttp under an installed cache: the same answers, and
the same entries as by httpx."""

import asyncio
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import boto3
import httpx
import openai
import pytest
import requests
import urllib3
from botocore.config import Config
from http_server import Provider, Reply, Row, reply_of, rows
from installation.answers import BODY, CHAT, STREAM, answer

from llm_cache_mem import CacheMissError, LLMCache, installed, options

JSON = {"content-type": "application/json"}


@pytest.fixture
def cache() -> Iterator[LLMCache]:
    cache = LLMCache(prices={}, max_size=None)
    with installed(cache):
        yield cache


def by_requests(url: str, body: Any) -> tuple[int, bytes, str | None]:
    with requests.Session() as session:
        found = session.post(url, json=body)
        return found.status_code, found.content, found.headers.get("x-llm-cache-mem")


def by_requests_stream(url: str, body: Any) -> tuple[int, bytes, str | None]:
    with requests.Session() as session, session.post(url, json=body, stream=True) as found:
        lines = b"\n".join(found.iter_lines()) + b"\n"
        return found.status_code, lines, found.headers.get("x-llm-cache-mem")


def by_urllib3(url: str, body: Any) -> tuple[int, bytes, str | None]:
    with urllib3.PoolManager() as pool:
        found = pool.request("POST", url, body=json.dumps(body), headers=JSON)
        return found.status, found.data, found.headers.get("x-llm-cache-mem")


def by_urllib3_file(url: str, body: Any) -> tuple[int, bytes, str | None]:
    with urllib3.PoolManager() as pool:
        found = pool.request(
            "POST",
            url,
            body=io.BytesIO(json.dumps(body).encode()),
            headers=JSON,
            preload_content=False,
        )
        pieces = []
        while piece := found.read(5):
            pieces.append(piece)
        found.release_conn()
        return found.status, b"".join(pieces), found.headers.get("x-llm-cache-mem")


def by_aiohttp(url: str, body: Any) -> tuple[int, bytes, str | None]:
    async def ask() -> tuple[int, bytes, str | None]:
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as found:
            return found.status, await found.read(), found.headers.get("x-llm-cache-mem")

    return asyncio.run(ask())


def by_aiohttp_lines(url: str, body: Any) -> tuple[int, bytes, str | None]:
    async def ask() -> tuple[int, bytes, str | None]:
        data = json.dumps(body)
        async with aiohttp.ClientSession(headers=JSON) as session:
            found = await session.post(url, data=data)
            lines = [line async for line in found.content]
            found.release()
            return found.status, b"".join(lines), found.headers.get("x-llm-cache-mem")

    return asyncio.run(ask())


WAYS = [
    by_requests,
    by_requests_stream,
    by_urllib3,
    by_urllib3_file,
    by_aiohttp,
    by_aiohttp_lines,
]
Way = Callable[[str, Any], tuple[int, bytes, str | None]]


@pytest.mark.parametrize("piece", [None, 40], ids=["whole", "in pieces"])
@pytest.mark.parametrize("kind", ["json", "stream"])
@pytest.mark.parametrize("ask", WAYS)
def test_a_second_call_gets_the_same_bytes(
    ask: Way, kind: str, piece: int | None, server: Provider, cache: LLMCache
) -> None:
    server.gives((answer() if kind == "json" else STREAM)._replace(piece=piece))
    body = {**BODY, "stream": kind == "stream"}
    first, second = ask(server.url + CHAT, body), ask(server.url + CHAT, body)
    assert first[:2] == second[:2]
    assert first[1].strip() == server.answer(None).body.strip()  # type: ignore[arg-type]
    assert (first[2], second[2]) == ("miss", "hit")
    assert server.calls == 1


@pytest.mark.parametrize("ask", WAYS)
def test_compressed_answers_are_replayed_plain(ask: Way, server: Provider, cache: LLMCache) -> None:
    import gzip

    zipped = gzip.compress(answer().body)
    server.gives(Reply(zipped, headers=(("content-encoding", "gzip"),)))
    found = [ask(server.url + CHAT, BODY) for _ in range(2)]
    assert [body.strip() for _, body, _ in found] == [answer().body] * 2
    assert server.calls == 1


@pytest.mark.parametrize("ask", WAYS)
def test_errors_pass_and_are_not_stored(ask: Way, server: Provider, cache: LLMCache) -> None:
    server.gives(answer(status=400))
    assert [ask(server.url + CHAT, BODY)[0] for _ in range(2)] == [400, 400]
    assert server.calls == 2
    assert cache.stats().size == 0


@pytest.mark.parametrize("ask", WAYS)
def test_other_requests_pass_untouched(ask: Way, server: Provider, cache: LLMCache) -> None:
    server.gives(Reply(b'{"ok": 1}'))
    for _ in range(2):
        assert ask(f"{server.url}/orders", BODY) == (200, ask(f"{server.url}/orders", 1)[1], None)
    assert server.calls == 4
    assert not any(cache.stats().skipped.values())


@pytest.mark.parametrize("ask", WAYS)
def test_replay_raises_the_miss_itself(ask: Way, server: Provider, cache: LLMCache) -> None:
    with options(mode="replay"), pytest.raises(CacheMissError):
        ask(server.url + CHAT, BODY)
    assert server.calls == 0


def test_requests_that_two_libraries_send_alike_share_an_entry(
    server: Provider, cache: LLMCache
) -> None:
    server.gives(answer())
    headers = {**JSON, "user-agent": "u", "accept": "*/*"}
    data = json.dumps(BODY)
    with httpx.Client() as client:
        client.post(server.url + CHAT, content=data, headers=headers)
    with requests.Session() as session:
        session.post(server.url + CHAT, data=data, headers=headers)
    with urllib3.PoolManager() as pool:
        pool.request("POST", server.url + CHAT, body=data, headers=headers)
    assert server.calls == 1


def test_concurrent_tasks_share_a_call_by_aiohttp(server: Provider, cache: LLMCache) -> None:
    server.gives(answer())

    async def ask() -> list[bytes]:
        async with aiohttp.ClientSession() as session:

            async def one() -> bytes:
                async with session.post(server.url + CHAT, json=BODY) as found:
                    return await found.read()

            return await asyncio.gather(*(one() for _ in range(5)))

    assert asyncio.run(ask()) == [answer().body] * 5
    assert server.calls == 1


def test_the_sdks_aiohttp_client_is_covered_and_raises_a_miss(
    server: Provider, cache: LLMCache
) -> None:
    server.gives(answer())

    async def ask(mode: Any) -> Any:
        with options(mode=mode):
            async with openai.AsyncOpenAI(
                api_key="k",
                base_url=f"{server.url}/v1",
                http_client=openai.DefaultAioHttpClient(),
            ) as client:
                return await client.chat.completions.create(**BODY)

    with pytest.raises(CacheMissError):
        asyncio.run(ask("replay"))
    assert asyncio.run(ask("on")) == asyncio.run(ask("on"))
    assert server.calls == 1


# -- boto3


def bedrock(server: Provider) -> Any:
    return boto3.client(
        "bedrock-runtime",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="A",
        aws_secret_access_key="SECRET",
        config=Config(retries={"max_attempts": 1}),
    )


def ask_bedrock(client: Any, row: Row) -> Any:
    """Make a recorded request again; the answer as plain data, without its HTTP metadata."""
    body = row["request"]["body"]
    method = {
        "converse": "converse",
        "converse-stream": "converse_stream",
        "invoke": "invoke_model",
        "invoke-stream": "invoke_model_with_response_stream",
    }[row["endpoint"]]
    given = json.loads(body) if method.startswith("converse") else {"body": body}
    found = getattr(client, method)(modelId=row["model"], **given)
    found.pop("ResponseMetadata")
    if "stream" in found:
        found["stream"] = list(found["stream"])
    elif method == "invoke_model":
        found["body"] = found["body"].read()
    elif "body" in found:
        found["body"] = list(found["body"])
    return found


def test_every_recorded_exchange_with_bedrock_by_boto3(
    shared_data: Any, server: Provider, cache: LLMCache
) -> None:
    client, asked, failed = bedrock(server), 0, Counter[str]()
    by = Counter[Any]()
    for row in rows(shared_data):
        if row["provider"] != "bedrock" or row["response"]["status"] != 200:
            continue
        server.gives(reply_of(row))
        calls, stored = server.calls, cache.stats().stored
        with options(namespace=row["id"]):
            try:
                first = ask_bedrock(client, row)
            except Exception as exc:
                failed[type(exc).__name__] += 1
                continue
            second = ask_bedrock(client, row)
        assert first == second, row["id"]
        kept = cache.stats().stored > stored
        assert server.calls - calls == (1 if kept else 2), (row["id"], cache.stats().skipped)
        asked += kept
        by[row["endpoint"], kept] += 1
    print("replayed by boto3:", asked, dict(by), dict(failed), cache.stats().skipped)
    assert asked >= 25
    assert set(failed) <= {"ParamValidationError", "EventStreamError"}
    assert "" not in cache.stats().by_model
    with options(mode="replay", namespace="none"), pytest.raises(CacheMissError):
        client.converse(modelId="m", messages=[{"role": "user", "content": [{"text": "hi"}]}])
    client.close()
