"""Hits on a Redis server of its own, against the round trip that no client can go below: one GET on
a bare socket.

Wall time, because what is measured is mostly waiting; a busy machine shows in all contestants
alike.
"""

import contextlib
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from time import perf_counter
from typing import Any

from benchmarks.harness import Variant, compare, show
from benchmarks.servers import connected, redis_server
from benchmarks.workload import VALUE, fresh, request
from llm_cache_mem import LLMCache

__all__ = ["redis"]

OURS = "llm-cache-mem"
BATCH = 50


def redis() -> None:
    """A hit, and 50 entries at once, where there are a redis-server and its client."""
    if shutil.which("redis-server") is None or find_spec("redis") is None:
        print("\n  not installed: redis-server, or redis for Python")
        return
    with redis_server() as port:
        _hits(port)
        _batches(port)


def _hits(port: int) -> None:
    import redis as client_library

    for size in ("S", "M"):
        asked = request(size)
        cache = LLMCache(backend=f"redis://127.0.0.1:{port}/0")
        cache.put(value=VALUE, **asked)
        client = client_library.Redis(port=port)
        name = f"llm-cache-mem:1::value:{cache.key(**asked)}".encode()
        get = _bare(port, [name], b"GET")
        assert client.get(name)
        assert cache.get(**asked) == VALUE
        variants = [
            Variant("GET, bare socket", lambda: [get] * 100),
            Variant("redis-py, bytes only", lambda: [lambda: client.get(name)] * 100),
            Variant(OURS, lambda: [lambda q=q: cache.get(**q) for q in fresh(asked, 100)]),
        ]
        show(
            f"hit on Redis, {size}: key, GET, and a value of the caller's own",
            compare(variants, rounds=31, timer=perf_counter),
            3.5,
        )
        cache.close()
        client.close()


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
