"""Hits on a Redis server of its own, from a thread and from tasks of an event loop, against
redis-py, which only fetches the bytes, and against one GET on a bare socket."""

import asyncio
import contextlib
import json
import random
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from time import perf_counter, process_time
from typing import Any

from benchmarks.harness import Variant, Work, compare, show
from benchmarks.servers import connected, redis_server
from benchmarks.workload import VALUE, request
from llm_cache_mem import LLMCache

__all__ = ["CALLS", "ENTRIES", "asked_in_tasks", "random_requests", "redis"]

OURS = "llm-cache-mem"
ENTRIES = 2_000
CALLS = 500
BATCH = 50
ROUNDS = 15
_NAMES = {process_time: "CPU", perf_counter: "wall"}
_TEXT = json.dumps(VALUE)


def redis() -> None:
    """A hit, and 50 entries at once, where there are a redis-server and its client."""
    if shutil.which("redis-server") is None or find_spec("redis") is None:
        print("\n  not installed: redis-server, or redis for Python")
        return
    with redis_server() as port:
        _hits(port)
        _batches(port)


def _hits(port: int) -> None:
    """One caller, then tasks of an event loop; CPU of the whole process, then the wall clock."""
    for size in ("S", "M"):
        with contextlib.closing(LLMCache(backend=f"redis://127.0.0.1:{port}/0")) as cache:
            keys = []
            for number in range(ENTRIES):
                cache.put(value=VALUE, **request(size, number))
                keys.append(cache.key(**request(size, number)))
            names = [f"llm-cache-mem:1::value:{key}".encode() for key in keys]
            for timer in (process_time, perf_counter):
                _from_threads(port, size, cache, names, timer)
                _from_tasks(port, size, cache, names, timer)


def _from_threads(
    port: int, size: str, cache: LLMCache, names: list[bytes], timer: Callable[[], float]
) -> None:
    import redis as client_library

    client = client_library.Redis(port=port)
    get = _bare(port, names[:1], b"GET")

    def asked() -> list[Work]:
        return [lambda q=q: cache.get(**q) for q in random_requests(size)]

    def random_names(ask: Callable[[bytes], Any]) -> list[Work]:
        return [lambda name=name: ask(name) for name in _random(names)]

    variants = [
        Variant("redis-py, bytes only", lambda: random_names(client.get)),
        Variant("redis-py and json", lambda: random_names(lambda name: _decoded(client.get(name)))),
        Variant("GET, bare socket", lambda: [get] * CALLS),
        Variant(OURS, asked),
    ]
    title = f"hit on Redis, {size}, {ENTRIES:,} entries, {_NAMES[timer]}"
    show(title, compare(variants, rounds=ROUNDS, timer=timer))
    client.close()


def _from_tasks(
    port: int, size: str, cache: LLMCache, names: list[bytes], timer: Callable[[], float]
) -> None:
    import redis.asyncio as client_library

    async def get_json(name: bytes) -> Any:
        return _decoded(await client.get(name))

    def ask(request: dict[str, Any]) -> Any:
        return cache.aget(**request)

    def variants(runner: asyncio.Runner, tasks: int) -> list[Variant]:
        def run(ask: Callable[[Any], Any], picked: list[Any]) -> list[Work]:
            return [lambda: runner.run(asked_in_tasks(ask, picked, tasks))]

        bytes_only = Variant(
            "redis.asyncio, bytes only", lambda: run(client.get, _random(names)), CALLS
        )
        and_json = Variant("redis.asyncio and json", lambda: run(get_json, _random(names)), CALLS)
        ours = Variant(OURS, lambda: run(ask, random_requests(size)), CALLS)
        return [bytes_only, and_json, ours]

    for tasks in (1, 100):
        with asyncio.Runner() as runner:
            client = client_library.Redis(port=port)
            title = f"aget on Redis, {size}, {ENTRIES:,} entries, {tasks} tasks, {_NAMES[timer]}"
            show(title, compare(variants(runner, tasks), rounds=ROUNDS, timer=timer), 1.3)
            runner.run(client.aclose())


async def asked_in_tasks(ask: Callable[[Any], Any], picked: list[Any], tasks: int) -> None:
    """Ask for each that was *picked*, in so many *tasks*, each of which waits for its answer."""

    async def one(some: list[Any]) -> None:
        for each in some:
            assert await ask(each) is not None

    await asyncio.gather(*(one(picked[first::tasks]) for first in range(tasks)))


def _random(names: list[bytes]) -> list[bytes]:
    return random.choices(names, k=CALLS)


def random_requests(size: str) -> list[Any]:
    return [request(size, number) for number in random.choices(range(ENTRIES), k=CALLS)]


def _decoded(data: bytes) -> Any:
    """The answer that is in *data*."""
    return json.loads(_TEXT) if data else None


def _batches(port: int) -> None:
    import redis as client_library

    from llm_cache_mem.stores.redis import RedisStore

    cache = LLMCache(backend=f"redis://127.0.0.1:{port}/0")
    keys = [
        f"1::value:{cache.key(**asked)}"
        for asked in (request("S", number) for number in range(BATCH))
    ]
    for number in range(BATCH):
        cache.put(value=VALUE, **request("S", number))
    cache.close()
    store, client = RedisStore(f"redis://127.0.0.1:{port}/0"), client_library.Redis(port=port)
    names = [f"llm-cache-mem:{key}".encode() for key in keys]
    get, mget = _bare(port, names[:1], b"GET"), _bare(port, names, b"MGET")
    assert len(store.get_many(keys)) == BATCH
    variants = [
        Variant("GET, bare socket", lambda: [get] * 50),
        Variant(f"MGET of {BATCH}, bare socket", lambda: [mget] * 50),
        Variant("redis-py, bytes only", lambda: [lambda: client.mget(names)] * 50),
        Variant(OURS, lambda: [lambda: store.get_many(keys)] * 50),
    ]
    show(f"{BATCH} entries at once on Redis", compare(variants, rounds=31, timer=perf_counter), 4.0)
    store.close()
    client.close()


def _bare(port: int, names: list[bytes], command: bytes) -> Callable[[], Any]:
    """One round trip on a socket, whose reply is taken as it is."""
    sock = connected(port)
    words = [command, *names]
    sent = b"*%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%b\r\n" % (len(word), word) for word in words
    )
    buffer = memoryview(bytearray(1 << 20))
    sock.sendall(sent)
    sock.settimeout(0.3)
    length = 0
    with contextlib.suppress(TimeoutError):
        while True:
            length += sock.recv_into(buffer[length:])
    sock.settimeout(5)

    def ask() -> None:
        sock.sendall(sent)
        got = 0
        while got < length:
            got += sock.recv_into(buffer[got:])

    return ask
