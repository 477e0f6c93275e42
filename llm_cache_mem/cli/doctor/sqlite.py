"""What there is to check of a SQLite file: who may read it, its log, its disk, and the SQLite that
it is used with."""

import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterator

from llm_cache_mem.cli.doctor.finding import Finding, ok, size_of, warn
from llm_cache_mem.stores.sqlite import SQLiteStore
from llm_cache_mem.stores.sqlite.file import wal_is_safe

__all__ = ["findings"]

_LONG_LOG = 64 << 20
_LEAST_FREE = 256 << 20
_CHECKED = 256 << 20  # bytes of a file that is read through


def findings(store: SQLiteStore) -> Iterator[Finding]:
    """What is to be said of the database of *store*, which is only read."""
    path = store.path
    yield from _file(path)
    yield from _log(store)
    size = os.path.getsize(path)
    free = shutil.disk_usage(os.path.dirname(path) or ".").free
    text = f"{size_of(size)} used, {size_of(free)} free"
    low = free < max(_LEAST_FREE, size // 10)
    yield (
        warn("disk", text, "free some, or bound the cache: max_size=, max_bytes=")
        if low
        else ok("disk", text)
    )
    if size <= _CHECKED:
        advice = "export what can be read, and let the cache begin a new file"
        yield (
            ok("integrity", "quick_check is ok")
            if store.pragma("quick_check(1)") == "ok"
            else warn("integrity", "quick_check found damage", advice)
        )


def _file(path: str) -> Iterator[Finding]:
    loose = [
        name
        for name in (path, f"{path}-wal", f"{path}-shm")
        if os.path.exists(name) and stat.S_IMODE(os.stat(name).st_mode) & 0o077
    ]
    if loose:
        yield warn(
            "mode",
            f"others on this machine may read {', '.join(loose)}",
            "chmod 600: they hold prompts' answers in the clear",
        )
    else:
        yield ok("mode", "readable by its owner alone")


def _log(store: SQLiteStore) -> Iterator[Finding]:
    journal, path = store.pragma("journal_mode"), store.path
    version, safe = sqlite3.sqlite_version, wal_is_safe(sqlite3.sqlite_version_info)
    if journal == "wal" and not safe and sys.platform == "win32":
        yield warn(
            "sqlite",
            f"{version} can lose rows in WAL mode, and there are no locks here to prevent that",
            "use SQLite 3.51.3 or newer",
        )
    elif not safe:
        yield ok(
            "sqlite",
            f"{version}, whose WAL-reset bug is avoided by the lock around every write: only this"
            " library may write here",
        )
    else:
        yield ok("sqlite", version)
    try:
        log = os.path.getsize(f"{path}-wal")
    except OSError:
        log = 0
    text = f"journal mode {journal}, log {size_of(log)}"
    if log > _LONG_LOG:
        yield warn(
            "journal",
            text,
            "an open read keeps the log from being merged into the file: look for a process that"
            " hangs",
        )
    elif journal not in ("wal", "truncate"):
        yield warn(
            "journal",
            text,
            "another program changed it: open the file with this library again",
        )
    else:
        yield ok("journal", text)
