"""The store that a command names: looked into without changing it, or opened to be changed."""

import contextlib
import os
import sqlite3
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time
from typing import NamedTuple

from llm_cache_mem import keys
from llm_cache_mem.cli.input import MISUSED, CommandFailed
from llm_cache_mem.encryption import KEY_VARIABLE, envelope_for
from llm_cache_mem.entry import Entry, Envelope, encrypted_with
from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores import _path_in, open_store
from llm_cache_mem.stores.sqlite import SQLiteStore
from llm_cache_mem.stores.sqlite_file import Connection, DatabaseFile, FileRefused, is_damage

__all__ = ["Found", "Reader", "Selection", "database_path", "environment_envelope", "is_expired", "open_for_changes"]

_LOCK_SECONDS = 10.0  # a person rather waits than tries again
_AFTER_ASCII = "\x7f"


class Found(NamedTuple):
    """An entry with its key, and that key taken apart. *hidden_by* as in Line."""

    key: str
    parts: keys.KeyParts
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
        return "" if self.namespace is None else keys.prefix(self.namespace)

    def includes(self, found: Found, now: float) -> bool:
        entry = found.entry
        if self.kind not in (None, found.parts.kind) or self.model not in (None, entry.model):
            return False
        return not self.expired or is_expired(entry, now) or (self.older_than is not None and now - entry.stored_at >= self.older_than)


def is_expired(entry: Entry, now: float) -> bool:
    return entry.expires_at is not None and now >= entry.expires_at


def database_path(url: str) -> str:
    """The path of the database that *url* names for LLMCache too; CommandFailed if it names none."""
    scheme, separator, rest = url.partition("://")
    try:
        if scheme == "sqlite" and separator and rest != ":memory:":
            return os.path.expanduser(_path_in(scheme, rest))
        if not separator and ("/" in url or os.sep in url or url.endswith((".db", ".sqlite", ".sqlite3")) or os.path.isfile(url)):
            return os.path.expanduser(url)
        open_store(url, max_size=None, max_bytes=None, clock=time)
    except ValueError as exc:
        raise CommandFailed(str(exc), MISUSED) from None
    raise CommandFailed(f"{url!r} lives in the process that uses it: there is nothing to look at from here", MISUSED)


def environment_envelope() -> Envelope:
    """What reads and writes entries as the environment says; CommandFailed if it names no key."""
    try:
        return envelope_for(None)()
    except (ValueError, ImportError) as exc:
        raise CommandFailed(f"{KEY_VARIABLE}: {exc}", MISUSED) from None


class Reader(DatabaseFile):
    """The entries of the database at *path*, read without a trace.

    SQLiteStore puts right what it meets: it makes absent files, sets damaged ones aside, removes unreadable entries, notes
    what is used. Whoever looks wants none of that. CommandFailed for all that goes wrong.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, durable=False, timeout=_LOCK_SECONDS)
        self.unreadable = 0
        self.envelope = environment_envelope()
        with self._telling():
            if self._look() is None:
                raise CommandFailed(f"{path}: no such database")
            self._db = self._connect()

    def close(self) -> None:
        self._db.close()

    def size(self, prefix: str = "") -> int:
        """How many keys begin with *prefix*."""
        return len(self._numbers(prefix))

    def entries(self, prefix: str = "", part: str = "") -> Iterator[Found]:
        """The entries whose keys begin with *prefix* and hold *part*, least recently used first; others write meanwhile.

        What cannot be read is left out and counted in ``unreadable``.
        """
        for number in self._numbers(prefix, part):
            with self._telling():
                row = self._db.execute("SELECT key, data FROM entries WHERE id = ?", (number,)).fetchone()
            if row is None:
                continue  # removed meanwhile
            try:
                key = row[0].decode("ascii")
                found = Found(key, keys.parse(key), self.envelope.unpack(key, row[1]), encrypted_with(row[1]))
            except (AttributeError, ValueError):  # of which EntryUnreadable is one
                self.unreadable += 1
                continue
            yield found

    def _numbers(self, prefix: str, part: str = "") -> "array[int]":
        """Row ids: eight bytes each, so that the largest store can be walked, and none of its rows held."""
        statement = "SELECT id FROM entries WHERE key >= ? AND key < ? AND instr(key, ?) ORDER BY used"
        with self._telling():
            return array("q", (number for (number,) in self._db.execute(statement, (prefix, prefix + _AFTER_ASCII, part))))

    def _connect(self) -> Connection:
        try:
            return self._open_to_read("mode=ro")
        except sqlite3.OperationalError:  # in a folder that may not be written WAL mode has no place for its index,
            log = self.path + "-wal"
            if os.path.exists(log) and os.path.getsize(log):
                raise
            return self._open_to_read("mode=ro&immutable=1")  # nor does it need one, if nobody writes

    def _open_to_read(self, options: str) -> Connection:
        name = f"{Path(self.path).as_uri()}?{options}"
        db = sqlite3.connect(name, uri=True, timeout=_LOCK_SECONDS, isolation_level=None, factory=Connection)
        try:
            db.text_factory = bytes
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA cell_size_check = ON")
            if not self._is_laid_out(db):
                raise FileRefused(f"{self.path} holds no entries of this version", misconfigured=False)
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            if is_damage(exc):
                raise CommandFailed(f"{self.path} is damaged, or no database at all; it was left as it is") from exc
            if isinstance(exc, FileRefused):
                raise CommandFailed(str(exc)) from exc
            if isinstance(exc, sqlite3.Error | OSError):
                raise CommandFailed(f"{self.path}: {exc}") from exc
            raise


@contextlib.contextmanager
def open_for_changes(path: str, *, clock: Callable[[], float] = time) -> Iterator[SQLiteStore]:
    """The store at *path*, made if absent, without bounds. What is there and is not ours is refused, not set aside."""
    if os.path.lexists(path) and not (os.path.isfile(path) and os.path.getsize(path) == 0):
        Reader(path).close()
    try:
        with contextlib.closing(SQLiteStore(path, clock=clock, lock_timeout=_LOCK_SECONDS, envelope=environment_envelope())) as store:
            yield store
    except StoreError as exc:
        told = isinstance(exc.__cause__, FileRefused)  # and names the file
        raise CommandFailed(exc.reason if told else f"{path}: {exc.operation} failed: {exc.reason}") from exc
