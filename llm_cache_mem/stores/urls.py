"""Where entries live: the Store protocol, its implementations, and how a URL or a path becomes
one."""

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from llm_cache_mem.stores.base import Removed, Store
from llm_cache_mem.stores.memory import MemoryStore
from llm_cache_mem.values.entry import PLAIN, Envelope

if TYPE_CHECKING:
    from llm_cache_mem.diagnostics.redaction import Rule

__all__ = ["Backend", "MemoryStore", "Opened", "Removed", "Store", "open_store", "sqlite_path"]

Backend = str | os.PathLike[str] | Store
_KNOWN = (
    "memory, sqlite://./cache.db, sqlite:///relative.db, sqlite:////absolute.db, sqlite://:memory:,"
    " jsonl://recordings.jsonl, a path, redis://host:6379/0, rediss://, unix:///redis.sock,"
    " valkey://, valkeys://, memcached://host:11211[,host:11211], tiered:memory,URL (memory in"
    " front of any of these)"
)
_SERVERS = ("redis", "rediss", "unix", "valkey", "valkeys", "memcached")
_POLICIES = ("lru", "sieve")
_IN_MEMORY = ("memory", "memory://", "sqlite://:memory:")
_FILE_ENDINGS = (".db", ".sqlite", ".sqlite3")
_RECORDINGS = ".jsonl"
_TIERED = "tiered:"
_FRONT_SIZE, _FRONT_BYTES = (
    4096,
    64 * 1024 * 1024,
)  # of memory in front of a file that may hold more


class Opened(NamedTuple):
    """A store, whether the cache must close it, how to name it without a secret, and whether it
    keeps *max_size* and *max_bytes*."""

    store: Store
    owned: bool
    name: str
    bounded: bool = True


def open_store(
    backend: Backend,
    *,
    max_size: int | None,
    max_bytes: int | None,
    clock: Callable[[], float],
    envelope: Callable[[], Envelope] = lambda: PLAIN,
    redact: "Iterable[Rule]" = (),
    policy: str = "lru",
) -> Opened:
    """The store that *backend* names: a URL or a path is opened, an object is taken as it is.

    *envelope* is asked for only by stores that keep bytes, *redact* is for those that keep
      recordings, which have no bounds,
    *policy* (lru or sieve) is for memory.

    ValueError for a scheme that nobody knows, TypeError for anything but a str, a path or a store,
    and StoreError or OSError for a path where no database can be. A server is not asked before the
    store is first used.
    """
    if policy not in _POLICIES:
        raise ValueError(f"policy must be one of {', '.join(_POLICIES)}, not {policy!r}")
    if policy != "lru" and backend not in _IN_MEMORY:
        raise ValueError(
            f"policy={policy!r} is for memory: other stores let the least recently used go first,"
            " or what their server says"
        )
    if isinstance(backend, os.PathLike):
        return _open_path(os.fspath(backend), max_size, max_bytes, clock, envelope, redact)
    if not isinstance(backend, str):
        if not callable(getattr(backend, "get", None)) or not hasattr(backend, "blocking"):
            hint = (
                "; a client of a server goes into a store: RedisStore(client),"
                " MemcachedStore(client)"
            )
            raise TypeError(
                f"backend must be a URL, a path or a Store, not {type(backend).__name__}{hint}"
            )
        return Opened(backend, owned=False, name=type(backend).__name__, bounded=False)
    scheme, separator, rest = backend.partition("://")
    if backend in _IN_MEMORY:
        kind = MemoryStore if policy == "lru" else _sieve()
        return Opened(
            kind(max_size=max_size, max_bytes=max_bytes, clock=clock), owned=True, name="memory"
        )
    if backend.startswith(_TIERED):
        return _open_tiered(backend.removeprefix(_TIERED), max_size, max_bytes, clock, envelope)
    if separator and scheme == "sqlite":
        return _open_sqlite(_path_in(scheme, rest), max_size, max_bytes, clock, envelope())
    if separator and scheme == "jsonl":
        return _open_jsonl(_path_in(scheme, rest), clock, envelope(), redact)
    if not separator and _is_path(backend, (*_FILE_ENDINGS, _RECORDINGS)):
        return _open_path(backend, max_size, max_bytes, clock, envelope, redact)
    if separator and scheme in _SERVERS:
        return (
            _open_memcached(backend, clock, envelope())
            if scheme == "memcached"
            else _open_redis(backend, clock, envelope())
        )
    raise ValueError(
        f"unknown backend {scheme + '://' if separator else scheme!r}; known are: {_KNOWN}"
    )


def sqlite_path(backend: str) -> str | None:
    """The path of the database that *backend* names, nothing being opened; None if it names no
    SQLite file. ValueError as above."""
    scheme, separator, rest = backend.partition("://")
    if separator:
        is_file = scheme == "sqlite" and rest != ":memory:"
        return os.path.expanduser(_path_in(scheme, rest)) if is_file else None
    is_path = _is_path(backend, _FILE_ENDINGS)
    return os.path.expanduser(backend) if is_path and not backend.endswith(_RECORDINGS) else None


def _is_path(backend: str, endings: tuple[str, ...]) -> bool:
    """Whether *backend*, which has no ``://``, is a path. ValueError for a URL that lacks a slash:
    a path could be anything."""
    scheme, colon, _ = backend.partition(":")
    if colon and scheme in ("sqlite", "jsonl", *_SERVERS):
        raise ValueError(
            f"a {scheme} backend begins with {scheme}://, not {scheme}: alone (for a file of that"
            " name, write ./ before it)"
        )
    return os.sep in backend or "/" in backend or backend.endswith(endings)


def _sieve() -> type[MemoryStore]:
    from llm_cache_mem.stores.sieve import SieveStore

    return SieveStore


def _path_in(scheme: str, rest: str) -> str:
    """The path in what follows ``sqlite://``: ours (``./x.db``) or SQLAlchemy's (``/relative.db``,
    ``//absolute.db``)."""
    store, example = (
        ("sqlite.SQLiteStore", "cache.db")
        if scheme == "sqlite"
        else ("jsonl.JsonlStore", "llm.jsonl")
    )
    if "?" in rest:
        raise ValueError(
            f"a {scheme}:// URL takes no ?options; hand in a llm_cache_mem.stores.{store}(path,"
            " ...) instead"
        )
    path = rest.removeprefix("/")
    if not path.strip("/"):
        raise ValueError(f"a {scheme}:// URL needs a path, as in {scheme}://./{example}")
    return path


def _open_path(
    path: str,
    max_size: int | None,
    max_bytes: int | None,
    clock: Callable[[], float],
    envelope: Callable[[], Envelope],
    redact: "Iterable[Rule]",
) -> Opened:
    if path.endswith(_RECORDINGS):
        return _open_jsonl(path, clock, envelope(), redact)
    return _open_sqlite(path, max_size, max_bytes, clock, envelope())


def _open_sqlite(
    path: str,
    max_size: int | None,
    max_bytes: int | None,
    clock: Callable[[], float],
    envelope: Envelope,
) -> Opened:
    from llm_cache_mem.stores.sqlite import SQLiteStore  # sqlite3 is loaded by those who use it

    path = os.path.expanduser(path)
    store = SQLiteStore(
        path, max_size=max_size, max_bytes=max_bytes, clock=clock, envelope=envelope
    )
    return Opened(store, owned=True, name=f"sqlite:///{path}")


def _open_jsonl(
    path: str, clock: Callable[[], float], envelope: Envelope, redact: "Iterable[Rule]"
) -> Opened:
    from llm_cache_mem.stores.jsonl import JsonlStore

    if envelope is not PLAIN:
        raise ValueError(
            "a jsonl store is there to be read, by people and by git: it is not encrypted;"
            " encryption_key='plain' says so"
        )
    return Opened(
        JsonlStore(path, redact=redact, clock=clock),
        owned=True,
        name=f"jsonl:///{path}",
        bounded=False,
    )


def _open_redis(url: str, clock: Callable[[], float], envelope: Envelope) -> Opened:
    from llm_cache_mem.stores.redis import RedisStore  # the extra is loaded by those who use it

    store = RedisStore(url, clock=clock, envelope=envelope)
    return Opened(store, owned=True, name=store.name, bounded=False)


def _open_memcached(url: str, clock: Callable[[], float], envelope: Envelope) -> Opened:
    from llm_cache_mem.stores.memcached import MemcachedStore

    store = MemcachedStore(url, clock=clock, envelope=envelope)
    return Opened(store, owned=True, name=store.name, bounded=False)


def _open_tiered(
    tiers: str,
    max_size: int | None,
    max_bytes: int | None,
    clock: Callable[[], float],
    envelope: Callable[[], Envelope],
) -> Opened:
    """Memory in front of what follows the comma. Bounds are those of the back if it has any, and
    the front holds no more than that."""
    from llm_cache_mem.stores.tiered import TieredStore

    front, comma, back = (part.strip() for part in tiers.partition(","))
    if (
        front != "memory"
        or not comma
        or not back
        or back in _IN_MEMORY
        or back.startswith((_TIERED, "jsonl:"))
        or back.endswith(_RECORDINGS)
        or any(
            part.strip().partition(":")[0] in ("memory", "sqlite", "jsonl", *_SERVERS)
            for part in back.split(",")[1:]
        )
    ):
        raise ValueError(
            "a tiered: backend is memory in front of one shared store, as in"
            " tiered:memory,redis://localhost:6379/0"
        )
    opened = open_store(
        back, max_size=max_size, max_bytes=max_bytes, clock=clock, envelope=envelope
    )
    if opened.bounded:
        max_size, max_bytes = (
            min(max_size or _FRONT_SIZE, _FRONT_SIZE),
            min(max_bytes or _FRONT_BYTES, _FRONT_BYTES),
        )
    store = TieredStore(
        MemoryStore(max_size=max_size, max_bytes=max_bytes, clock=clock), opened.store
    )
    return Opened(store, owned=True, name=f"{_TIERED}memory,{opened.name}")
