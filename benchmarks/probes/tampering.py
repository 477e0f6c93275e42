"""What someone, or a failing disk, may do to the files of a store, whatever their format: SQLite
values, and plain files."""

import pickletools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

__all__ = ["rewrite_values", "values_with"]

PICKLED = 4  # diskcache: what "mode" says of a value that is to be unpickled


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def _is_pickle(value: bytes) -> bool:
    if not value.startswith(b"\x80"):
        return False
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(value))
    except Exception:  # noqa: BLE001 - anything else than a pickle
        return False


def _columns(database: sqlite3.Connection) -> Iterator[tuple[str, list[str]]]:
    tables = database.execute(
        "SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    for (table,) in tables:
        yield table, [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]


def _as_bytes(value: Any) -> bytes | None:
    return value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else None


def values_with(folder: Path, text: bytes) -> list[Path]:
    """The databases that hold *text* in a value."""
    found = []
    for path in filter(_is_database, _files(folder)):
        with closing(sqlite3.connect(path)) as database:
            for table, columns in _columns(database):
                rows = database.execute(f'SELECT * FROM "{table}"').fetchall() if columns else []
                if any(text in (_as_bytes(value) or b"") for row in rows for value in row):
                    found.append(path)
    return found


def rewrite_values(
    folder: Path, change: Callable[[bytes], bytes], *, only: bytes = b"", as_pickle: bool = False
) -> int:
    """Change every stored value, or those that contain *only*; how many. *as_pickle*: what is there
    already must be a pickle, or one of diskcache's rows, which say for themselves whether they are.
    """
    changed = 0
    for path in _files(folder):
        if path.name.endswith(("-wal", "-shm", ".lock")):
            continue
        if _is_database(path):
            changed += _rewrite_database(path, change, only, as_pickle)
            continue
        value = path.read_bytes()
        if only in value and value and (as_pickle or only):
            path.write_bytes(change(value))
            changed += 1
    return changed


def _rewrite_database(
    path: Path, change: Callable[[bytes], bytes], only: bytes, as_pickle: bool
) -> int:
    changed = 0
    with closing(sqlite3.connect(path)) as database, database:
        listed = database.execute("PRAGMA table_list").fetchall()
        counters = {name for _, name, _, _, without_rowid, _ in listed if without_rowid}
        for table, columns in _columns(database):
            if table in counters:  # this library's totals and leases, which hold no values
                continue
            for name in columns:
                where = f'SELECT rowid, "{name}" FROM "{table}"'
                for rowid, value in database.execute(where).fetchall():
                    data = _as_bytes(value)
                    if (
                        data is None
                        or only not in data
                        or (as_pickle and not _to_be_read(table, name, columns))
                    ):
                        continue
                    new = change(data)
                    database.execute(
                        f'UPDATE "{table}" SET "{name}" = ? WHERE rowid = ?',
                        (new if isinstance(value, bytes) else _text(new, as_pickle), rowid),
                    )
                    if as_pickle and table == "Cache" and "mode" in columns:
                        database.execute(
                            'UPDATE "Cache" SET mode = ?, filename = NULL WHERE rowid = ?',
                            (PICKLED, rowid),
                        )
                    changed += 1
        if as_pickle and not changed:
            changed += _rewrite_filed(database, change)
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return changed


def _rewrite_filed(database: sqlite3.Connection, change: Callable[[bytes], bytes]) -> int:
    """diskcache keeps large values in files of their own: put the value into the row instead."""
    tables = dict(_columns(database))
    if "mode" not in tables.get("Cache", ()):
        return 0
    rows = database.execute("SELECT rowid FROM Cache").fetchall()
    for (rowid,) in rows:
        database.execute(
            "UPDATE Cache SET mode = ?, filename = NULL, value = ? WHERE rowid = ?",
            (PICKLED, change(b""), rowid),
        )
    return len(rows)


def _to_be_read(table: str, name: str, columns: list[str]) -> bool:
    """Whether a cache reads this column as a value: not the settings and keys beside it."""
    return table not in ("Settings", "meta") and name.lower() not in (
        "key",
        "prompt",
        "llm",
        "tag",
        "filename",
        "namespace",
        "kind",
        "model",
    )


def _text(data: bytes, as_pickle: bool) -> Any:
    return data if as_pickle else data.decode(errors="replace")
