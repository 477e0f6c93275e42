"""What the workers of a gateway count, added up."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import LLMCache, options
from llm_cache_mem.gateway.feed import Feed
from llm_cache_mem.gateway.workers import Workers

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "model": "m"}
NOW = 1_000_000.0


def worker(folder: Path | None, hits: int) -> tuple[Workers, Feed]:
    feed = Feed(lambda: NOW)
    cache = LLMCache(on_event=feed.event, prices={}, clock=lambda: NOW)
    with options(tags={"team": "search"}):
        cache.put(value="hi", **ASK)
        for _ in range(hits):
            call = feed.begin("openai", "/v1/chat/completions")
            cache.get(**ASK)
            call.outcome = "hit"
            feed.end(call)
    return Workers(cache.engine, feed, None if folder is None else str(folder)), feed


async def write(workers: Workers) -> None:
    await workers.start()
    await workers.stop()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Workers, Feed]:
    """A worker with 2 hits, beside another, which has ended, with 3."""
    other, _ = worker(tmp_path, 3)
    asyncio.run(write(other))
    (written,) = tmp_path.glob("worker-*.json")
    assert written.stat().st_mode & 0o077 == 0
    written.rename(tmp_path / "worker-0.json")
    return worker(tmp_path, 2)


def test_sums_are_those_of_all_workers(pair: Any) -> None:
    sums = pair[0].sums()
    assert (sums["asked"], sums["hits"], sums["avoided"], sums["stored"]) == (5, 5, 5, 2)
    assert [(row["model"], row["hits"]) for row in sums["models"]] == [("m", 5)]
    assert [(row["tag"], row["hits"]) for row in sums["tags"]] == [("team=search", 5)]
    assert [(row["asked"], row["avoided"]) for row in sums["minutes"]] == [(5, 5)]
    assert sums["began"] == NOW


def test_calls_are_those_of_all_workers(pair: Any, tmp_path: Path) -> None:
    workers, feed = pair
    assert len(workers.last()) == 5

    async def follow() -> list[Any]:
        calls = workers.follow(0.01)
        own = asyncio.ensure_future(anext(calls))
        await asyncio.sleep(0)
        feed.end(feed.begin("openai", "/own"))
        seen = [await own]
        file = tmp_path / "worker-0.json"
        written = json.loads(file.read_bytes())
        written["calls"].append({**written["calls"][-1], "number": 99, "path": "/theirs"})
        file.write_text(json.dumps(written))
        return [*seen, await anext(calls)]

    assert [call["path"] for call in asyncio.run(follow())] == ["/own", "/theirs"]


def test_broken_files_and_a_missing_folder_cost_nothing(pair: Any, tmp_path: Path) -> None:
    (tmp_path / "worker-1.json").write_text('{"hits": 1')
    assert pair[0].sums()["hits"] == 5
    lost, _ = worker(tmp_path / "gone", 1)
    asyncio.run(write(lost))
    assert lost.sums()["hits"] == 1
