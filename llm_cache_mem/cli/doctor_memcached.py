"""What there is to check of Memcached servers: how much they keep, how large a value may be, what they throw away, their clocks."""

import socket
import time
from collections.abc import Iterator, Mapping

from llm_cache_mem.cli.findings import Finding, change, ok, size_of

__all__ = ["findings"]

_PORT = 11211
_CLOCK_SECONDS = 2.0
_ITEM_BYTES = 1 << 20  # what a server takes unless told otherwise


def findings(url: str) -> Iterator[Finding]:
    """What is to be said of the servers that *url* names. One that cannot be asked is said to be so, and no more."""
    for host, port in _addresses(url):
        name = f"{host}:{port}"
        try:
            asked = time.time()
            stats, settings = _ask(host, port, "stats"), _ask(host, port, "stats settings")
            answered = time.time()
        except OSError as exc:
            yield change(
                name, f"it does not answer: {exc.strerror or exc}", "start it, or take it out of the URL: its share of the keys misses"
            )
            continue
        yield ok(name, f"Memcached {stats.get('version', '?')}")
        yield from _memory(name, stats, settings)
        yield from _clients(name, stats, settings)
        yield _clock(name, stats, (asked + answered) / 2)


def _addresses(url: str) -> list[tuple[str, int]]:
    places = url.partition("://")[2].partition("?")[0].strip("/").split(",")
    found = []
    for place in places:
        host, colon, port = place.rpartition(":")
        found.append((host.strip("[]"), int(port)) if colon and port.isdigit() else (place.strip("[]"), _PORT))
    return found


def _ask(host: str, port: int, command: str) -> Mapping[str, str]:
    """The statistics that the server gives to *command*; OSError if it does not."""
    with socket.create_connection((host, port), timeout=2.0) as connection:
        connection.sendall(command.encode() + b"\r\n")
        with connection.makefile("r", encoding="utf-8", errors="replace") as lines:
            found = {}
            for line in lines:
                if not line.startswith("STAT "):
                    break
                _, name, value = line.rstrip().split(" ", 2)
                found[name] = value
    return found


def _number(stats: Mapping[str, str], name: str) -> int:
    text = stats.get(name, "0")
    return int(text) if text.isdigit() else 0


def _memory(name: str, stats: Mapping[str, str], settings: Mapping[str, str]) -> Iterator[Finding]:
    used, most = _number(stats, "bytes"), _number(stats, "limit_maxbytes")
    evicted, hits = _number(stats, "evictions"), _number(stats, "get_hits")
    yield ok(f"{name} memory", f"{size_of(used)} of {size_of(most)} used, {evicted:,} items evicted since it was started")
    if evicted > 1000 and evicted > hits:
        text = f"{evicted:,} items evicted for {hits:,} hits"
        yield change(f"{name} evictions", text, "give it more memory (-m), or entries a shorter ttl")
    if settings.get("evictions") == "off":
        yield change(f"{name} policy", "it refuses what is new when it is full (-M)", "start it without -M")
    largest = _number(settings, "item_size_max")
    if largest and largest < _ITEM_BYTES:
        yield change(f"{name} values", f"none over {size_of(largest)}", "start it with -I 1m or more: larger answers are not stored")
    elif largest:
        yield ok(f"{name} values", f"up to {size_of(largest)} with their keys")


def _clients(name: str, stats: Mapping[str, str], settings: Mapping[str, str]) -> Iterator[Finding]:
    held, most = _number(stats, "curr_connections"), _number(settings, "maxconns")
    if most and held > most * 0.8:
        yield change(f"{name} connections", f"{held:,} of {most:,}", "start it with a higher -c, or keep fewer connections in the stores")


def _clock(name: str, stats: Mapping[str, str], here: float) -> Finding:
    ahead = _number(stats, "time") - here
    text = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine"
    if abs(ahead) > _CLOCK_SECONDS:
        return change(f"{name} clock", text, "set both clocks by NTP: entries expire too early or too late by that much")
    return ok(f"{name} clock", text)
