"""Check a Redis or Valkey server: memory, persistence, clock, and the connection to it."""

import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from llm_cache_mem.cli.doctor.finding import Finding, clock, number_in, ok, size_of, warn
from llm_cache_mem.cli.store import environment_envelope
from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores.redis import RedisStore

__all__ = ["findings"]

_POLICY = (
    "CONFIG SET maxmemory-policy allkeys-lru (volatile-lru if other data on this server must stay,"
    " and every ttl is set)"
)


def findings(store: RedisStore, url: str) -> Iterator[Finding]:
    """The findings about the server of *store*, and what this user may not ask it."""
    try:
        info = _info(store)
    except StoreError as exc:
        yield ok(
            "server",
            f"this user may not run INFO ({exc.reason}), so its memory cannot be checked",
        )
        info = {}
    if info:
        name = "Valkey" if "valkey_version" in info else "Redis"
        yield ok(
            "server",
            f"{name} {info.get('valkey_version') or info.get('redis_version', '?')},"
            f" {info.get('redis_mode', 'standalone')}",
        )
        yield from _role(info)
        yield from _memory(info)
        yield from _persistence(info)
        yield from _clients(info)
    yield _clock(store)
    yield from _way(url)


def _info(store: RedisStore) -> Mapping[str, str]:
    reply = store.ask("INFO")
    lines = reply.decode("utf-8", "replace").splitlines() if isinstance(reply, bytes) else []
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _role(info: Mapping[str, str]) -> Iterator[Finding]:
    if info.get("role") == "slave":
        yield warn(
            "role",
            "a replica, which is read-only or loses what is written to it",
            "name the master, or ask Sentinel for it",
        )


def _memory(info: Mapping[str, str]) -> Iterator[Finding]:
    most, used, evicted = (
        number_in(info, "maxmemory"),
        number_in(info, "used_memory"),
        number_in(info, "evicted_keys"),
    )
    policy = info.get("maxmemory_policy", "?")
    if not most:
        text = f"{size_of(used)} used, unbounded"
        yield warn(
            "memory",
            text,
            "CONFIG SET maxmemory 1gb, or another limit: without one, it grows until the machine"
            " has no memory left",
        )
    else:
        yield ok(
            "memory",
            f"{size_of(used)} of {size_of(most)} used, {evicted:,} keys evicted since it was"
            " started",
        )
    if policy == "noeviction":
        yield warn("policy", "noeviction: when memory is full, nothing new is stored", _POLICY)
    elif policy.startswith("volatile-"):
        yield ok(
            "policy", f"{policy}: entries that never expire (ttl_seconds=None) are never evicted"
        )
    else:
        yield ok("policy", policy)
    hits, misses = number_in(info, "keyspace_hits"), number_in(info, "keyspace_misses")
    if evicted > 1000 and evicted > hits:
        yield warn(
            "evictions",
            f"{evicted:,} keys evicted for {hits:,} hits and {misses:,} misses",
            "give it more memory, or entries a shorter ttl",
        )


def _persistence(info: Mapping[str, str]) -> Iterator[Finding]:
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if info.get(name, "ok") != "ok"
    ]
    if failed:
        yield warn(
            "persistence",
            f"it could not write to its disk ({', '.join(failed)})",
            "free the disk: until then it may refuse all writes",
        )
    else:
        persistence = "append-only file" if info.get("aof_enabled") == "1" else "snapshots, if any"
        yield ok("persistence", f"{persistence}: what is lost in a crash is asked for again")


def _clients(info: Mapping[str, str]) -> Iterator[Finding]:
    held, most = number_in(info, "connected_clients"), number_in(info, "maxclients")
    if most and held > most * 0.8:
        yield warn(
            "connections",
            f"{held:,} of {most:,}",
            "raise maxclients, or lower max_connections of the stores",
        )


def _clock(store: RedisStore) -> Finding:
    before = time.time()
    try:
        reply = store.ask("TIME")
        theirs = int(reply[0]) + int(reply[1]) / 1e6
    except (StoreError, TypeError, ValueError, IndexError):
        return ok("clock", "it does not return its time")
    return clock("clock", theirs - (before + time.time()) / 2, 3)


def _way(url: str) -> Iterator[Finding]:
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "valkey") or parts.hostname in (
        "localhost",
        "127.0.0.1",
        "::1",
        None,
    ):
        return
    if not parts.password:
        yield warn(
            "login",
            "a server that is not on this machine, without a password",
            "set one (ACL or requirepass), and name it in the URL",
        )
    if not environment_envelope().digests:
        advice = (
            "use rediss://, or LLM_CACHE_MEM_KEY, which encrypts entries before they leave this"
            " process"
        )
        yield warn("way", "answers cross the network in the clear", advice)
