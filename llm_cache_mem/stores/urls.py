"""Open the store that a URL or a path names: one table says which schemes there are.

A new store is a module of its own and a row of ``SCHEMES``. An application needs neither: it hands
a Store object to LLMCache.
"""

import os
from collections.abc import Callable
from typing import Final, NamedTuple

from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores.base import Store, StoreSettings, name_of
from llm_cache_mem.stores.memory import MemoryStore
from llm_cache_mem.values.entry import PLAIN

__all__ = ["SCHEMES", "URL_VARIABLE", "Backend", "Opened", "Scheme", "locate", "open_store"]

Backend = str | os.PathLike[str] | Store

URL_VARIABLE: Final = "LLM_CACHE_MEM_URL"
"""The environment variable that names the store of commands, and of ``install()`` without a cache:
a URL or a path."""

_POLICIES = ("lru", "sieve")
_TIERED = "tiered:"
_FRONT_SIZE, _FRONT_BYTES = 4096, 64 * 1024 * 1024  # in front of a file that may hold more


class Opened(NamedTuple):
    """A store, whether the cache must close it, its name without a secret, and whether it keeps to
    *max_size* and *max_bytes*."""

    store: Store
    owned: bool
    name: str
    bounded: bool


class Scheme(NamedTuple):
    """One kind of store: the *names* that its URLs begin with, and how to *open* it.

    *open* is given a URL, or the path if it is a store in a file, to which a path that ends in one
    of *endings* leads as well. *examples* are for messages. *bounded*: it keeps to max_size and
    max_bytes. *in_file*, *on_server*: where the entries are. *encrypted*: it can be.
    """

    names: tuple[str, ...]
    open: Callable[[str, StoreSettings], Store]
    examples: str
    endings: tuple[str, ...] = ()
    bounded: bool = False
    in_file: bool = False
    on_server: bool = False
    encrypted: bool = True

    def address(self, name: str) -> str:
        """The beginning of its URLs under *name*, one of its names."""
        return f"{name}://" if self.in_file or self.on_server else self.examples.partition(",")[0]


def open_store(backend: Backend, settings: StoreSettings | None = None) -> Opened:
    """The store that *backend* names; a Store object is taken as it is.

    A file is looked at, and made if absent, but not its folder. A server is not asked before the
    store is first used.

    Raises:
        ValueError: an unknown scheme, or a URL that can never work.
        TypeError: *backend* is neither a str, a path nor a Store.
        StoreError: no file can be at that path.
    """
    settings = settings or StoreSettings()
    if not isinstance(backend, str | os.PathLike):
        _check_is_store(backend)
        _check_policy(settings, in_memory=False)
        return Opened(backend, owned=False, name=type(backend).__name__, bounded=False)
    scheme, place = locate(backend)
    _check_policy(settings, in_memory=scheme.open is _open_memory)
    try:
        store = scheme.open(place, settings)
    except StoreError as exc:
        if (hint := _four_slashes(backend, place)) is None:
            raise
        raise StoreError(exc.store, exc.operation, exc.reason + hint) from exc.__cause__
    return Opened(store, owned=True, name=name_of(store), bounded=scheme.bounded)


def locate(backend: str | os.PathLike[str]) -> tuple[Scheme, str]:
    """The scheme of a URL or path, and what its ``open`` is given. Opens nothing.

    The path in the URL of a file is what follows ``//`` or ``///``, as SQLAlchemy has it:
    ``sqlite://./a.db`` and ``sqlite:///a.db`` are relative to the working directory, and
    ``sqlite:////var/a.db``, with four slashes, is absolute. ``~`` is the home directory.
    """
    if not isinstance(backend, str):
        path = os.fspath(backend)
        return _by_ending(path) or _BY_NAME["sqlite"], os.path.expanduser(path)
    if backend in _IN_MEMORY:
        return _BY_NAME["memory"], backend
    if backend.startswith(_TIERED):
        return _BY_NAME["tiered"], backend
    name, separator, rest = backend.partition("://")
    scheme = _BY_NAME.get(name) if separator else None
    if scheme is not None and scheme.in_file:
        return scheme, os.path.expanduser(_path_in(scheme, rest))
    if scheme is not None and scheme.on_server:
        return scheme, backend
    _check_holds_no_user(name)
    if not separator:
        scheme = _scheme_of_path(backend)
        if scheme is not None:
            return scheme, os.path.expanduser(backend)
    from difflib import get_close_matches  # for the message alone

    known = "".join(f"\n  {scheme.examples}" for scheme in SCHEMES)
    unknown = name + "://" if separator else repr(name)
    meant = [_BY_NAME[near].address(near) for near in get_close_matches(name, _BY_NAME, n=1)]
    if not separator and name.replace("-", "_").isidentifier():
        meant.append(f"the file ./{name}.db")
    hint = f"did you mean {' or '.join(meant)}? " if meant else ""
    raise ValueError(f"unknown backend {unknown}; {hint}known are:{known}\n  or a path: ./cache.db")


def _check_holds_no_user(path: str) -> None:
    """ValueError for a URL without ``://``, as in ``redis//user:password@host``, of which a message
    about the file at that path would quote the password."""
    head, at, _ = path.partition("@")
    if at and ("//" in head or ":" in head) and not head.startswith((".", "/", "~")):
        name = head.partition("//")[0].rstrip(":/")
        meant = f"did you mean {name}://? " if name in _BY_NAME else ""
        raise ValueError(
            f"a backend with a user and a host is a URL, in which :// follows the scheme; {meant}"
            "(for a file of that name, write ./ before it)"
        )


def _scheme_of_path(path: str) -> Scheme | None:
    """The scheme of a path; None if it might be anything. ValueError for a URL that lacks a
    slash."""
    name, colon, _ = path.partition(":")
    scheme = _BY_NAME.get(name) if colon else None
    if scheme is not None and (scheme.in_file or scheme.on_server):
        raise ValueError(
            f"a {name} backend begins with {name}://, not {name}: alone (for a file of that name,"
            " write ./ before it)"
        )
    if os.sep in path or "/" in path:
        return _by_ending(path) or _BY_NAME["sqlite"]
    return _by_ending(path)


def _by_ending(path: str) -> Scheme | None:
    return next((scheme for scheme in SCHEMES if path.endswith(scheme.endings)), None)


def _path_in(scheme: Scheme, rest: str) -> str:
    """The path in what follows ``scheme://``."""
    name = scheme.names[0]
    if "?" in rest:
        raise ValueError(
            f"a {name}:// URL takes no ?options; hand in a store from llm_cache_mem.stores.{name}"
            " instead"
        )
    path = rest.removeprefix("/")
    if not path.strip("/"):
        raise ValueError(f"a {name}:// URL needs a path, as in {scheme.examples.split(',')[0]}")
    return path


def _four_slashes(backend: str | os.PathLike[str], place: str) -> str | None:
    """The hint for a URL that leads to a missing folder if it is read as it is: three slashes and a
    relative path. None for all others."""
    name, slashes, path = os.fspath(backend).partition(":///")
    if not slashes or os.path.isabs(place) or os.path.isdir(os.path.dirname(place) or "."):
        return None
    return f" (three slashes make a relative path: did you mean {name}:////{path}?)"


def _check_is_store(backend: object) -> None:
    if not callable(getattr(backend, "get", None)) or not hasattr(backend, "blocking"):
        raise TypeError(
            f"backend must be a URL, a path or a Store, not {type(backend).__name__}; a client of a"
            " server goes into a store: RedisStore(client), MemcachedStore(client)"
        )


def _check_policy(settings: StoreSettings, *, in_memory: bool) -> None:
    if settings.policy not in _POLICIES:
        raise ValueError(f"policy must be one of {', '.join(_POLICIES)}, not {settings.policy!r}")
    if settings.policy != "lru" and not in_memory:
        raise ValueError(
            f"policy={settings.policy!r} is for memory: other stores evict the least recently used,"
            " or as their server is configured"
        )


# -- How each is opened; a store's module is loaded only by those who use it


def _open_memory(url: str, settings: StoreSettings) -> MemoryStore:
    from llm_cache_mem.stores.sieve import SieveStore

    kind = SieveStore if settings.policy == "sieve" else MemoryStore
    return kind(max_size=settings.max_size, max_bytes=settings.max_bytes, clock=settings.clock)


def _open_sqlite(path: str, settings: StoreSettings) -> Store:
    from llm_cache_mem.stores.sqlite import SQLiteStore

    return SQLiteStore(
        path,
        max_size=settings.max_size,
        max_bytes=settings.max_bytes,
        clock=settings.clock,
        envelope=settings.envelope(),
        read_only=settings.read_only,
        **settings.waiting(),
    )


def _open_jsonl(path: str, settings: StoreSettings) -> Store:
    from llm_cache_mem.stores.jsonl import JsonlStore

    if settings.envelope() is not PLAIN:
        raise ValueError(
            "a jsonl store is meant to be read by people and git, so it is not encrypted:"
            " encryption_key='plain' confirms that"
        )
    return JsonlStore(path, redact=settings.redact, clock=settings.clock, **settings.waiting())


def _open_redis(url: str, settings: StoreSettings) -> Store:
    from llm_cache_mem.stores.redis import RedisStore

    return RedisStore(url, clock=settings.clock, envelope=settings.envelope())


def _open_memcached(url: str, settings: StoreSettings) -> Store:
    from llm_cache_mem.stores.memcached import MemcachedStore

    return MemcachedStore(url, clock=settings.clock, envelope=settings.envelope())


def _open_tiered(url: str, settings: StoreSettings) -> Store:
    """Memory in front of what follows the comma. Bounds are those of the back if it has any, and
    the front holds no more than that."""
    from llm_cache_mem.stores.tiered import TieredStore

    front, comma, back = (part.strip() for part in url.removeprefix(_TIERED).partition(","))
    more = any(part.strip().partition(":")[0] in _BY_NAME for part in back.split(",")[1:])
    if front != "memory" or not comma or not back or more or not _may_be_back(locate(back)[0]):
        raise ValueError(
            "a tiered: backend is memory in front of one shared store, as in"
            " tiered:memory,redis://localhost:6379/0"
        )
    opened = open_store(back, settings)
    if opened.bounded:
        settings = settings._replace(
            max_size=min(settings.max_size or _FRONT_SIZE, _FRONT_SIZE),
            max_bytes=min(settings.max_bytes or _FRONT_BYTES, _FRONT_BYTES),
        )
    return TieredStore(_open_memory("memory", settings), opened.store)


def _may_be_back(scheme: Scheme) -> bool:
    return scheme.on_server or (scheme.in_file and scheme.bounded)


_IN_MEMORY = ("memory", "memory://", "sqlite://:memory:")

SCHEMES = (
    Scheme(("memory",), _open_memory, "memory", bounded=True, encrypted=False),
    Scheme(
        ("sqlite",),
        _open_sqlite,
        "sqlite://./cache.db, sqlite:///relative.db, sqlite:////absolute.db, sqlite://:memory:",
        endings=(".db", ".sqlite", ".sqlite3"),
        bounded=True,
        in_file=True,
    ),
    Scheme(
        ("jsonl",),
        _open_jsonl,
        "jsonl://./recordings.jsonl",
        endings=(".jsonl",),
        in_file=True,
        encrypted=False,
    ),
    Scheme(
        ("redis", "rediss", "unix", "valkey", "valkeys"),
        _open_redis,
        "redis://host:6379/0, rediss://, unix:///redis.sock, valkey://, valkeys://",
        on_server=True,
    ),
    Scheme(("memcached",), _open_memcached, "memcached://host:11211[,host:11211]", on_server=True),
    Scheme(
        ("tiered",),
        _open_tiered,
        "tiered:memory,URL (memory in front of any of these)",
        bounded=True,
    ),
)
_BY_NAME = {name: scheme for scheme in SCHEMES for name in scheme.names}
