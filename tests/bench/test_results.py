"""``simulate``: the figures of the command, as an object."""

from pathlib import Path

import pytest
from cli_helpers import read

from llm_cache_mem.bench import TraceRecorder, simulate
from llm_cache_mem.bench.trace import TraceError


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Nine calls, of which six are repeats."""
    path = tmp_path / "trace.jsonl"
    with TraceRecorder(path) as recorder:
        create = recorder.wrap(lambda messages, model: {"content": "Paris."})
        for number in range(9):
            create(messages=str(number % 3), model="m")
    return path


def test_it_gives_the_document_of_the_command(trace: Path) -> None:
    found = simulate(trace, max_size=[256, None], ttl_seconds="1h")
    shown = read("bench", str(trace), "--max-size", "256", "--max-size", "none", "--ttl", "1h")
    assert found.document == shown
    assert [row["hits"] for row in found.document["client"]] == [6, 6]


def test_it_prints_and_shows_in_a_notebook(trace: Path) -> None:
    found = simulate(trace)
    assert "hit rate" in str(found)
    assert "<table>" in found._repr_html_()


def test_a_prompt_cache_that_reads_nothing_has_no_table(trace: Path) -> None:
    shown = str(simulate(trace))
    assert "nothing to read" in shown
    assert "Prompt cache of the provider" not in shown


def test_it_plots(trace: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert all(path.suffix == ".png" for path in simulate(trace).plot(tmp_path / "charts"))


def test_a_missing_or_empty_trace_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        simulate(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(TraceError):
        simulate(tmp_path / "empty.jsonl")
