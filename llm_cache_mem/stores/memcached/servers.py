"""The servers of a URL or of a client: which of them stores a key, and which is bypassed because it
fails."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from llm_cache_mem.errors import ValueNotCacheable
from llm_cache_mem.stores.circuit_breaker import CircuitBreaker
from llm_cache_mem.stores.failures import NotAsked
from llm_cache_mem.stores.memcached.connections import (
    Address,
    Client,
    GivenConnections,
    HashClient,
    MemcacheServerError,
    PooledClient,
    RendezvousHash,
    UrlConnections,
    shown,
)

__all__ = ["Client", "MemcacheServerError", "Server", "Servers", "addresses"]

R = TypeVar("R")
Connections = UrlConnections | GivenConnections

_PORT = 11211


class Server:
    """One of the servers, with a circuit breaker of its own: one that is down must neither delay
    each call nor make the others be bypassed."""

    def __init__(self, connections: Connections, *, alone: bool) -> None:
        self.connections = connections
        self._breaker = None if alone else CircuitBreaker()  # the only one has that of the cache

    def run(self, work: Callable[[Client], R], seconds: float, max_bytes: int) -> R:
        """Return ``work(client)``, connected, which may take *seconds* and receive *max_bytes*."""
        breaker = self._breaker
        if breaker is None:
            return self.connections.run(work, seconds, max_bytes)
        if not breaker.allows():
            raise NotAsked(
                "MemcachedStore",
                "call",
                f"{self.connections.name} keeps failing and is bypassed for some seconds",
            )
        try:
            result = self.connections.run(work, seconds, max_bytes)
        except (ValueNotCacheable, MemcacheServerError):  # it answers
            breaker.succeeded()
            raise
        except NotAsked:
            breaker.interrupted()
            raise
        except Exception:
            breaker.failed()
            raise
        except BaseException:
            breaker.interrupted()
            raise
        breaker.succeeded()
        return result


class Servers:
    """All servers of a store; iterating gives each."""

    def __init__(self, nodes: Mapping[str, Connections], hasher: Any) -> None:
        alone = len(nodes) == 1
        self._servers = {node: Server(each, alone=alone) for node, each in nodes.items()}
        self._hasher = hasher
        self._only = next(iter(self._servers.values())) if alone else None

    @classmethod
    def of(cls, client: Any, *, timeout: float) -> "Servers":
        """Those of a URL or of a pymemcache client; ValueError or TypeError if it can never
        work."""
        return _of_url(client, timeout) if isinstance(client, str) else _of_client(client)

    def __iter__(self) -> Iterator[Server]:
        return iter(self._servers.values())

    @property
    def name(self) -> str:
        return "memcached://" + ",".join(server.connections.name for server in self)

    def of_key(self, name: bytes) -> Server:
        """The server that stores *name*: the same in every process with the same servers, in any
        order."""
        return self._only or self._servers[self._hasher.get_node(name.decode("ascii"))]


def addresses(url: str) -> list[Address]:
    """The addresses of the servers of *url*; ValueError for a URL that can never work."""
    scheme, _, rest = url.partition("://")
    if scheme != "memcached":
        raise ValueError(
            "MemcachedStore needs a URL such as memcached://localhost:11211, or a pymemcache client"
        )
    return [_address(part) for part in ([rest] if rest.startswith("/") else rest.split(","))]


def _of_url(url: str, timeout: float) -> Servers:
    places = addresses(url)
    nodes: dict[str, Connections] = {
        shown(place): UrlConnections(place, timeout) for place in places
    }
    if len(nodes) < len(places):
        raise ValueError("a memcached:// URL names each server once")
    return Servers(nodes, RendezvousHash(list(nodes)))


def _address(part: str) -> Address:
    """Host and port, or the path of a socket. The errors do not repeat what may be a password."""
    if part.startswith("/") and len(part) > 1:
        return part
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/?#@\[\]]+)(?::([0-9]{1,5}))?", part, re.ASCII)
    if found is None or not 0 < int(found[2] or _PORT) < 1 << 16:
        raise ValueError(
            "a memcached:// URL is memcached://host:port[,host:port], or"
            " memcached:///path/of/socket: no user, no path, no ?options"
        )
    return found[1].strip("[]"), int(found[2] or _PORT)


def _of_client(client: Any) -> Servers:
    if isinstance(client, PooledClient):
        pools = {"": client}
    elif isinstance(client, HashClient) and client.use_pooling:
        pools = dict(client.clients)
    else:
        kind = type(client).__name__
        raise TypeError(
            "MemcachedStore needs a URL, a PooledClient or a HashClient with use_pooling=True,"
            f" which threads may share; not {kind}"
        )
    for pooled in pools.values():
        if not pooled.timeout or not pooled.connect_timeout:
            raise ValueError(
                "the pymemcache client needs a timeout and a connect_timeout: without them a server"
                " that hangs hangs every call"
            )
    nodes: dict[str, Connections] = {
        node: GivenConnections(pooled) for node, pooled in pools.items()
    }
    return Servers(nodes, getattr(client, "hasher", None))
