"""Check Memcached servers: their memory, their largest values, their evictions, their clocks."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from llm_cache_mem.cli.doctor.finding import Finding, clock, number_in, ok, size_of, warn
from llm_cache_mem.stores.memcached.connections import (
    Client,
    MemcacheError,
    UrlConnections,
    shown,
)
from llm_cache_mem.stores.memcached.servers import addresses

__all__ = ["findings"]

_SECONDS = 2.0  # for a connection, and for each reply
_MAX_BYTES = 1 << 20  # of all that it says of itself
_ITEM_BYTES = 1 << 20  # what a server takes unless told otherwise


def findings(url: str) -> Iterator[Finding]:
    """The findings about each server of *url*; one that does not answer is one."""
    for address in addresses(url):
        name = shown(address)
        connections = UrlConnections(address, _SECONDS)
        try:
            asked = time.time()
            stats, settings = connections.run(_asked, 2 * _SECONDS, _MAX_BYTES)
            answered = time.time()
        except (OSError, MemcacheError) as exc:
            yield warn(
                name,
                f"it does not answer: {getattr(exc, 'strerror', '') or exc}",
                "start it, or take it out of the URL: its share of the keys misses",
            )
            continue
        finally:
            connections.close()
        yield ok(name, f"Memcached {stats.get('version', '?')}")
        yield from _memory(name, stats, settings)
        yield from _clients(name, stats, settings)
        yield clock(f"{name} clock", number_in(stats, "time") - (asked + answered) / 2, 0)


def _asked(client: Client) -> list[dict[str, str]]:
    """The statistics and the settings of the server, as text."""
    answers: list[Any] = [client.stats(), client.stats(b"settings")]
    return [{name.decode(): _text(value) for name, value in some.items()} for some in answers]


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _memory(name: str, stats: Mapping[str, str], settings: Mapping[str, str]) -> Iterator[Finding]:
    used, most = number_in(stats, "bytes"), number_in(stats, "limit_maxbytes")
    evicted, hits = number_in(stats, "evictions"), number_in(stats, "get_hits")
    yield ok(
        f"{name} memory",
        f"{size_of(used)} of {size_of(most)} used, {evicted:,} items evicted since it was started",
    )
    if evicted > 1000 and evicted > hits:
        text = f"{evicted:,} items evicted for {hits:,} hits"
        yield warn(f"{name} evictions", text, "give it more memory (-m), or entries a shorter ttl")
    if settings.get("evictions") == "off":
        yield warn(
            f"{name} policy", "it refuses what is new when it is full (-M)", "start it without -M"
        )
    largest = number_in(settings, "item_size_max")
    if largest and largest < _ITEM_BYTES:
        yield warn(
            f"{name} values",
            f"none over {size_of(largest)}",
            "start it with -I 1m or more: larger answers are not stored",
        )
    elif largest:
        yield ok(f"{name} values", f"up to {size_of(largest)} with their keys")


def _clients(name: str, stats: Mapping[str, str], settings: Mapping[str, str]) -> Iterator[Finding]:
    held, most = number_in(stats, "curr_connections"), number_in(settings, "maxconns")
    if most and held > most * 0.8:
        yield warn(
            f"{name} connections",
            f"{held:,} of {most:,}",
            "start it with a higher -c, or keep fewer connections in the stores",
        )
