"""The store that a command names: looked into without changing it, or opened to be changed."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from time import time
from typing import NamedTuple, Protocol

from llm_cache_mem.cli.input import MISUSED, CommandFailed
from llm_cache_mem.errors import EntryUnreadable, StoreError
from llm_cache_mem.keys import digest
from llm_cache_mem.stores import MemoryStore, Opened, Store, open_store, sqlite_path
from llm_cache_mem.stores.sqlite import SQLiteStore
from llm_cache_mem.stores.sqlite.file import FileRefused, is_damage
from llm_cache_mem.stores.sqlite.reader import DatabaseReader
from llm_cache_mem.values.encryption import KEY_VARIABLE, envelope_for
from llm_cache_mem.values.entry import PLAIN, Entry, Envelope, encrypted_with

__all__ = [
    "Found",
    "Reader",
    "Selection",
    "back_of",
    "environment_envelope",
    "expires_on_server",
    "open_for_changes",
    "open_to_read",
]

_LOCK_SECONDS = 10.0  # a person rather waits than tries again


class Found(NamedTuple):
    """An entry with its key, and that key taken apart. *hidden_by* as in Line."""

    key: str
    parts: digest.KeyParts
    entry: Entry
    hidden_by: str = ""


class Selection(NamedTuple):
    """Which entries a command is about; None is any."""

    namespace: str | None = None
    kind: str | None = None
    model: str | None = None
    expired: bool = False
    older_than: float | None = None  # seconds: an entry so old counts as expired

    @property
    def prefix(self) -> str:
        """What the keys of all of them begin with."""
        return "" if self.namespace is None else digest.prefix(self.namespace)

    def includes(self, found: Found, now: float) -> bool:
        entry = found.entry
        if self.kind not in (None, found.parts.kind) or self.model not in (None, entry.model):
            return False
        return (
            not self.expired
            or entry.is_expired(now)
            or (self.older_than is not None and now - entry.stored_at >= self.older_than)
        )


def environment_envelope() -> Envelope:
    """What reads and writes entries as the environment says; CommandFailed if it names no key."""
    try:
        return envelope_for(None)()
    except (ValueError, ImportError) as exc:
        raise CommandFailed(f"{KEY_VARIABLE}: {exc}", MISUSED) from None


class Reader(Protocol):
    """The entries of a store. CommandFailed for all that goes wrong."""

    name: str  # without a password
    path: str | None  # of the file, if it is one

    @property
    def envelope(self) -> Envelope:
        """What reads its entries."""
        ...

    @property
    def unreadable(self) -> int:
        """How many entries were left out so far, because they cannot be read."""
        ...

    def size(self, prefix: str = "") -> int:
        """How many keys begin with *prefix*."""
        ...

    def entries(self, prefix: str = "", part: str = "") -> Iterator[Found]:
        """The entries whose keys begin with *prefix* and hold *part*, the least recently used first
        if that is known."""
        ...

    def close(self) -> None: ...


def back_of(url: str) -> str:
    """The store behind the memory that ``tiered:memory,URL`` has in front, which is of no concern
    to other processes; else *url*."""
    return url.partition(",")[2].strip() if url.startswith("tiered:") else url


def open_to_read(url: str) -> Reader:
    """The reader of the store that *url* names for LLMCache too; CommandFailed if it names none, or
    none that one can look into."""
    url = back_of(url)
    path = _database(url)
    return _Listing(url) if path is None else _Database(path)


@contextlib.contextmanager
def open_for_changes(url: str, *, clock: Callable[[], float] = time) -> Iterator[Store]:
    """The store, a file being made if absent, without bounds. What is there and is not ours is
    refused, not set aside."""
    url = back_of(url)
    path = _database(url)
    if (
        path is not None
        and os.path.lexists(path)
        and not (os.path.isfile(path) and os.path.getsize(path) == 0)
    ):
        _Database(path).close()
    name = path or ""
    try:
        if path is None:
            opened = _opened(url, environment_envelope(), clock)
            store, name = opened.store, opened.name
        else:
            store = SQLiteStore(
                path, clock=clock, lock_timeout=_LOCK_SECONDS, envelope=environment_envelope()
            )
        with contextlib.closing(store):
            yield store
    except StoreError as exc:
        told = isinstance(exc.__cause__, FileRefused)  # and names the file
        raise CommandFailed(
            exc.reason if told else f"{name}: {exc.operation} failed: {exc.reason}"
        ) from exc


def expires_on_server(url: str) -> bool:
    """Whether the store removes by itself, and by its own clock, what has expired."""
    scheme, separator, _ = back_of(url).partition("://")
    return bool(separator) and scheme not in ("sqlite", "jsonl")


class _Database:
    """A SQLite file, which SQLiteStore would change by looking."""

    def __init__(self, path: str) -> None:
        self.unreadable = 0
        self.envelope = environment_envelope()
        self.path: str | None = path
        with self._telling():
            self._reader = DatabaseReader(path, timeout=_LOCK_SECONDS)
        self.name = self.path = self._reader.path

    def close(self) -> None:
        self._reader.close()

    def size(self, prefix: str = "") -> int:
        with self._telling():
            return len(self._reader.numbers(prefix))

    def entries(self, prefix: str = "", part: str = "") -> Iterator[Found]:
        with self._telling():
            for name, data in self._reader.rows(prefix, part):
                try:
                    key = name.decode("ascii")
                    found = Found(
                        key,
                        digest.parse(key),
                        self.envelope.unpack(key, data),
                        encrypted_with(data),
                    )
                except (AttributeError, ValueError):  # of which EntryUnreadable is one
                    self.unreadable += 1
                    continue
                yield found

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (FileRefused, FileNotFoundError) as exc:
            raise CommandFailed(str(exc)) from exc
        except Exception as exc:
            if is_damage(exc):
                raise CommandFailed(
                    f"{self.path} is damaged, or no database at all; it was left as it is"
                ) from exc
            if isinstance(exc, sqlite3.Error | OSError):
                raise CommandFailed(f"{self.path}: {exc}") from exc
            raise


class _Listing:
    """Any other store, by what it lists itself."""

    def __init__(self, url: str) -> None:
        self.envelope = self._noting = _Noting(environment_envelope())
        opened = _opened(url, self.envelope, time)
        self._store = opened.store
        self.name = opened.name
        self.path: str | None = getattr(opened.store, "path", None)
        if self.path is not None and not os.path.exists(self.path):
            raise CommandFailed(f"{self.path}: no such file")

    @property
    def unreadable(self) -> int:
        return self._noting.unreadable

    def close(self) -> None:
        self._store.close()

    def size(self, prefix: str = "") -> int:
        with self._telling():
            return self._store.size(prefix)

    def entries(self, prefix: str = "", part: str = "") -> Iterator[Found]:
        with self._telling():
            for key, entry in self._store.entries(prefix):
                hidden_by = self._noting.hidden_by.pop(key, "")
                if part not in key:
                    continue
                try:
                    found = Found(key, digest.parse(key), entry, hidden_by)
                except ValueError:
                    self._noting.unreadable += 1
                    continue
                yield found

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except StoreError as exc:
            raise CommandFailed(f"{self.name}: {exc.operation} failed: {exc.reason}") from exc


class _Noting:
    """An Envelope that notes which entries it could not read, and by which encryption key the
    others were hidden."""

    def __init__(self, inner: Envelope) -> None:
        self._inner = inner
        self.digests: Sequence[Callable[[str], str]] = inner.digests
        self.unreadable = 0
        self.hidden_by: dict[str, str] = {}

    def knows(self, key_id: str) -> bool:
        return self._inner.knows(key_id)

    def pack(self, key: str, entry: Entry) -> bytes:
        return self._inner.pack(key, entry)

    def unpack(self, key: str, data: bytes) -> Entry:
        try:
            entry = self._inner.unpack(key, data)
        except EntryUnreadable:
            self.unreadable += 1
            raise
        if hidden_by := encrypted_with(data):
            self.hidden_by[key] = hidden_by
        return entry


def _database(url: str) -> str | None:
    """The path of the SQLite file that *url* names; here that is any file that is there."""
    try:
        path = sqlite_path(url)
    except ValueError as exc:
        raise CommandFailed(str(exc), MISUSED) from None
    is_file = (
        path is None and "://" not in url and not url.endswith(".jsonl") and os.path.isfile(url)
    )
    return url if is_file else path


def _is_recording(url: str) -> bool:
    return url.startswith("jsonl://") or ("://" not in url and url.endswith(".jsonl"))


def _opened(url: str, envelope: Envelope, clock: Callable[[], float]) -> Opened:
    try:
        used = (
            PLAIN if _is_recording(url) else envelope
        )  # which is not encrypted, whatever the environment says
        opened = open_store(url, max_size=None, max_bytes=None, clock=clock, envelope=lambda: used)
    except (ValueError, ImportError) as exc:
        raise CommandFailed(str(exc), MISUSED) from None
    except StoreError as exc:
        raise CommandFailed(exc.reason) from exc
    if isinstance(opened.store, MemoryStore):
        raise CommandFailed(
            f"{url!r} lives in the process that uses it: there is nothing to look at from here",
            MISUSED,
        )
    return opened
