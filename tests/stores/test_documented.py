"""What the pages on stores say holds: each can what the table says that it can, and the store that
is shown is one."""

import itertools
import re
from pathlib import Path

import pytest
from stores.conformance import StoreConformance

from llm_cache_mem.stores.jsonl import JsonlStore
from llm_cache_mem.stores.memcached import MemcachedStore
from llm_cache_mem.stores.memory import MemoryStore
from llm_cache_mem.stores.redis import RedisStore
from llm_cache_mem.stores.sqlite import SQLiteStore

CLASSES = (MemoryStore, SQLiteStore, RedisStore, MemcachedStore, JsonlStore)
DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "stores.md"
ARCHITECTURE = DOCS / "architecture.md"


def row(beginning: str) -> list[str]:
    (line,) = re.findall(
        rf"^\| {re.escape(beginning)}[^|]*\|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    cells = [cell.strip() for cell in line.split("|")]
    assert len(cells) == len(CLASSES)
    return cells


@pytest.mark.parametrize(
    ("beginning", "can"),
    [
        ("leases", lambda cls: hasattr(cls, "lease")),
        ("totals", lambda cls: hasattr(cls, "totals")),
        ("many entries", lambda cls: hasattr(cls, "get_many")),
        ("encryption", lambda cls: "envelope" in cls.__init__.__annotations__),
    ],
)
def test_the_table_matches_the_store(beginning, can):
    assert [cell == "yes" for cell in row(beginning)] == [can(cls) for cls in CLASSES]


def test_the_table_names_the_classes():
    assert [cell.partition(",")[0].strip("`") for cell in row("class")] == [
        cls.__name__ for cls in CLASSES
    ]


def test_the_table_lists_stores_that_use_a_thread():
    assert ["thread" in cell for cell in row("async callers")] == [
        bool(cls.blocking) for cls in CLASSES
    ]


# -- The store that the page on architecture shows how to write


class TestShownStore(StoreConformance):
    bounded = False

    @pytest.fixture
    def make_store(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        blocks = re.findall(
            r"^```python\n(.*?)^```$",
            ARCHITECTURE.read_text(encoding="utf-8"),
            re.MULTILINE | re.DOTALL,
        )
        (code,) = [block for block in blocks if "class FolderStore" in block]
        scope = {"__name__": "architecture"}
        exec(compile(code, str(ARCHITECTURE), "exec"), scope)
        folders = (tmp_path / f"store{number}" for number in itertools.count())
        return lambda *, clock, **bounds: scope["FolderStore"](next(folders), clock=clock)
