"""Tool results over each kind of store: shared, invalidated from elsewhere, replayed, encrypted,
with requests kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import LLMCache, options
from llm_cache_mem.tools import ToolCache


@pytest.fixture(params=["sqlite", "redis", "jsonl", "encrypted"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], ToolCache]:
    """Opens a ToolCache on the same store each time."""
    settings: dict[str, Any] = {
        "backend": tmp_path / ("c.jsonl" if request.param == "jsonl" else "c.db")
    }
    if request.param == "redis":
        settings = {"backend": request.getfixturevalue("redis_url"), "namespace": tmp_path.name}
    if request.param == "encrypted":
        pytest.importorskip("cryptography")
        settings["encryption_key"] = bytes(range(32))

    def open_it() -> ToolCache:
        tools = ToolCache(**settings)
        tools.allow("user", depends_on="user:{id}")
        return tools

    return open_it


def ask(tools: ToolCache, answer: str, id: int = 1) -> str:
    return tools.get_or_call("user", {"id": id}, lambda: answer)


def test_shared_and_invalidated_from_elsewhere(opened: Callable[[], ToolCache]) -> None:
    with opened() as here:
        assert [ask(here, "first"), ask(here, "second")] == ["first", "first"]
        assert ask(here, "other", 2) == "other"
    with opened() as here:
        assert ask(here, "second") == "first"
        here.invalidate(entity="user:1")
        assert ask(here, "second") == "second"
        assert ask(here, "third", 2) == "other"
        here.invalidate()
        assert ask(here, "third", 2) == "third"
        assert here.invalidate("user", {"id": 2})
        assert ask(here, "fourth", 2) == "fourth"
    with opened() as here, options(mode="replay"):
        assert ask(here, "nobody runs this", 2) == "fourth"


@pytest.mark.parametrize("made_invalid_by", ["a write", "its name", "its arguments"])
@pytest.mark.parametrize("back", ["redis", "sqlite"])
def test_memory_front_honours_invalidation_by_others(
    back: str, made_invalid_by: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = (
        request.getfixturevalue("redis_url")
        if back == "redis"
        else f"sqlite:///{tmp_path / 'c.db'}"
    )
    caches = [ToolCache(backend=f"tiered:memory,{url}", namespace=tmp_path.name) for _ in range(2)]
    for tools in caches:
        tools.allow("user", depends_on="user:{id}")
        tools.writes("rename", entities="user:{id}")
    assert [ask(tools, "first") for tools in caches] == ["first", "first"]
    if made_invalid_by == "a write":
        caches[1].get_or_call("rename", {"id": 1}, lambda: None)
    else:
        caches[1].invalidate("user", *([{"id": 1}] if made_invalid_by == "its arguments" else []))
    assert [ask(tools, "second") for tools in caches] == ["second", "second"]
    for tools in caches:
        tools.close()


def test_requests_are_stored_redacted_and_without_ignored_fields(tmp_path: Path) -> None:
    tools = ToolCache(LLMCache(backend=tmp_path / "c.db", keep_requests=True))
    tools.allow("fetch", ignore=["token"], redact=["password"])
    tools.get_or_call(
        "fetch", {"url": "x", "token": "CANARY", "password": "CANARY"}, lambda: "page"
    )
    kept = [
        json.loads(entry.request)
        for _, entry in tools.cache.engine.entries()
        if entry.request is not None
    ]
    assert [(each["tool"], each["args"]["url"]) for each in kept] == [("fetch", "x")]
    assert "token" not in kept[0]["args"]
    tools.close()
    assert b"CANARY" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


async def test_processes_take_turns(tmp_path: Path) -> None:
    """With coalesce="fleet" a tool is run once by all processes that ask at once, as a model is."""
    import asyncio

    ran = []

    async def slow() -> str:
        ran.append(1)
        await asyncio.sleep(0.05)
        return "done"

    caches = [ToolCache(backend=tmp_path / "c.db", coalesce="fleet") for _ in range(8)]
    ask = [tools.aget_or_call("slow", {}, slow) for tools in caches]
    assert await asyncio.gather(*ask) == ["done"] * 8
    assert len(ran) == 1
    for tools in caches:
        tools.close()
