"""Folders of diskcache with odd rows: each is skipped for its own reason, and the rows after it are
read."""

import json
import os
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import LLMCache
from llm_cache_mem.migration.sources import UNREADABLE, move

RAW, BINARY, TEXT, PICKLE = 1, 2, 3, 4
COLUMNS = "key BLOB, raw INTEGER, mode INTEGER, filename TEXT, value BLOB, expire_time REAL"
LARGE = "a value of more than 64 MB"


def key(text: str) -> str:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]})


def row(**changes: Any) -> dict[str, Any]:
    fields = {"key": key("odd"), "raw": 1, "mode": RAW, "value": "4"}
    return fields | {"filename": None, "expire_time": None} | changes


def skipped(folder: Path, odd: dict[str, Any]) -> dict[str, int]:
    """Import *odd* and a good row after it; the reasons for which rows were skipped."""
    with closing(sqlite3.connect(folder / "cache.db")) as connection, connection:
        connection.execute(f"CREATE TABLE Cache ({COLUMNS})")
        for each in (odd, row(key=key("good"))):
            connection.execute(
                "INSERT INTO Cache (key, raw, mode, filename, value, expire_time) VALUES"
                " (:key, :raw, :mode, :filename, :value, :expire_time)",
                each,
            )
        connection.execute("UPDATE Cache SET value = CAST(value AS TEXT) WHERE value = x'ff00'")
    with LLMCache() as cache:
        moved = move("diskcache", str(folder), cache, dict)
        assert moved.imported == 1
        assert cache.get([{"role": "user", "content": "good"}], model="m") == "4"
    return moved.skipped


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"expire_time": "tomorrow"}, UNREADABLE),
        ({"expire_time": b"\0"}, UNREADABLE),
        ({"mode": TEXT, "value": b"\xff\xfe"}, UNREADABLE),
        ({"mode": TEXT, "value": None}, UNREADABLE),
        ({"value": b"\xff\0"}, "empty"),  # becomes text in the table
        ({"filename": "\0"}, UNREADABLE),
        ({"filename": "../../etc/passwd"}, "a file outside of the folder"),
        ({"filename": "."}, "a file that cannot be read"),
        ({"key": b"\xff"}, "no request in the key"),
        ({"key": zlib.compress(key("odd").encode())[:-4]}, "no request in the key"),
        ({"mode": PICKLE, "value": b"\x80\x02]q\x00(" + b"h\x00" * 60_000 + b"e."}, "larger"),
        ({"mode": BINARY, "value": zlib.compress(b"[" + b"0," * (33 << 20))}, LARGE),
    ],
)
def test_odd_rows_are_skipped_and_the_next_is_read(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    ((said, count),) = skipped(tmp_path, row(**changes)).items()
    assert reason in said
    assert count == 1


def test_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert skipped(tmp_path, row(filename="pipe")) == {"a file that cannot be read": 1}


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 34)
    assert skipped(tmp_path, row(filename="huge", mode=TEXT)) == {LARGE: 1}
