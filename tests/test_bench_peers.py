"""The comparison with other libraries: its tables, page and chart come about, from what is
installed here; no time is looked at."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import (
    captions,
    concurrency,
    footprints,
    langchain_models,
    page,
    stampedes,
    timed,
)
from benchmarks.peers.contestant import LOOP, OURS, Contestant, Place, isolates, opened
from benchmarks.peers.tables import Cell, Column, Row, Table, ahead, is_best, load, save

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/peers/results.json"
TINY = timed.Scale(
    rounds=1,
    batch={"S": 2, "M": 1, "L": 1},
    entries=3,
    on_disk=3,
    prefilled=2,
    callers=3,
    seconds=0.0,
)
OF_NO_PACKAGE = ("functools.lru_cache", "published algorithm", "floor", OURS)


@pytest.fixture(scope="module", autouse=True)
def _closed_loop() -> Iterator[None]:
    yield
    LOOP.run_until_complete(LOOP.shutdown_default_executor())
    LOOP.close()


class Dict(Contestant):
    """A dict that hands out what it holds."""

    name = "dict"

    def __init__(self, place: Place) -> None:
        self.entries: dict[str, Any] = {}

    def get(self, asked: Any) -> Any:
        return self.entries.get(json.dumps(asked))

    def put(self, asked: Any, answer: Any) -> None:
        self.entries[json.dumps(asked)] = answer


class Copying(Dict):
    """A dict that copies what it hands out."""

    name = "copying"

    def get(self, asked: Any) -> Any:
        return json.loads(json.dumps(super().get(asked)))


class Text(Dict):
    """A dict of text."""

    name = "text"

    def get(self, asked: Any) -> Any:
        return json.loads(found) if (found := super().get(asked)) else None

    def put(self, asked: Any, answer: Any) -> None:
        super().put(asked, json.dumps(answer))


# -- Contestants


def test_whose_an_answer_is_is_found_out_by_changing_it(tmp_path: Path) -> None:
    found = {kind.name: isolates(kind(Place(9, tmp_path))) for kind in (Dict, Copying, Text)}
    assert found == {"dict": "no", "copying": "hits only", "text": "yes"}


def test_a_missing_or_failing_peer_is_named_with_the_reason(tmp_path: Path) -> None:
    class Missing(Dict):
        name = "missing"

        def __init__(self, place: Place) -> None:
            raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")

    class Broken(Dict):
        name = "broken"

        def __init__(self, place: Place) -> None:
            raise ValueError(f"no such backend in {place.folder}")

    working, absent = opened((Dict, Missing, Broken), Place(9, tmp_path))
    assert [contestant.name for contestant in working] == ["dict"]
    assert [tuple(named) for named in absent] == [
        ("missing", "not installed: nowhere"),
        ("broken", "does not run: ValueError: no such backend in …"),
    ]


def test_a_peer_that_does_not_answer_is_not_measured(tmp_path: Path) -> None:
    class Forgetful(Dict):
        name = "forgetful"

        def put(self, asked: Any, answer: Any) -> None:
            if len(asked["messages"]) <= 4:
                super().put(asked, answer)

    working, [(name, reason)] = opened((Forgetful,), Place(9, tmp_path))
    assert not working
    assert name == "forgetful"
    assert "does not give back what it was given for a request of size M" in reason


# -- Tables


@pytest.mark.parametrize(
    "make",
    [
        timed.fresh,
        timed.first_sight,
        timed.misses,
        timed.sqlite,
        timed.redis,
        concurrency.threads_on_disk,
    ],
    ids=lambda make: make.__name__,
)
def test_the_table_has_our_column_and_names_missing_peers(make: Any) -> None:
    table = make(TINY)
    if not table.rows:  # no redis-server
        assert table.absent
        return
    assert table.rows[0].name.startswith(OURS)
    assert all(len(row.cells) == len(table.columns) and all(row.cells) for row in table.rows)
    assert {row.own for row in table.rows if row.name.startswith(OURS)} == {"yes"}
    kinds = len(table.rows) + len(table.absent)
    assert kinds == {"sqlite": 8, "redis": 7, "threads-sqlite": 7}.get(table.name, 14)


def test_the_stampede_asks_the_model_once_through_this_library() -> None:
    table = stampedes.stampede(TINY)
    ours = [row for row in table.rows if row.name.startswith(OURS)]
    assert [
        (row.cells[0].value, row.cells[2].value) for row in ours if row.cells[0] and row.cells[2]
    ] == [(1, 1)] * len(ours)
    (lru,) = (row for row in table.rows if row.name == "functools.lru_cache")
    assert lru.cells[0] is not None
    assert lru.cells[2:4] == [None, None]  # it has nothing for tasks
    assert len(table.rows) + len(table.absent) == len(stampedes.WRAPPERS) + 1


def test_memory_and_growth_are_those_of_a_process_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(footprints, "KINDS", footprints.KINDS[:1])
    memory, growth = footprints.weigh(TINY)
    assert [row.name.startswith(OURS) for row in memory.rows] == [True]
    assert [column.unit for column in growth.columns] == ["µs", "µs", "×"]


def test_growth_on_disk_has_a_row_for_each_that_runs() -> None:
    table = footprints.growth_on_disk(TINY)
    assert len(table.rows) + len(table.absent) == 8


# -- What is made of them


def hand_made() -> Table:
    """Ours is behind one in S, as good as best in M."""
    rows = [
        Row(f"{OURS} 1", [Cell(4.0, 1.0), Cell(8.0, 1.0), Cell(9.0, 1.0)], "yes"),
        Row(
            "quick 2", [Cell(2.0, 0.5), Cell(9.0, 1.1), Cell(90.0, 9.96)], "no", "it copies nothing"
        ),
        Row("slow 3", [Cell(40.0, 10.0), None, Cell(1234.5, 99.0)], "yes", "nothing at all"),
        Row("floor", [Cell(0.1, 0.02), Cell(0.1, 0.01), Cell(0.1, 0.01)], reference=True),
    ]
    return Table("hits-fresh", [Column(size, "µs") for size in "SML"], rows)


def test_peers_ahead_are_named_with_column_and_reason() -> None:
    assert {name: columns for name, (_, columns) in ahead(hand_made()).items()} == {
        "quick 2": ["S"]
    }
    text = page.page([hand_made()])
    assert f"Ahead of {OURS}: quick 2 (S: it copies nothing)." in text
    assert " ".join(captions.SAID["hits-fresh"].losing.split()) in text


def test_the_best_of_each_column_is_bold_and_a_floor_never() -> None:
    lines = page.table_text(hand_made()).splitlines()
    assert lines[2:] == [
        f"| {OURS} 1 | yes | 4 | **8** | **9** |",
        "| quick 2 | no | **2 (0.5×)** | 9 (1.1×) | 90.0 (10×) |",
        "| slow 3 | yes | 40.0 (10×) | — | 1,234 (99×) |",
        "| *floor* |  | 0.1 (0.02×) | 0.1 (0.01×) | 0.1 (0.01×) |",
    ]


def test_having_no_peer_ahead_is_reported() -> None:
    table = hand_made()
    assert f"No other cache is ahead of {OURS} here." in page.page(
        [replace(table, rows=[table.rows[0], table.rows[2]])]
    )


def test_tables_come_back_from_json_as_they_were(tmp_path: Path) -> None:
    save([hand_made()], tmp_path / "results.json")
    (again,) = load(tmp_path / "results.json")
    assert page.page([again]) == page.page([hand_made()])


def test_a_part_that_is_run_replaces_its_own_tables_only(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.peers.__main__ import write

    for folder in ("benchmarks/peers", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    hits, misses = hand_made(), replace(hand_made(), name="misses")
    write([misses, hits], tmp_path)
    write([replace(misses, environment="newer")], tmp_path)
    tables = load(tmp_path / "benchmarks/peers/results.json")
    assert [(table.name, table.environment) for table in tables] == [
        ("hits-fresh", ""),
        ("misses", "newer"),
    ]


def test_the_command_lists_its_parts_and_refuses_others(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.peers.__main__ import PARTS, main

    assert main(["--list"]) == 0
    assert capsys.readouterr().out.split() == list(PARTS)
    assert main(["hits", "speed"]) == 2
    assert "unknown: speed; known are hits, misses" in capsys.readouterr().err


# -- What is committed


def test_the_committed_page_matches_the_results() -> None:
    tables = load(RESULTS)
    assert (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8") == page.page(tables)


def test_committed_results_name_versions_but_no_machine() -> None:
    tables = load(RESULTS)
    assert {table.name for table in tables} == set(captions.SAID)
    for table in tables:
        assert re.search(
            r"Python 3\.\d+\.\d+.*SQLite 3.*cores, load.*\d{4}-\d\d-\d\d, by make bench-peers"
            r" ARGS=",
            table.environment,
        )
        assert all(
            re.search(r" \d+\.\d", row.name) or row.name.startswith(OF_NO_PACKAGE)
            for row in table.rows
        )
    assert not re.search(
        r"(?<![\w.])/(?:root|home|tmp|usr|work)/", RESULTS.read_text(encoding="utf-8")
    )


def test_the_chart_shows_every_contestant_and_names_its_scale(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.peers.chart import draw

    tables = load(RESULTS)
    draw(tables, tmp_path / "chart.svg")
    (hits,) = (table for table in tables if table.name == "hits-fresh")
    for drawn in (
        (tmp_path / "chart.svg").read_text(encoding="utf-8"),
        (ROOT / "docs/benchmarks.svg").read_text(encoding="utf-8"),
    ):
        ElementTree.fromstring(drawn)
        assert all(f"<!-- {row.name} -->" in drawn for row in hits.rows if not row.reference)
        assert "logarithmic scale" in drawn


def test_best_of_a_column_without_ratios_is_the_least() -> None:
    rows = [Row(OURS, [Cell(1)]), Row("other", [Cell(50)])]
    table = Table("stampede", [Column("calls", "")], rows)
    assert [is_best(table, 0, cell) for row in rows for cell in row.cells if cell] == [True, False]


def test_langchain_models_are_listed_with_caches_and_floor() -> None:
    pytest.importorskip("langchain_core")
    table = langchain_models.invokes(TINY)
    assert [row.name for row in table.rows if row.reference] == [
        "floor: no cache, the answer ready"
    ]
    assert any(
        row.name.startswith("LangChain InMemoryCache (langchain-core ") for row in table.rows
    )
