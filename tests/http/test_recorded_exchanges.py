"""Every recorded exchange with a real provider, made again through the real SDK that fits it: the
replayed call gives equal objects."""

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_sdks import SDKS, chosen
from http_server import Provider, Row, reply_of, rows

from llm_cache_mem import LLMCache, installed, options
from llm_cache_mem.http import cache_client
from llm_cache_mem.http.clients import _http_clients

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(model|Model).* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),
    pytest.mark.filterwarnings(
        "ignore:.*:UserWarning"
    ),  # of the SDKs, about answers that are newer or older than they are
]


def outcome(call: Callable[[], Any]) -> tuple[Any, Any]:
    """What a call gives, or the kind and the status of what it raises."""
    try:
        return call(), None
    except Exception as exc:
        return None, (type(exc), getattr(exc, "status_code", getattr(exc, "code", None)))


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def recorded(shared_data: Path) -> list[Row]:
    return rows(shared_data)


def some(mine: list[Row], most: int) -> list[Row]:
    """*most* of each kind."""
    kinds = Counter[Any]()
    kept = []
    for row in mine:
        kind = (row["endpoint"], row["response"]["status"] == 200, "stream" in row["features"])
        kinds[kind] += 1
        if kinds[kind] <= most:
            kept.append(row)
    return kept


def close(client: Any, runner: asyncio.Runner, *, asynchronous: bool) -> None:
    for http in (
        [client]
        if isinstance(client, (httpx.Client, httpx.AsyncClient))
        else list(_http_clients(client))
    ):
        if hasattr(http, "aclose"):
            runner.run(http.aclose())
        else:
            http.close()


@pytest.mark.parametrize(
    "most", [2, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"]
)
@pytest.mark.parametrize("layer", ["cache_client", "install"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("name", SDKS)
def test_the_replayed_call_equals_the_first(
    recorded: list[Row],
    server: Provider,
    runner: asyncio.Runner,
    name: str,
    asynchronous: bool,
    layer: str,
    most: int | None,
) -> None:
    cache = LLMCache(max_size=None, prices={})
    client = SDKS[name].make(server.url, asynchronous)
    if layer == "cache_client":
        client = cache_client(client, cache)
        gc.collect()  # what it was made from is gone, as with cache_client(OpenAI(), cache)
        replay(recorded, server, runner, name, asynchronous, most, client, cache)
    else:
        # the recorded paths of other servers, of which this machine's have not all
        with installed(cache, hosts=[server.url]):
            replay(recorded, server, runner, name, asynchronous, most, client, cache)
            if asynchronous and hasattr(client, "aio"):
                runner.run(client.aio.aclose())  # the session of aiohttp


def replay(
    recorded: list[Row],
    server: Provider,
    runner: asyncio.Runner,
    name: str,
    asynchronous: bool,
    most: int | None,
    client: Any,
    cache: LLMCache,
) -> None:
    sdk, tried = SDKS[name], Counter[str]()
    mine = [row for row in recorded if chosen(row) == name] or [
        row for row in recorded if row["provider"] == "anthropic"
    ]
    if most is not None:
        mine = some(mine, most)
    for row in mine:
        server.gives(reply_of(row))
        calls, stored, failed = server.calls, cache.stats().stored, row["response"]["status"] != 200

        def ask(row: Row = row) -> Any:
            return sdk.asynchronous(client, row, runner) if asynchronous else sdk.sync(client, row)

        with options(namespace=row["id"], stateful=True):
            first = outcome(ask)
            if (
                server.calls == calls
            ):  # what was recorded is no request that this version of the SDK would make
                tried["not sent"] += 1
                continue
            second = outcome(ask)
        kept = cache.stats().stored - stored
        assert second == first, (row["id"], row["provider"], row["endpoint"])
        assert server.calls - calls == (1 if kept else 2), (
            row["id"],
            row["provider"],
            row["endpoint"],
            cache.stats().skipped,
        )
        assert not (failed and kept)
        if name != "httpx":
            assert (first[1] is not None) >= failed
        tried[f"{row['endpoint']}: {'failed' if failed else 'kept' if kept else 'not kept'}"] += 1
    print(name, dict(sorted(tried.items())), cache.stats().skipped)
    assert sum(count for what, count in tried.items() if what.endswith(": kept")) >= len(mine) / 4
    close(client, runner, asynchronous=asynchronous)
    assert not any(
        "SECRET" in repr((key, entry.payload.decode())) for key, entry in cache.engine.entries()
    )
