"""The database file: private, recognised as ours or left as it is, written by one at a time, set
aside when damaged."""

import contextlib
import errno
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from llm_cache_mem.stores.filelock import FileLock, no_folder
from llm_cache_mem.stores.sqlite.changes import Changes
from llm_cache_mem.stores.sqlite.layout import (
    SCHEMA,
    FileOutdated,
    FileRefused,
    is_damage,
    is_laid_out,
    schema_of,
)
from llm_cache_mem.stores.writers import warn_of_owner
from llm_cache_mem.values.entry import MAX_ENTRY_BYTES

__all__ = [
    "Connection",
    "DatabaseFile",
    "wal_is_safe",
]

_log = logging.getLogger(__name__)

_LOG_LIMIT = 8 << 20  # bytes of -wal after which it is folded into the database
_LOG_LOOKS = 16  # at its size, until this process alone has made it so long
_PAGE_CACHE_KB = 8 << 10  # of a connection
_ROW_BYTES = 1 << 20  # of a row, beside its entry

_WRONG_PATH = frozenset(
    (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    )
)


class Connection(sqlite3.Connection):
    """A connection that remembers which file it has open, by inode number, and when that was last
    checked."""

    inode = 0
    schema = b""  # its number, when what the file holds was last found to be ours
    checked = 0.0
    seen: tuple[int, int] | None = None  # the versions that were last looked at
    written = 0  # about how many bytes the write in progress adds to the log; 0 is unknown
    changed: Sequence[str] | None = None  # the keys whose rows it changes; None is unknown
    slot: object = None  # its place in the pool


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether this SQLite is free of the WAL-reset bug (3.7.0 to 3.51.2), by which a checkpoint can
    lose committed rows."""
    return (
        version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    )


class DatabaseFile:
    """The file at *path* with its sidecars ``-wal``, ``-shm`` and ``.lock``.

    Every write and every checkpoint happens inside ``lock``: that is what makes WAL mode safe on
    the SQLite that most Pythons ship. An existing database is never opened but by SQLite: closing
    any other descriptor of it would drop the locks that this process holds.
    """

    def __init__(
        self,
        path: str,
        *,
        durable: bool,
        timeout: float,
        make_folder: bool = False,
        read_only: bool = False,
    ) -> None:
        self.path = os.path.realpath(
            path
        )  # one name for all, so that all agree on the sidecars; as SQLite does
        self.lock = FileLock(self.path + ".lock", timeout)
        self.changes = Changes(self.lock)
        self.read_only = read_only
        self.in_wal_mode = False  # in which readers wait for no writer
        self._durable = durable
        self._make_folder = make_folder
        self._busy_seconds = timeout / 2  # a wait for SQLite comes on top of one for the lock
        self._fold_at = _LOG_LIMIT
        self._unseen = 0  # bytes of the log that were added since its size was looked at
        self._owner_known = 0  # the inode of the file whose owner was looked at

    def connect(self) -> Connection:
        """A new connection to the file, which is made first if need be. Raises FileRefused,
        sqlite3.Error or OSError."""
        if self.read_only:
            return self._connect_to_read()
        found = self.look()
        if found is None or not found.st_size:
            found = self._create()
        self._make_folder = True  # it was there: if it is deleted meanwhile, it is made again
        used_before = os.path.exists(self.path + ".lock")
        try:
            return self._open(found.st_ino)
        except FileOutdated:
            self.set_aside(found.st_ino, "outdated", "was written by an older version")
            return self.connect()
        except Exception as exc:
            if not used_before and getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                refused = (
                    f"{self.path} is not a SQLite database, and never held a cache: it is left"
                    " unchanged"
                )
                raise FileRefused(refused, misconfigured=True) from exc
            if is_damage(exc):
                self.set_aside(found.st_ino)
            raise

    def moved(self, db: Connection) -> bool:
        """Whether the path no longer leads to the file that *db* has open. FileRefused or
        FileDamaged if something else than entries was put into that."""
        try:
            if os.stat(self.path).st_ino != db.inode:
                return True
        except OSError:
            return True
        if db.schema != schema_of(db):
            self._check_layout(db)
        return False

    def fold_log(self, db: Connection, *, at_once: bool = False) -> None:
        """Bring a long -wal, or any *at_once*, into the database and cut it to nothing; inside the
        lock."""
        self._unseen += db.written or _LOG_LIMIT
        db.written = 0
        if self._unseen < _LOG_LIMIT // _LOG_LOOKS and not at_once:
            return
        self._unseen = 0
        try:
            size = os.stat(self.path + "-wal").st_size
            if size >= self._fold_at or at_once:
                busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                # A reader that stays in the way costs a wait: do not pay it on every write.
                self._fold_at = size + _LOG_LIMIT if busy else _LOG_LIMIT
        except Exception:  # noqa: BLE001, S110  # the write before it is committed: it did not fail
            pass

    def set_aside(self, inode: int, suffix: str = "corrupt", why: str = "is damaged") -> None:
        """Rename the file that cannot be used, if it is still the one with *inode*, so that the
        next connection starts a new one. A file that is only read stays."""
        if self.read_only:
            return
        target = f"{self.path}.{suffix}-{time.time_ns()}"
        with self.lock.hold():
            found = self.look()
            if found is None or found.st_ino != inode:
                return  # another thread or process was faster
            # the log first: it must never meet the new database
            for sidecar in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.path + sidecar, target + sidecar)
        _log.warning(
            "the cache database %s %s; it was moved to %s and a new one begins",
            self.path,
            why,
            target,
        )

    def look(self) -> os.stat_result | None:
        """What is at the path, None if nothing; FileRefused when that cannot be a database."""
        with self._refusing_wrong_paths():
            try:
                found = os.stat(self.path)
            except FileNotFoundError:
                return None
        if stat.S_ISDIR(found.st_mode):
            raise FileRefused(f"{self.path} is a directory", misconfigured=True)
        if not stat.S_ISREG(found.st_mode):
            raise FileRefused(f"{self.path} is not a regular file", misconfigured=True)
        if not os.access(self.path, os.R_OK):
            if not os.path.exists(self.path):  # set aside by another thread or process since
                return None
            raise FileRefused(f"{self.path} may not be read by this user", misconfigured=True)
        if found.st_ino != self._owner_known:
            self._owner_known = found.st_ino
            warn_of_owner(self.path, found)
        return found

    def _create(self) -> os.stat_result:
        with self._refusing_wrong_paths():
            self._check_folder()
            # no other process may connect while the new file is open here; those that find it
            # empty come through here
            with self.lock.hold():
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                return os.stat(self.path)

    def _check_folder(self) -> None:
        """Make the missing folders above the file, for this user alone, or refuse."""
        missing = []
        parent = os.path.dirname(self.path)
        while not os.path.lexists(parent):
            missing.append(parent)
            parent = os.path.dirname(parent)
        if missing and not self._make_folder:
            raise FileRefused(no_folder(missing[0]), misconfigured=True)
        for directory in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)

    @contextlib.contextmanager
    def _refusing_wrong_paths(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if exc.errno in _WRONG_PATH:
                raise FileRefused(
                    f"{self.path} cannot be used: {exc.strerror}", misconfigured=True
                ) from exc
            raise

    def _open(self, inode: int) -> Connection:
        db = sqlite3.connect(
            self.path,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=32,
            factory=Connection,
        )
        try:
            db.inode = inode
            db.checked = time.monotonic()
            if os.stat(self.path).st_ino != inode:
                raise FileNotFoundError("the database file was replaced while it was being opened")
            _harden(db)
            ready = self._check_layout(db)
            self._make_private()
            db.execute("PRAGMA wal_autocheckpoint = 0")
            db.execute(f"PRAGMA cache_size = -{_PAGE_CACHE_KB}")
            db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
            if not ready:
                self._lay_out(db)
            self.in_wal_mode = self._may_use_wal()
            if not self.in_wal_mode:  # the file does not record the other modes
                with self.lock.hold():
                    db.execute("PRAGMA journal_mode = TRUNCATE")
        except BaseException:
            db.close()
            raise
        return db

    def _connect_to_read(self) -> Connection:
        if self.look() is None:
            raise FileRefused(f"{self.path}: no such database", misconfigured=True)
        try:
            return self._open_to_read("mode=ro")
        except sqlite3.OperationalError:
            # In a folder that may not be written WAL mode has no place for its index, and needs
            # none without writers.
            log = self.path + "-wal"
            if os.path.exists(log) and os.path.getsize(log):
                raise
            return self._open_to_read("mode=ro&immutable=1")

    def _open_to_read(self, options: str) -> Connection:
        db = sqlite3.connect(
            f"{Path(self.path).as_uri()}?{options}",
            uri=True,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
            factory=Connection,
        )
        try:
            db.inode = os.stat(self.path).st_ino
            db.checked = time.monotonic()
            _harden(db)
            if not self._check_layout(db):
                raise FileRefused(
                    f"{self.path} holds no entries of this version", misconfigured=True
                )
        except BaseException:
            db.close()
            raise
        return db

    def _check_layout(self, db: Connection) -> bool:
        """``is_laid_out``, noting for ``moved`` that it was asked."""
        schema = schema_of(db)  # before the look: what comes after it is seen the next time
        ready = is_laid_out(db, self.path, read_only=self.read_only)
        db.schema = schema
        return ready

    def _lay_out(self, db: Connection) -> None:
        with self.lock.hold():
            if is_laid_out(db, self.path, read_only=self.read_only):
                return
            if self._may_use_wal():
                db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA:
                db.execute(statement)
            db.execute("COMMIT")
            self._make_private()

    def _may_use_wal(self) -> bool:
        return self.lock.between_processes or wal_is_safe(sqlite3.sqlite_version_info)

    def _make_private(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(
                OSError
            ):  # absent, or another user's: then what they chose stands
                mode = stat.S_IMODE(os.stat(self.path + suffix).st_mode)
                if mode & 0o077:
                    os.chmod(self.path + suffix, mode & 0o700)


def _harden(db: Connection) -> None:
    """Let no damage and nothing in the file do more than make a read fail."""
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_ENTRY_BYTES + _ROW_BYTES)
    db.text_factory = bytes  # damaged text is for the checksum to find, not for a decoder
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):
        db.execute(f"PRAGMA {pragma}")
