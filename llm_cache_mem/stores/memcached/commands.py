"""What takes more than one command of a Memcached server: generations, leases, and removing only
what one has seen."""

import os
from collections.abc import Iterable
from typing import Any

from llm_cache_mem.stores.memcached.names import GENERATION_BYTES
from llm_cache_mem.stores.memcached.servers import Client
from llm_cache_mem.stores.server_store import UnexpectedReply

__all__ = ["generations", "lease", "release", "remove_if", "remove_seen"]


def generations(client: Client, names: Iterable[bytes]) -> dict[bytes, bytes]:
    """The generations kept under *names*; a lost one is replaced by a new one, so that nothing of
    the old comes back."""
    names = list(dict.fromkeys(names))
    found: dict[Any, bytes] = client.get_many(names)
    for name in names:
        if len(found.get(name, b"")) == GENERATION_BYTES:
            continue
        fresh = os.urandom(GENERATION_BYTES)
        if name in found:
            client.set(name, fresh, noreply=False)
        elif not client.add(name, fresh, noreply=False):
            fresh = client.get(name) or b""  # another was faster
        if len(fresh) != GENERATION_BYTES:
            raise UnexpectedReply("it has lost what was just stored")
        found[name] = fresh
    return found


def lease(client: Client, name: bytes, token: bytes, expire: int) -> bool:
    """Give *token* the lease *name*, or prolong it; whether it has it."""
    for _ in range(2):  # it may end between one question and the next
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
    """Remove *name* if nobody has stored anything there since; there is no other way to say so than
    to store what is gone at once."""
    return client.cas(name, b"", unique, expire=-1) is True


def remove_if(client: Client, name: bytes, data: bytes) -> None:
    """Remove *name* if *data* is still what it holds, in whatever generation."""
    value, unique = client.gets(name)
    if value is not None and value[GENERATION_BYTES:] == data:
        remove_seen(client, name, unique)
