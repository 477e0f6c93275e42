"""Folders of diskcache, read without diskcache: its own reader runs the pickles in them.

A key that is a request, with an answer that is plain data, becomes an entry. Keys may be JSON, or
dicts, or those of ``memoize`` for a call by keywords.
"""

import json
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from llm_cache_mem.migration.messages import Chat
from llm_cache_mem.migration.pickles import NotPlainData, read_plain_pickle
from llm_cache_mem.migration.sources import UNREADABLE, Skipped

__all__ = ["DiskCache", "Row", "records", "value_of"]

_MODE_RAW, _MODE_BINARY, _MODE_TEXT, _MODE_PICKLE = 1, 2, 3, 4
_MOST: Final = 1 << 26  # bytes of one value, unpacked
_LARGE: Final = "a value of more than 64 MB"
_COLUMNS: Final = "key, raw, mode, filename, value, expire_time"

T = TypeVar("T")


class Row(NamedTuple):
    """An entry of diskcache, as its table has it."""

    folder: Path
    key: Any
    raw: int
    mode: int
    filename: str | None
    value: Any
    expire_time: float | None


class DiskCache:
    """Reads a folder that diskcache has written as Cache or FanoutCache, JSONDisk included.

    Args:
        folder: The folder, or the file ``cache.db`` in it.
    """

    def __init__(self, folder: str | Path) -> None:
        found = Path(folder)
        found = found.parent if found.name == "cache.db" else found
        self._files = [found / "cache.db"] if (found / "cache.db").exists() else []
        self._files += sorted(found.glob("[0-9][0-9][0-9]/cache.db"))
        if not self._files:
            raise FileNotFoundError(2, "not a folder of diskcache", str(folder))

    def get(self, key: str, default: Any = None) -> Any:
        """The value of the text *key*, if it is there and plain data; else *default*."""
        for row in self.rows("WHERE raw = 1 AND key = ?", key):
            try:
                return value_of(row)
            except Skipped:
                return default
        return default

    def records(self) -> Iterator[Chat | Skipped]:
        """Each entry as a request and its answer, or the reason why it is none."""
        for row in self.rows():
            try:
                yield _chat(row)
            except Skipped as exc:
                yield exc

    def rows(self, where: str = "", *arguments: Any) -> Iterator[Row]:
        """The rows of all files, as they are."""
        for file in self._files:
            uri = f"{file.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True)) as connection:
                connection.text_factory = _decoded
                for row in connection.execute(f"SELECT {_COLUMNS} FROM Cache {where}", arguments):
                    yield Row(file.parent, *row)


def records(source: str) -> Iterator[Chat | Skipped]:
    """The entries in the folder *source* whose keys are requests."""
    return DiskCache(source).records()


def _skips_unreadable(read: Callable[[Row], T]) -> Callable[[Row], T]:
    """*read*, which raises nothing but Skipped: one odd row must not end the reading of a folder,
    and nothing of it is quoted."""

    @wraps(read)
    def reads(row: Row) -> T:
        try:
            return read(row)
        except Skipped:
            raise
        except Exception:  # noqa: BLE001  # foreign data
            raise Skipped(UNREADABLE) from None

    return reads


@_skips_unreadable
def value_of(row: Row) -> Any:
    """The value of *row*. Raises Skipped if it has expired, is not plain data or cannot be read."""
    if row.expire_time is not None and row.expire_time < time.time():
        raise Skipped("expired")
    data = row.value if row.filename is None else _content(row)
    if row.mode == _MODE_PICKLE:
        return _plain(data)
    if row.mode == _MODE_TEXT:
        return data.decode()
    return _unpacked(data) if isinstance(data, bytes) else data


@_skips_unreadable
def _chat(row: Row) -> Chat:
    request = _request(_plain(row.key) if not row.raw else _unpacked(row.key))
    if request is None:
        raise Skipped("no request in the key")
    answer = value_of(row)
    if isinstance(answer, str) and answer[:1] in ("{", "["):
        answer = _json(answer)
    return Chat(request.pop("messages"), request, answer)


def _request(key: Any) -> dict[str, Any] | None:
    """The request in *key*: JSON, a dict, or what ``memoize`` makes of the name of a function and
    the arguments that were given by keyword."""
    if isinstance(key, str) and key.startswith("{"):
        key = _json(key)
    if isinstance(key, (list, tuple)) and len(key) % 2 == 0 and key[1:2] in ([None], (None,)):
        key = dict(zip(map(str, key[2::2]), key[3::2], strict=True))
    if not isinstance(key, dict) or not all(isinstance(name, str) for name in key):
        return None
    request: dict[str, Any] = dict(key)
    if not isinstance(request.get("model"), str) or not request.get("messages"):
        return None
    return request if isinstance(request["messages"], (list, str)) else None


def _plain(data: Any) -> Any:
    try:
        return read_plain_pickle(data)
    except NotPlainData as exc:
        raise Skipped(str(exc)) from None


def _content(row: Row) -> bytes:
    """What is in the file beside the database that holds the value: one in the same folder."""
    file = (row.folder / str(row.filename)).resolve()
    if not file.is_relative_to(row.folder.resolve()):
        raise Skipped("a file outside of the folder")
    try:
        if not file.is_file():  # a pipe has no end
            raise OSError
        with file.open("rb") as opened:
            data = opened.read(_MOST + 1)
    except OSError:
        raise Skipped("a file that cannot be read") from None
    if len(data) > _MOST:
        raise Skipped(_LARGE)
    return data


def _unpacked(data: Any) -> Any:
    """*data*, or the JSON in it if it is what JSONDisk writes."""
    if not isinstance(data, bytes):
        return data
    try:
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(data, _MOST)
    except zlib.error:
        return data
    if len(text) == _MOST:
        raise Skipped(_LARGE)
    return _json(text) if unpacking.eof else data


def _decoded(text: bytes) -> str | None:
    """*text* of the table; None if it is not UTF-8."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
