"""Names and values on a Memcached server, and operations of several commands: generations, leases,
compare-and-delete, and the list of all keys."""

import functools
import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from time import monotonic, sleep, time
from typing import Any
from urllib.parse import unquote_to_bytes

from llm_cache_mem.stores.failures import UnexpectedReply
from llm_cache_mem.stores.memcached.connections import Client

__all__ = [
    "ENTRY",
    "GENERATION",
    "GENERATION_BYTES",
    "CannotList",
    "exptime",
    "generations",
    "lease",
    "lease_name",
    "list_keys",
    "live",
    "named",
    "names_of",
    "release",
    "remove_if",
    "remove_seen",
]

ENTRY = b"lcm:"
GENERATION = b"lcm-generation:"
_LEASE = b"lcm-lease:"
GENERATION_BYTES = 16
_LONGEST_NAME = 250
_DAYS_30 = 30 * 86400
_LAST_DATE = 2**31 - 1

# By the hash table: on its way along the lists of recent use the crawler misses what moves. Older
# servers have only that way.
_COMMANDS = (b"lru_crawler metadump hash\r\n", b"lru_crawler metadump all\r\n")
_BUSY_SECONDS = 1.0  # how long to wait while another list is being written
_CHUNK = 64 * 1024
_LONGEST_LINE = 4096


# -- Names and times


@functools.lru_cache(maxsize=4096)
def names_of(key: str) -> tuple[bytes, bytes]:
    """The names on the server of the entry under *key* and of the generation of its namespace."""
    schema, _, rest = key.partition(":")
    namespace, colon, _ = rest.partition(":")
    return named(ENTRY, key), named(GENERATION, f"{schema}:{namespace}:" if colon else "")


def named(kind: bytes, text: str) -> bytes:
    """The name of *text* as a *kind*; a hash, which is not listed, where that could be no name."""
    name = kind + text.encode("utf-8", "surrogatepass")
    if len(name) <= _LONGEST_NAME and text.isascii() and text.isprintable() and " " not in text:
        return name
    return b"%b#%b" % (kind[:-1], sha256(name).hexdigest().encode())


def lease_name(key: str) -> bytes:
    return named(_LEASE, key)


def live(generation: object, value: object) -> bytes | None:
    """The entry in *value* if it was stored in the current *generation*."""
    if (
        type(value) is not bytes
        or type(generation) is not bytes
        or len(generation) != GENERATION_BYTES
    ):
        return None
    return value[GENERATION_BYTES:] if value[:GENERATION_BYTES] == generation else None


def exptime(seconds: int) -> int:
    """*seconds* from now as a server takes it: in seconds, or as a date if more than 30 days."""
    return seconds if seconds <= _DAYS_30 else min(int(time()) + seconds, _LAST_DATE)


# -- Generations and leases


def generations(client: Client, names: Iterable[bytes]) -> dict[bytes, bytes]:
    """The generations stored under *names*; a lost one is replaced, so that no entry of the old one
    comes back."""
    names = list(dict.fromkeys(names))
    found: dict[Any, bytes] = client.get_many(names)
    for name in names:
        if len(found.get(name, b"")) == GENERATION_BYTES:
            continue
        fresh = os.urandom(GENERATION_BYTES)
        if name in found:
            client.set(name, fresh, noreply=False)
        elif not client.add(name, fresh, noreply=False):
            fresh = client.get(name) or b""  # another client was faster
        if len(fresh) != GENERATION_BYTES:
            raise UnexpectedReply("it has lost what was just stored")
        found[name] = fresh
    return found


def lease(client: Client, name: bytes, token: bytes, expire: int) -> bool:
    """Give *token* the lease *name*, or prolong it; whether *token* holds it."""
    for _ in range(2):  # it may expire between one command and the next
        if client.add(name, token, expire=expire, noreply=False):
            return True
        holder, unique = client.gets(name)
        if holder is not None:
            return holder == token and client.cas(name, token, unique, expire=expire) is True
    return False


def release(client: Client, name: bytes, token: bytes) -> None:
    """End the lease *name*, if *token* holds it."""
    holder, unique = client.gets(name)
    if holder == token:
        remove_seen(client, name, unique)


def remove_seen(client: Client, name: bytes, unique: Any) -> bool:
    """Remove *name* unless it was stored again since: by storing a value that expires at once, as
    there is no such command."""
    return client.cas(name, b"", unique, expire=-1) is True


def remove_if(client: Client, name: bytes, data: bytes) -> None:
    """Remove *name* if it still holds *data*, in any generation."""
    value, unique = client.gets(name)
    if value is not None and value[GENERATION_BYTES:] == data:
        remove_seen(client, name, unique)


# -- The list of all keys


class CannotList(Exception):
    """The server does not list its keys."""


def list_keys(sock: Any) -> Iterator[bytes]:
    """The keys of the server behind *sock*, as they arrive; read the list to its end."""
    for command in _COMMANDS:
        line, lines = _begun(sock, command)
        if line == b"END" or line.startswith(b"key="):
            break
    else:
        raise CannotList(
            "it does not list its keys: its LRU crawler is switched off, or it is too old to"
            " have one"
        )
    while line != b"END":
        yield unquote_to_bytes(line.removeprefix(b"key=").partition(b" ")[0])
        line = next(lines)


def _begun(sock: Any, command: bytes) -> tuple[bytes, Iterator[bytes]]:
    """The first line of the reply to *command*, and those that follow."""
    give_up_at = monotonic() + _BUSY_SECONDS
    while True:
        sock.sendall(command)
        lines = _lines(sock)
        first = next(lines)
        if not first.startswith(b"BUSY"):
            return first, lines
        if monotonic() > give_up_at:
            raise CannotList("it is busy listing its keys for others")
        sleep(0.02)


def _lines(sock: Any) -> Iterator[bytes]:
    rest = b""
    while data := sock.recv(_CHUNK):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise CannotList("it sends a list that is not of keys")
        for line in lines:
            yield line.removesuffix(b"\r")
    raise ConnectionError("closed by the server")
