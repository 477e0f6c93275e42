"""A Redis master dies, and a Sentinel puts its replica in its place."""

import contextlib
import time

from redis.sentinel import Sentinel
from stores.servers import Server, running_redis, running_sentinel, until
from stores.test_redis_faults import Ordeal, ask

from llm_cache_mem import LLMCache
from llm_cache_mem.stores.redis import RedisStore


def is_master(server: Server) -> bool:
    with contextlib.suppress(OSError):  # it cuts connections when it becomes one
        return "role:master" in server.ask("INFO replication")
    return False


def test_failover_loses_no_call_and_no_replicated_entry() -> None:
    with (
        running_redis() as master,
        running_redis("--replicaof", "127.0.0.1", str(master.port)) as replica,
        running_sentinel(master, patience_ms=500) as watcher,
    ):
        until(lambda: "master_link_status:up" in replica.ask("INFO replication"), "a copy is made")
        until(lambda: "slaves=1" in watcher.ask("INFO sentinel"), "the replica is known")
        sentinel = Sentinel([("127.0.0.1", watcher.port)])
        client = sentinel.master_for("mymaster", socket_timeout=20, socket_connect_timeout=20)
        with client, LLMCache(backend=RedisStore(client), coalesce="fleet") as cache:
            for number in range(40):
                ask(cache, number)
            assert client.wait(1, 20_000) == 1
            with Ordeal(cache, callers=8) as ordeal:
                until(lambda: ordeal.hits_since(0) > 100, "hits before", 60)
                killed = time.monotonic()
                master.kill()
                until(lambda: is_master(replica), "a failover", 60)
                promoted = time.monotonic()
                until(lambda: ordeal.hits_since(promoted) > 20 or ordeal.failures, "hits", 60)
                back = time.monotonic()
            assert ordeal.failures == []
            assert all(ask(cache, number)[1] for number in range(40))
        sentinel.sentinels[0].close()
    longest = max(call.seconds for call in ordeal.calls)
    print(
        f"{len(ordeal.calls)} calls, longest {longest:.2f} s; promoted after"
        f" {promoted - killed:.1f} s, hits {back - promoted:.1f} s later"
    )
