"""Entries on Memcached servers: each is stored with the generation of its namespace, so that a
namespace can be cleared at once."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil
from operator import methodcaller
from typing import Any, TypeVar

from llm_cache_mem._util.clock import now
from llm_cache_mem.errors import EntryUnreadable, ValueNotCacheable
from llm_cache_mem.stores.base import NOTHING_REMOVED, Removed
from llm_cache_mem.stores.failures import UnexpectedReply, iterate, store_errors_only
from llm_cache_mem.stores.memcached import commands
from llm_cache_mem.stores.memcached.commands import (
    ENTRY,
    GENERATION,
    GENERATION_BYTES,
    CannotList,
    exptime,
    lease_name,
    list_keys,
    live,
    named,
    names_of,
)
from llm_cache_mem.stores.memcached.servers import Client, MemcacheServerError, Server, Servers
from llm_cache_mem.values.entry import PLAIN, Entry, EntryMemo, Envelope

__all__ = ["MemcachedStore"]

R = TypeVar("R")

_GRACE = 60  # seconds: the server has a clock of its own; readers go by the expiry in the entry
_LONGEST_SECONDS = 2**31
_BATCH = 100  # keys asked for at once
_BATCH_BYTES = 1024 * 1024
_COUNT_SECONDS = 2.0
_LIST_SECONDS = 60.0


def _reason(exc: Exception) -> str:
    """What went wrong, without what the server said: it may repeat keys."""
    if isinstance(exc, OSError):
        return exc.strerror or str(exc) or type(exc).__name__
    return str(exc) if isinstance(exc, CannotList | UnexpectedReply) else type(exc).__name__


class MemcachedStore:
    """A Store on Memcached servers, which alone decide how much they keep.

    Nothing is tried twice. ``clear`` of a namespace takes effect for all processes at once, by a
    new generation, and then removes the keys that the server lists. ``size``, ``entries``,
    ``purge`` and any other ``clear`` go by that list of all keys: where a server refuses to write
    it they raise StoreError, and ``size`` is 0. ``size`` counts for two seconds at most.

    Args:
        client: A URL, ``memcached://host:port[,host:port]``, or a PooledClient of pymemcache or a
            HashClient with ``use_pooling``, which stays open and keeps to its own timeouts.
        clock: Seconds since 1970.
        timeout: Seconds to wait for a connection, to make one, and for an operation.
        max_value_bytes: The size up to which a value is stored; a larger one also removes the older
            value. Servers take 1 MiB with the key, unless started with ``-I``.
        envelope: Turns entries into bytes.

    Raises:
        ValueError: A URL, an option or a client that can never work. A server that does not answer
            is no error here.
        TypeError: *client* is neither a URL nor such a client.

    Example:
        >>> cache = LLMCache(backend=MemcachedStore("memcached://cache-1:11211,cache-2:11211"))
    """

    blocking = True

    def __init__(
        self,
        client: Any,
        *,
        clock: Callable[[], float] = now,
        timeout: float = 0.25,
        max_value_bytes: int = 1024 * 1024 - 1024,
        envelope: Envelope = PLAIN,
    ) -> None:
        for limit, number in (("timeout", timeout), ("max_value_bytes", max_value_bytes)):
            if not number > 0:
                raise ValueError(f"{limit} must be above 0: got {number}")
        self._clock = clock
        self._max_value_bytes = max_value_bytes
        self.envelope = envelope
        self._memo = EntryMemo(envelope=envelope)
        self.unreadable = 0  # stored entries that could not be read
        self._servers = Servers.of(client, timeout=timeout)
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"MemcachedStore({self.name!r})"

    @property
    def name(self) -> str:
        """The URL of the servers."""
        return self._servers.name

    @property
    def slow_seconds(self) -> float:
        """How long a read or a write may take before it counts as a failure."""
        return 2 * self._timeout

    # -- One entry

    @store_errors_only("get", _reason)
    def get(self, key: str) -> Entry | None:
        name, generation = names_of(key)
        found = self._fetch(self._servers.of_key(name), (generation, name))
        data = live(found.get(generation), found.get(name))
        return None if data is None else self._read(key, name, data)

    @store_errors_only("put", _reason)
    def put(self, key: str, entry: Entry) -> Removed:
        name, generation = names_of(key)
        expire, data = self._expire(entry), self._packed(key, name, entry)
        if expire is None:
            self._on_server(name, lambda client: client.delete(name, noreply=False))
            return NOTHING_REMOVED

        def put(client: Client) -> None:
            value = commands.generations(client, [generation])[generation] + data
            if client.set(name, value, expire=expire, noreply=False) is not True:
                raise UnexpectedReply("it did not store")

        try:
            self._on_server(name, put)
        except MemcacheServerError as exc:
            if b"large" not in exc.args[0]:
                raise
            raise self._too_large(name) from None
        return NOTHING_REMOVED

    @store_errors_only("delete", _reason)
    def delete(self, key: str, *, stored_at: float | None = None) -> bool:
        name, generation = names_of(key)

        def delete(client: Client) -> bool:
            found = client.gets_many((generation, name))
            value, unique = found.get(name, (None, None))
            data = live(found.get(generation, (None, None))[0], value)
            if stored_at is None:
                return bool(client.delete(name, noreply=False)) and data is not None
            if data is None:
                return False
            try:
                entry = self._memo.get(key, data)
            except EntryUnreadable:
                return False
            return entry.stored_at == stored_at and commands.remove_seen(client, name, unique)

        return self._on_server(name, delete)

    # -- Many

    @store_errors_only("get_many", _reason)
    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """As ManyStore.get_many: one round trip for a hundred keys on one server."""
        found: dict[str, Entry] = {}
        for server, some in self._by_server(keys):
            names = {key: names_of(key) for key in some}
            wanted = tuple(dict.fromkeys(name for pair in names.values() for name in pair))
            values = self._fetch(server, wanted)
            for key, (name, generation) in names.items():
                data = live(values.get(generation), values.get(name))
                entry = None if data is None else self._read(key, name, data)
                if entry is not None:
                    found[key] = entry
        return found

    @store_errors_only("put_many", _reason)
    def put_many(self, entries: Mapping[str, Entry]) -> Removed:
        """As ManyStore.put_many, sent by the megabyte. ValueNotCacheable if one is too large; the
        others are stored."""
        refused: ValueNotCacheable | None = None
        for server, some in self._by_server(list(entries)):
            batch: dict[str, tuple[int, bytes]] = {}
            for key in some:
                name, expire = names_of(key)[0], self._expire(entries[key])
                try:
                    data = self._packed(key, name, entries[key])
                except ValueNotCacheable as exc:
                    refused = exc
                    continue
                if expire is None:
                    self.delete(key)
                    continue
                if (
                    batch
                    and sum(len(held) for _, held in batch.values()) + len(data) > _BATCH_BYTES
                ):
                    self._put_batch(server, batch)
                    batch = {}
                batch[key] = (expire, data)
            self._put_batch(server, batch)
        if refused is not None:
            raise refused
        return NOTHING_REMOVED

    def _put_batch(self, server: Server, batch: Mapping[str, tuple[int, bytes]]) -> None:
        def put(client: Client) -> None:
            generations = commands.generations(client, [names_of(key)[1] for key in batch])
            for expire in {expire for expire, _ in batch.values()}:  # mostly one
                values = {}
                for key, (when, data) in batch.items():
                    name, generation = names_of(key)
                    if when == expire:
                        values[name] = generations[generation] + data
                if client.set_many(values, expire=expire, noreply=False):
                    raise UnexpectedReply("it did not store")

        if batch:
            self._run(server, put, 2 * len(batch))

    # -- A namespace

    @store_errors_only("clear", _reason)
    def clear(self, prefix: str = "") -> int:
        if is_namespace := prefix.count(":") == 2 and prefix.endswith(":"):
            generation = named(GENERATION, prefix)
            for server in self._servers:
                renew = methodcaller("set", generation, os.urandom(GENERATION_BYTES), noreply=False)
                if self._run(server, renew) is not True:
                    raise UnexpectedReply("it did not store")
        removed = 0
        try:
            for server, names in self._lists(prefix, _LIST_SECONDS):
                for at in range(0, len(names), _BATCH):
                    remove = methodcaller("delete_many", names[at : at + _BATCH], noreply=False)
                    self._run(server, remove)
                removed += len(names)
        except CannotList:
            if not is_namespace:
                raise
        return removed

    @store_errors_only("purge", _reason)
    def purge(self) -> int:
        """Remove entries that are expired by this cache's clock; the servers remove those that are
        expired by their own."""
        now = self._clock()
        return sum(
            entry.is_expired(now) and self.delete(key, stored_at=entry.stored_at)
            for key, entry in self._walk("")
        )

    @store_errors_only("size", _reason)
    def size(self, prefix: str = "") -> int:
        """As Store.size, but a lower bound if counting takes over two seconds, and 0 where a server
        does not list its keys."""
        count = 0
        with contextlib.suppress(CannotList, TimeoutError):
            for _, names in self._lists(prefix, _COUNT_SECONDS):
                count += len(names)
        return count

    def entries(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        """As Store.entries, in the order of their keys: those that are listed at the start and not
        removed before they are reached."""
        return iterate(self, "entries", _reason, self._walk(prefix))

    # -- Leases

    @store_errors_only("lease", _reason)
    def lease(self, key: str, token: str, seconds: float) -> bool:
        """As LeasingStore.lease; it lasts up to two seconds longer, as the server counts whole
        seconds."""
        name, expire = lease_name(key), exptime(ceil(seconds) + 1)
        return self._on_server(
            name, lambda client: commands.lease(client, name, token.encode(), expire)
        )

    @store_errors_only("release", _reason)
    def release(self, key: str, token: str) -> None:
        name = lease_name(key)
        self._on_server(name, lambda client: commands.release(client, name, token.encode()))

    @store_errors_only("close", _reason)
    def close(self) -> None:
        for server in self._servers:
            server.connections.close()

    # -- Inside

    def _run(self, server: Server, work: Callable[[Client], R], values: int = 2) -> R:
        """Return ``work(client)``, connected to *server*, which sends so many *values* at most."""
        return server.run(work, self._timeout, 2 * values * self._max_value_bytes + 64 * 1024)

    def _fetch(self, server: Server, names: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[Any, bytes] = self._run(
            server, lambda client: client.get_many(names), len(names)
        )
        return found

    def _on_server(self, name: bytes, work: Callable[[Client], R]) -> R:
        return self._run(self._servers.of_key(name), work)

    def _by_server(self, keys: Sequence[str]) -> Iterator[tuple[Server, list[str]]]:
        """*keys* with the server of each, a hundred at a time."""
        for at in range(0, len(keys), _BATCH):
            some: dict[Server, list[str]] = {}
            for key in keys[at : at + _BATCH]:
                some.setdefault(self._servers.of_key(names_of(key)[0]), []).append(key)
            yield from some.items()

    def _read(self, key: str, name: bytes, data: bytes) -> Entry | None:
        """The entry in *data*; None, after removing it, if it is not a whole one."""
        try:
            return self._memo.get(key, data)
        except EntryUnreadable as exc:
            self.unreadable += 1
            if not exc.newer:
                for server in self._servers:
                    # it may be the reply to another command, and then so is the next
                    server.connections.renew()
                with contextlib.suppress(Exception):  # it is a miss all the same
                    self._on_server(name, lambda client: commands.remove_if(client, name, data))
            return None

    def _expire(self, entry: Entry) -> int | None:
        """The exptime of *entry*; None if it is expired already."""
        if entry.expires_at is None:
            return 0
        seconds = entry.expires_at - self._clock()
        return None if seconds <= 0 else exptime(ceil(min(seconds, _LONGEST_SECONDS)) + _GRACE)

    def _packed(self, key: str, name: bytes, entry: Entry) -> bytes:
        data = self.envelope.pack(key, entry)
        if len(data) + GENERATION_BYTES > self._max_value_bytes:
            raise self._too_large(name)
        return data

    def _too_large(self, name: bytes) -> ValueNotCacheable:
        """Remove the older value, and return what to raise for one that the server cannot keep."""
        self._on_server(name, lambda client: client.delete(name, noreply=False))
        return ValueNotCacheable(
            "value",
            f"too large for Memcached (max_value_bytes={self._max_value_bytes}; see its option -I)",
        )

    def _lists(self, prefix: str, seconds: float) -> Iterator[tuple[Server, list[bytes]]]:
        """Each server with the names of its entries whose keys begin with *prefix*."""
        for server in self._servers:
            begin = server.connections.key_prefix + ENTRY + prefix.encode()
            cut = len(server.connections.key_prefix)

            def listed(client: Client, begin: bytes = begin, cut: int = cut) -> list[bytes]:
                return list(
                    dict.fromkeys(
                        name[cut:] for name in list_keys(client.sock) if name.startswith(begin)
                    )
                )

            yield server, server.run(listed, seconds, 1 << 40)

    def _walk(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        """The entries whose keys begin with *prefix*, without those that cannot be read."""
        names = sorted(name for _, some in self._lists(prefix, _LIST_SECONDS) for name in some)
        keys = [name[len(ENTRY) :].decode("utf-8", "backslashreplace") for name in names]
        for at in range(0, len(keys), _BATCH):
            some = keys[at : at + _BATCH]
            entries: dict[str, Entry] = {}
            for server, of_it in self._by_server(some):
                wanted = tuple(dict.fromkeys(name for key in of_it for name in names_of(key)))
                values = self._fetch(server, wanted)
                for key in of_it:
                    name, generation = names_of(key)
                    data = live(values.get(generation), values.get(name))
                    if data is not None:
                        with contextlib.suppress(EntryUnreadable):
                            entries[key] = self.envelope.unpack(key, data)
            yield from ((key, entries[key]) for key in some if key in entries)
