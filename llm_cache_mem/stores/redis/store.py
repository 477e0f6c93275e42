"""Entries on a Redis or Valkey server: each is a string, its envelope, stored and given its expiry
by one command."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha1
from math import ceil
from struct import Struct
from typing import Any

from llm_cache_mem._util.clock import now
from llm_cache_mem.accounting.counts import Batch, EntryHits
from llm_cache_mem.accounting.totals import StoreTotals
from llm_cache_mem.errors import EntryUnreadable, ValueNotCacheable
from llm_cache_mem.stores.base import NOTHING_REMOVED, Removed
from llm_cache_mem.stores.failures import (
    UnexpectedReply,
    async_store_errors_only,
    iterate,
    store_errors_only,
)
from llm_cache_mem.stores.redis.client import GivenClient, UrlClient
from llm_cache_mem.stores.redis.counts import HITS_PREFIX, KEY_PREFIX, TOTALS, RedisCounts
from llm_cache_mem.stores.redis.event_loops import in_thread
from llm_cache_mem.values.entry import (
    PLAIN,
    STORED_AT,
    TIMES_BYTES,
    Entry,
    EntryMemo,
    Envelope,
    times_in,
)

__all__ = ["KEY_PREFIX", "LEASE_PREFIX", "RedisStore"]

LEASE_PREFIX = (  # of leases, which are no entries: neither listed nor counted
    b"llm-cache-mem-lease:"
)

_BATCH = 256  # commands that are sent at once
_BATCH_BYTES = 1024 * 1024
_DOUBLE = Struct("<d")
_LONGEST_MS = 1e15  # the server takes no more
_LARGE = 256 << 10  # bytes that an event loop does not stop to check
_READ_BATCH = 32  # values that are read at once when all are looked at

# Each removes KEYS[1] if it is still what the caller saw: by the time in its envelope, or, whatever
# it is, by a digest
_DELETE_STORED_AT = b"""if redis.call('GETRANGE', KEYS[1], ARGV[1], ARGV[2]) == ARGV[3] then
return redis.call('UNLINK', KEYS[1]) end
return 0"""
_DELETE_SEEN = b"""local value = redis.call('GET', KEYS[1])
if value and redis.sha1hex(value) == ARGV[1] then return redis.call('UNLINK', KEYS[1]) end
return 0"""
_LEASE = b"""local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1"""
_RELEASE = b"""if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0"""


def _reason(exc: Exception) -> str:
    """What went wrong, without what the server says in full: it repeats keys, and redis-py names
    hosts and users."""
    cause = exc.__cause__ or exc.__context__
    detail = ""
    if untrusted := getattr(cause, "verify_message", ""):  # of a TLS certificate
        detail = (
            f"{untrusted}; name the certificate to trust in the URL,"
            " ?ssl_ca_certs=/path/of/ca.pem, or check none, ?ssl_cert_reqs=none"
        )
    elif isinstance(cause, OSError):
        detail = cause.strerror or ""
    elif (code := str(getattr(exc, "code", ""))).isalpha():
        detail = code
    return type(exc).__name__ + (f" ({detail})" if detail else "")


class RedisStore:
    """A Store on a Redis or Valkey server, which alone decides how much it keeps.

    Nothing is tried twice, and a read or write that takes more than twice *timeout* counts as a
    failure. ``size``, ``clear``, ``purge`` and ``entries`` walk through all keys of the database by
    SCAN, which blocks no other client but takes some seconds for a million keys.

    Args:
        client: A URL such as ``redis://localhost:6379/0``, or a client of redis-py, also for
            Cluster or Sentinel, which stays open and keeps to its own timeouts and retries.
        clock: Seconds since 1970.
        timeout: Seconds to wait for a connection, to make one, and for a whole reply.
        max_connections: How many connections a URL's store opens at most, beside one for each event
            loop that reads.
        max_value_bytes: The size up to which a value is stored.
        envelope: Turns entries into bytes.

    Raises:
        ValueError: A URL, an option or a client that can never work. A server that does not answer
            is no error here.
        TypeError: *client* is neither a URL nor such a client.

    Example:
        >>> cache = LLMCache(backend=RedisStore("redis://localhost:6379/0", timeout=1.0))
    """

    blocking = True

    def __init__(
        self,
        client: Any,
        *,
        clock: Callable[[], float] = now,
        timeout: float = 0.25,
        max_connections: int = 64,
        max_value_bytes: int = 8 * 1024 * 1024,
        envelope: Envelope = PLAIN,
    ) -> None:
        for limit, number in (
            ("timeout", timeout),
            ("max_connections", max_connections),
            ("max_value_bytes", max_value_bytes),
        ):
            if not number > 0:
                raise ValueError(f"{limit} must be above 0: got {number}")
        self._clock = clock
        self._max_value_bytes = max_value_bytes
        self.envelope = envelope
        self._memo = EntryMemo(envelope=envelope)
        self.unreadable = 0  # stored entries that could not be read
        self._client: UrlClient | GivenClient = (
            UrlClient(client, timeout=timeout, limit=max_connections)
            if isinstance(client, str)
            else GivenClient(client, timeout=timeout)
        )
        self._counts = RedisCounts(self._client)

    def __repr__(self) -> str:
        return f"RedisStore({self.name!r})"

    @property
    def name(self) -> str:
        """The URL without user and password, or the class of the client."""
        return self._client.name

    @property
    def slow_seconds(self) -> float:
        """How long a read or a write may take before it counts as a failure."""
        return 2 * self._client.timeout

    @store_errors_only("get", _reason)
    def get(self, key: str) -> Entry | None:
        name = KEY_PREFIX + key.encode()
        data = self._client.value(name)
        return None if data is None else self._read(key, name, data)

    @property
    def reads_on_loop(self) -> bool:
        """Whether there is an ``aget``: for a URL's store, where event loops can watch sockets."""
        return isinstance(self._client, UrlClient) and sys.platform != "win32"

    @async_store_errors_only("get", _reason)
    async def aget(self, key: str) -> Entry | None:
        """As ``get``, for a task of asyncio: without a thread, but for what takes long."""
        assert isinstance(self._client, UrlClient)
        name = KEY_PREFIX + key.encode()
        data = await self._client.avalue(name)
        if data is None:
            return None
        if type(data) is bytes and len(data) <= _LARGE:
            with suppress(EntryUnreadable):
                return self._memo.get(key, data)
        return await in_thread(lambda: self._read(key, name, data))

    @store_errors_only("get_many", _reason)
    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """As ManyStore.get_many: by one command, or by one pipeline in a Cluster."""
        found: dict[str, Entry] = {}
        for at in range(0, len(keys), _BATCH):
            some = keys[at : at + _BATCH]
            names = [KEY_PREFIX + key.encode() for key in some]
            for key, name, data in zip(some, names, self._client.values(names), strict=True):
                if data is not None and (entry := self._read(key, name, data)) is not None:
                    found[key] = entry
        return found

    @store_errors_only("put", _reason)
    def put(self, key: str, entry: Entry) -> Removed:
        command = self._setting(key, entry)
        self._check(command, self._client.call(*command))
        return NOTHING_REMOVED

    @store_errors_only("put_many", _reason)
    def put_many(self, entries: Mapping[str, Entry]) -> Removed:
        """As ManyStore.put_many, in pipelines of up to a megabyte. StoreError if an entry could not
        be stored; the others are."""
        batch: list[tuple[bytes, ...]] = []
        size = 0
        for key, entry in entries.items():
            command = self._setting(key, entry)
            batch.append(command)
            size += sum(map(len, command))
            if len(batch) == _BATCH or size > _BATCH_BYTES:
                self._send(batch)
                batch, size = [], 0
        self._send(batch)
        return NOTHING_REMOVED

    @store_errors_only("delete", _reason)
    def delete(self, key: str, *, stored_at: float | None = None) -> bool:
        name = KEY_PREFIX + key.encode()
        if stored_at is None:
            return self._unlink_entries([name]) == 1
        return self._delete_stored_at(name, stored_at)

    @store_errors_only("clear", _reason)
    def clear(self, prefix: str = "") -> int:
        return sum(self._unlink_entries(names) for names in self._scan(prefix) if names)

    @store_errors_only("purge", _reason)
    def purge(self) -> int:
        """Remove entries that are expired by this cache's clock; the server removes those that are
        expired by its own."""
        now = self._clock()
        removed = 0
        for names in self._scan(""):
            for at in range(0, len(names), _BATCH):
                removed += self._purge(names[at : at + _BATCH], now)
        return removed

    @store_errors_only("size", _reason)
    def size(self, prefix: str = "") -> int:
        return sum(len(names) for names in self._scan(prefix))

    def entries(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        """As Store.entries, in no order: those that are there at the start and not removed before
        they are reached."""
        return iterate(self, "entries", _reason, self._stored(prefix))

    @store_errors_only("lease", _reason)
    def lease(self, key: str, token: str, seconds: float) -> bool:
        milliseconds = b"%d" % max(1, ceil(seconds * 1000))
        return self._eval(_LEASE, LEASE_PREFIX + key.encode(), token.encode(), milliseconds)

    @store_errors_only("release", _reason)
    def release(self, key: str, token: str) -> None:
        self._eval(_RELEASE, LEASE_PREFIX + key.encode(), token.encode())

    @store_errors_only("add_counts", _reason)
    def add_counts(self, batch: Batch) -> None:
        """As CountingStore.add_counts, but should the server fail on the way, the hits of some
        entries may count twice."""
        self._counts.add(batch.without_models() if self.envelope.digests else batch)

    @store_errors_only("totals", _reason)
    def totals(self) -> StoreTotals:
        return self._counts.totals()

    @store_errors_only("entry_hits", _reason)
    def entry_hits(self, keys: Sequence[str]) -> dict[str, EntryHits]:
        return self._counts.entry_hits(keys)

    @store_errors_only("reset_counts", _reason)
    def reset_counts(self) -> None:
        self._unlink([TOTALS])
        for names in self._client.scan(HITS_PREFIX + b"*"):
            if names:
                self._unlink(names)

    @store_errors_only("ask", _reason)
    def ask(self, *words: str) -> Any:
        """The server's reply to one command, as bytes, int, None or a list: for administration."""
        return self._client.call(*(word.encode() for word in words))

    @store_errors_only("close", _reason)
    def close(self) -> None:
        self._client.close()

    def _purge(self, names: Sequence[bytes], now: float) -> int:
        removed = 0
        beginnings = self._client.calls(
            [(b"GETRANGE", name, b"0", b"%d" % TIMES_BYTES) for name in names]
        )
        for name, beginning in zip(names, beginnings, strict=True):
            times = times_in(beginning) if type(beginning) is bytes else None
            if times is not None and times[1] is not None and times[1] <= now:
                removed += self._delete_stored_at(name, times[0])
        return removed

    # -- Reading

    def _read(self, key: str, name: bytes, data: Any) -> Entry | None:
        """The entry in *data*; None if it is not a whole one, which is then removed."""
        if type(data) is not bytes:
            raise self._odd(data)
        try:
            return self._memo.get(key, data)
        except EntryUnreadable as exc:
            self.unreadable += 1
            if not exc.newer:
                # it may be the reply to another command, and then so is the next
                self._client.renew()
                with suppress(Exception):  # it is a miss all the same
                    self._delete_seen(name, data)
            return None

    def _scan(self, prefix: str) -> Iterator[list[bytes]]:
        return self._client.scan(
            re.sub(rb"([*?\[\]\\])", rb"\\\1", KEY_PREFIX + prefix.encode()) + b"*"
        )

    def _stored(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        """What is stored under the names that there are now; what cannot be read is left alone."""
        names = list(dict.fromkeys(name for some in self._scan(prefix) for name in some))
        for at in range(0, len(names), _READ_BATCH):
            some = names[at : at + _READ_BATCH]
            for name, data in zip(some, self._client.values(some), strict=True):
                key = name[len(KEY_PREFIX) :].decode("utf-8", "backslashreplace")
                if type(data) is bytes:  # else it is gone by now
                    with suppress(EntryUnreadable):
                        yield key, self.envelope.unpack(key, data)

    # -- Writing

    def _setting(self, key: str, entry: Entry) -> tuple[bytes, ...]:
        """The command that makes *entry* what is stored under *key*, until it expires.
        ValueNotCacheable if it is too large."""
        name = KEY_PREFIX + key.encode()
        milliseconds = 0
        if entry.expires_at is not None:
            milliseconds = ceil(min((entry.expires_at - self._clock()) * 1000, _LONGEST_MS))
            if milliseconds <= 0:
                return (b"UNLINK", name)
        data = self.envelope.pack(key, entry)
        if len(data) > self._max_value_bytes:
            raise ValueNotCacheable("value", f"more than max_value_bytes={self._max_value_bytes}")
        return (
            (b"SET", name, data, b"PX", b"%d" % milliseconds)
            if milliseconds
            else (b"SET", name, data)
        )

    def _check(self, command: Sequence[bytes], reply: Any) -> None:
        """Raise unless *reply* says that *command* was done."""
        if isinstance(reply, Exception):
            raise reply
        if not (reply == b"OK" if command[0] == b"SET" else type(reply) is int):
            raise self._odd(reply)

    def _odd(self, reply: Any) -> Exception:
        """What to raise of a *reply* that no such command has."""
        self._client.renew()
        return UnexpectedReply(type(reply).__name__)

    def _send(self, commands: Sequence[Sequence[bytes]]) -> None:
        if commands:
            for command, reply in zip(commands, self._client.calls(commands), strict=True):
                self._check(command, reply)

    def _unlink_entries(self, names: Sequence[bytes]) -> int:
        """Remove the entries under *names* with their hits; how many there were."""
        return self._unlink(names, [HITS_PREFIX + name[len(KEY_PREFIX) :] for name in names])

    def _unlink(self, names: Sequence[bytes], beside: Sequence[bytes] = ()) -> int:
        """Remove *names*, and others *beside* them; how many there were of the former. The keys of
        one command must be neighbours in a Cluster, so there each has its own."""
        groups: Sequence[Sequence[bytes]] = (names, beside) if beside else (names,)
        if self._client.clustered:
            groups = [[name] for group in groups for name in group]
        commands = [(b"UNLINK", *group) for group in groups]
        replies = self._client.calls(commands)
        for command, reply in zip(commands, replies, strict=True):
            self._check(command, reply)
        return sum(replies[: len(names) if self._client.clustered else 1])

    def _delete_stored_at(self, name: bytes, stored_at: float) -> bool:
        return self._eval(
            _DELETE_STORED_AT,
            name,
            b"%d" % STORED_AT.start,
            b"%d" % (STORED_AT.stop - 1),
            _DOUBLE.pack(stored_at),
        )

    def _delete_seen(self, name: bytes, data: bytes) -> bool:
        """Remove *name* if it still holds *data*, and not what another has put there since; whether
        it did."""
        return self._eval(
            _DELETE_SEEN, name, sha1(data, usedforsecurity=False).hexdigest().encode()
        )

    def _eval(self, script: bytes, name: bytes, *args: bytes) -> bool:
        """Run *script*, which none can come in between, on *name*; whether it did what it is
        for."""
        reply = self._client.call(b"EVAL", script, b"1", name, *args)
        if type(reply) is not int:
            raise self._odd(reply)
        return reply == 1
