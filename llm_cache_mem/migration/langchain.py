"""Databases of LangChain's SQLiteCache and SQLAlchemyCache, whose rows hold a prompt, a description
of the model, and an answer."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.migration.hashes import is_redis, langchain_redis
from llm_cache_mem.migration.sources import Form, Skipped

__all__ = ["GROUP", "Row", "records"]

GROUP: Final = "llm_cache_mem.rows"
"""The group of entry points with one function, that of the LangChain integration, which makes an
entry of a row; the core knows no integration."""

_TABLES: Final = ("full_llm_cache", "full_md5_llm_cache")

Taker = Callable[[LLMCache, str, str, Sequence[str]], str | None]


@without_content
class Row(NamedTuple):
    """The answers to one prompt, as LangChain writes them."""

    prompt: str
    model: str
    answers: tuple[str, ...]

    def ask(self, cache: LLMCache, form: Form) -> None:
        reason = _taker()(cache, self.prompt, self.model, self.answers)
        if reason is not None:
            raise Skipped(reason)


def records(source: str) -> Iterator[Row | Skipped]:
    """The rows of the database *source*: a file of SQLite, or a URL of SQLAlchemy. A Redis has
    none, and its keys are counted."""
    if is_redis(source):
        yield from langchain_redis(source)
        return
    _taker()
    connection = _connected(source)
    try:
        tables = [name for name in _TABLES if _has(connection, name)]
        if not tables:
            yield Skipped("a database without a table of LangChain's caches")
        for name in tables:
            yield from _rows(connection, name)
    finally:
        connection.close()


def _rows(connection: Any, table: str) -> Iterator[Row]:
    cursor = connection.cursor()
    cursor.execute(f"SELECT prompt, llm, response FROM {table} ORDER BY prompt, llm, idx")
    for (prompt, model), rows in groupby(cursor, lambda row: (row[0], row[1])):
        yield Row(prompt, model, tuple(row[2] for row in rows))


def _has(connection: Any, table: str) -> bool:
    try:
        connection.cursor().execute(f"SELECT prompt, llm, idx, response FROM {table} WHERE 1 = 0")
    except Exception:  # noqa: BLE001  # each driver has errors of its own
        connection.rollback()
        return False
    return True


def _connected(source: str) -> Any:
    """A connection as every driver of a database has it."""
    if "://" in source:
        return import_module("sqlalchemy").create_engine(source).raw_connection()
    path = Path(source)
    with path.open("rb"):  # OSError, which says more than SQLite does
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


@cache
def _taker() -> Taker:
    for point in entry_points(group=GROUP, name="langchain"):
        found: Taker = point.load()
        return found
    raise ImportError("rows of LangChain need its integration, which is not installed here")
