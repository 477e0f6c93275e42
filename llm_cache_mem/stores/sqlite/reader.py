"""The rows of a database as they are, read without a trace: for tools that look, beside the
programs that use it."""

import os
import sqlite3
from array import array
from collections.abc import Iterator
from pathlib import Path

from llm_cache_mem.stores.sqlite.file import Connection, DatabaseFile, FileRefused
from llm_cache_mem.stores.sqlite.rows import numbered

__all__ = ["DatabaseReader"]

_AFTER_ASCII = "\x7f"


class DatabaseReader(DatabaseFile):
    """The database at *path*, which must be there and ours: FileNotFoundError, FileRefused,
    sqlite3.Error or OSError, here and later.

    SQLiteStore puts right what it meets: it makes absent files, sets damaged ones aside, removes
    unreadable entries, notes what is used. This does none of that, and others may write meanwhile.
    """

    def __init__(self, path: str, *, timeout: float) -> None:
        super().__init__(path, durable=False, timeout=timeout)
        if self.look() is None:
            raise FileNotFoundError(f"{self.path}: no such database")
        self._timeout = timeout
        self.db = self._connect_to_read()

    def close(self) -> None:
        self.db.close()

    def numbers(self, prefix: str = "", part: str = "") -> "array[int]":
        """The ids of the rows whose keys begin with *prefix* and hold *part*, least recently used
        first: eight bytes each."""
        statement = (
            "SELECT id FROM entries WHERE key >= ? AND key < ? AND instr(key, ?) ORDER BY used"
        )
        return array(
            "q",
            (
                number
                for (number,) in self.db.execute(statement, (prefix, prefix + _AFTER_ASCII, part))
            ),
        )

    def rows(self, prefix: str = "", part: str = "") -> Iterator[tuple[bytes, bytes]]:
        """Keys and data of those rows, as far as they are still there when their turn comes."""
        for number in self.numbers(prefix, part):
            row = numbered(self.db, number)
            if row is not None:
                yield row

    def _connect_to_read(self) -> Connection:
        try:
            return self._open_to_read("mode=ro")
        except (
            sqlite3.OperationalError
        ):  # in a folder that may not be written WAL mode has no place for its index,
            log = self.path + "-wal"
            if os.path.exists(log) and os.path.getsize(log):
                raise
            return self._open_to_read(
                "mode=ro&immutable=1"
            )  # nor does it need one, if nobody writes

    def _open_to_read(self, options: str) -> Connection:
        name = f"{Path(self.path).as_uri()}?{options}"
        db = sqlite3.connect(
            name, uri=True, timeout=self._timeout, isolation_level=None, factory=Connection
        )
        try:
            db.text_factory = bytes
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA cell_size_check = ON")
            if not self.is_laid_out(db):
                raise FileRefused(
                    f"{self.path} holds no entries of this version", misconfigured=False
                )
        except BaseException:
            db.close()
            raise
        return db
