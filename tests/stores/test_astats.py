"""``astats`` counts entries in a thread, wherever that asks a disk or a server."""

import asyncio
import threading
from pathlib import Path

import pytest

from llm_cache_mem import LLMCache


@pytest.mark.parametrize("kind", ["sqlite", "jsonl", "redis", "memcached", "tiered"])
def test_astats_never_counts_on_the_loop(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {
        "sqlite": f"sqlite:///{tmp_path}/cache.db",
        "jsonl": f"jsonl:///{tmp_path}/cache.jsonl",
        "tiered": f"tiered:memory,sqlite:///{tmp_path}/cache.db",
    }
    place = places.get(kind) or request.getfixturevalue(f"{kind}_url")
    counted_in: list[threading.Thread] = []
    with LLMCache(backend=place) as cache:
        cache.put("q", "answer")
        store = cache.engine.backend.inner
        count = store.size

        def size(prefix: str = "") -> int:
            counted_in.append(threading.current_thread())
            return count(prefix)

        monkeypatch.setattr(store, "size", size)
        assert asyncio.run(cache.astats()).size == 1
    assert counted_in
    assert threading.current_thread() not in counted_in
