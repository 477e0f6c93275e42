"""The incident of March 2023 (redis-py, ChatGPT), through our own calls: tasks are cancelled while
their replies are under way."""

import asyncio
import random
import secrets
from typing import Any

import pytest
from stores.proxy import Proxy, late
from stores.servers import Server

from llm_cache_mem import LLMCache
from llm_cache_mem.stores.memcached import MemcachedStore
from llm_cache_mem.stores.redis import RedisStore

STORES: dict[str, Any] = {"redis": RedisStore, "memcached": MemcachedStore}


@pytest.mark.parametrize("kind", STORES)
async def test_cancelled_tasks_leave_no_reply_for_others(
    kind: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(f"{kind}_server")
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    wrong: list[Any] = []
    rounds = cancelled = 0
    with (
        Proxy(server.port) as proxy,
        LLMCache(backend=STORES[kind](f"{kind}://127.0.0.1:{proxy.port}", timeout=20)) as cache,
    ):
        for number in range(20):
            await cache.aput(str(number), number)
        proxy.rule = late(0.0005)

        async def one(number: int) -> None:
            found = await cache.aget(str(number))
            if found != number:
                wrong.append((number, found))

        while rounds < 1_500 or (cancelled <= 200 and rounds < 20_000):
            rounds += 1
            tasks = [asyncio.create_task(one(rng.randrange(20))) for _ in range(3)]
            await asyncio.sleep(rng.random() * 0.001)
            tasks[0].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            cancelled += tasks[0].cancelled()
        hits = cache.stats().hits
    print(f"{cancelled} of {rounds} cancelled")
    assert wrong == []
    assert cancelled > 200
    assert hits >= 2 * rounds
