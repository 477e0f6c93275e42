"""What a shared store costs: a hit on Memcached against the bare round trip, a hit in front of it
against a hit in memory."""

import contextlib
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Variant, compare, show
from benchmarks.servers import connected, memcached_server
from benchmarks.workload import BATCH, SIZES, VALUE, fresh, request
from llm_cache_mem import LLMCache

__all__ = ["memcached", "tiered"]


def memcached() -> None:
    """A hit on S, by the wall clock: the key, the round trip, the checks, a value of one's own;
    against a socket that says get."""
    with (
        memcached_server() as port,
        LLMCache(backend=f"memcached://127.0.0.1:{port}") as cache,
        contextlib.closing(connected(port)) as raw,
    ):
        asked = request("S")
        cache.put(value=VALUE, **asked)
        ((key, _),) = cache.engine.entries()
        line = f"get lcm:{key}\r\n".encode()

        def round_trip() -> None:
            raw.sendall(line)
            reply = b""
            while not reply.endswith(b"END\r\n"):
                reply += raw.recv(65536)

        variants = [
            Variant("a socket's get", lambda: [round_trip] * 100),
            Variant(
                "llm-cache-mem", lambda: [lambda q=q: cache.get(**q) for q in fresh(asked, 100)]
            ),
        ]
        show(
            "hit on Memcached, S, against a bare round trip",
            compare(variants, rounds=31, timer=time.perf_counter),
            2.5,
        )


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
