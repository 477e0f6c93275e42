"""What a shared store costs: a hit on Memcached against its client alone, a hit in front of it
against a hit in memory."""

import asyncio
import contextlib
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Variant, Work, compare, show
from benchmarks.redis_hit import CALLS, ENTRIES, asked_in_tasks, random_requests
from benchmarks.servers import memcached_server
from benchmarks.workload import BATCH, SIZES, VALUE, fresh, request
from llm_cache_mem import LLMCache

__all__ = ["memcached", "tiered"]


def memcached() -> None:
    """A hit on random entries, from a thread and from tasks, against pymemcache, which only fetches
    the bytes: CPU of the process, then the wall clock."""
    from pymemcache.client.base import PooledClient

    with (
        memcached_server() as port,
        LLMCache(backend=f"memcached://127.0.0.1:{port}") as cache,
        contextlib.closing(PooledClient(("127.0.0.1", port), no_delay=True)) as client,
        asyncio.Runner() as runner,
    ):
        for number in range(ENTRIES):
            cache.put(value=VALUE, **request("S", number))
        names = [f"lcm:{key}" for key, _ in cache.engine.entries()]
        assert len(client.get(random.choice(names))) > 1_000

        def ask(request: dict[str, Any]) -> Any:
            return cache.aget(**request)

        def in_tasks(tasks: int) -> list[Work]:
            picked = random_requests("S")
            return [lambda: runner.run(asked_in_tasks(ask, picked, tasks))]

        variants = [
            Variant(
                "pymemcache, bytes only",
                lambda: [lambda n=n: client.get(n) for n in random.choices(names, k=CALLS)],
            ),
            Variant(
                "llm-cache-mem", lambda: [lambda q=q: cache.get(**q) for q in random_requests("S")]
            ),
            Variant("aget, 1 task", lambda: in_tasks(1), CALLS),
            Variant("aget, 100 tasks", lambda: in_tasks(100), CALLS),
        ]
        for timer, name in ((time.process_time, "CPU"), (time.perf_counter, "wall")):
            results = compare(variants, rounds=15, timer=timer)
            show(f"hit on Memcached, S, {ENTRIES:,} entries, {name}", results)


def tiered() -> None:
    """A hit in front of Memcached and of SQLite against one in memory; SQLite is asked each time
    whether anybody has written."""
    with memcached_server() as port, tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            asked = request(size)
            backends = {
                "memory": "memory",
                "llm-cache-mem": f"tiered:memory,memcached://127.0.0.1:{port}",
            }
            backends["in front of SQLite"] = f"tiered:memory,{Path(folder, size)}.db"
            with contextlib.ExitStack() as stack:
                caches = {
                    name: stack.enter_context(LLMCache(backend=backend))
                    for name, backend in backends.items()
                }
                for cache in caches.values():
                    cache.put(value=VALUE, **asked)
                variants = [
                    Variant(
                        name,
                        lambda cache=cache: [
                            lambda q=q: cache.get(**q) for q in fresh(asked, BATCH[size])
                        ],
                    )
                    for name, cache in caches.items()
                ]
                show(
                    f"hit in memory in front of Memcached, {size}",
                    compare(variants, rounds=21),
                    1.3,
                )
