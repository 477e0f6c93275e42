"""Readers and writers at once: nobody is given what was so before a write that had ended when he
asked."""

import random
import threading
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import LLMCache
from llm_cache_mem.tools import ToolCache

USERS = 4


def race(caches: list[ToolCache], rounds: int, seed: int) -> list[str]:
    """Threads over *caches* read users and add one to them; every reading that was too old."""
    state, locks = dict.fromkeys(range(USERS), 0), [threading.Lock() for _ in range(USERS)]
    published = dict.fromkeys(range(USERS), 0)  # at least this is what a reader must see
    wrong: list[str] = []

    def work(tools: ToolCache, own: random.Random) -> None:
        for _ in range(rounds):
            user = own.randrange(USERS)
            if own.random() < 0.2:
                with locks[user]:
                    now = state[user] + 1

                    def write(user: int = user, now: int = now) -> None:
                        state[user] = now

                    tools.get_or_call("write", {"user": user}, write)
                    published[user] = now
            else:
                least = published[user]
                found = tools.get_or_call("read", {"user": user}, lambda user=user: state[user])  # type: ignore[misc]
                if found < least:
                    wrong.append(f"seed {seed}: user {user} was {found} after {least}")

    for tools in caches:
        tools.allow("read", depends_on="user:{user}")
        tools.writes("write", entities="user:{user}")
    threads = [
        threading.Thread(target=work, args=(caches[i % len(caches)], random.Random(seed + i)))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert sum(state.values()) > 0
    return wrong


def two_caches(kind: str, folder: Path, **settings: Any) -> list[ToolCache]:
    if kind == "memory":
        cache = LLMCache(**settings)
        return [ToolCache(cache), ToolCache(cache)]
    return [ToolCache(backend=folder / "c.db", **settings) for _ in range(2)]


@pytest.mark.parametrize(
    ("kind", "settings"), [("memory", {}), ("memory", {"max_size": 4}), ("sqlite", {})]
)
def test_no_stale_read(kind: str, settings: Any, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    caches = two_caches(kind, tmp_path, **settings)
    assert race(caches, 300, seed) == []
    assert caches[0].stats().total.hits > 0
    for tools in caches:
        tools.close()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "races", "rounds"), [("memory", 10, 2_000), ("sqlite", 3, 500)])
def test_stale_reads_are_short(kind: str, races: int, rounds: int, tmp_path: Path) -> None:
    for _ in range(races):
        assert race(two_caches(kind, tmp_path), rounds, random.randrange(1 << 32)) == []
