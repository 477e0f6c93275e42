"""The magics of a notebook, in a real shell; and, for cells that await, in a real kernel."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_index_llm_cache_mem
import nbformat
import pytest
from IPython.core.error import UsageError
from IPython.testing.globalipapp import start_ipython
from langchain_core.globals import get_llm_cache
from nbclient import NotebookClient

from llm_cache_mem import CacheStats, LLMCache


@pytest.fixture(scope="module")
def _ipython() -> Any:
    return start_ipython()


@pytest.fixture
def shell(_ipython: Any) -> Iterator[Any]:
    _ipython.run_line_magic("load_ext", "llm_cache_mem")
    yield _ipython
    _ipython.run_line_magic("unload_ext", "llm_cache_mem")
    assert get_llm_cache() is None
    assert llama_index_llm_cache_mem.get_llm_cache() is None


def run(shell: Any, source: str) -> Any:
    """The result of a cell; what it raised is raised."""
    outcome = shell.run_cell(source, store_history=False)
    outcome.raise_error()
    return outcome.result


ASK = "from langchain_core.language_models import FakeListChatModel\nFakeListChatModel(responses=['a', 'b', 'c']).invoke('q').content"


def test_on_caches_both_frameworks_and_off_puts_back_what_was(shell: Any) -> None:
    cache = shell.run_line_magic("llm_cache", "on")
    assert isinstance(cache, LLMCache)
    assert llama_index_llm_cache_mem.get_llm_cache() is cache is shell.user_ns["llm_cache"]
    assert get_llm_cache() is not None
    shell.run_line_magic("llm_cache", "off")
    assert get_llm_cache() is None
    assert "llm_cache" not in shell.user_ns


def test_a_model_is_asked_once_and_stats_tell_so(shell: Any) -> None:
    shell.run_line_magic("llm_cache", "on")
    run(shell, ASK)
    run(shell, ASK)
    stats = run(shell, "%llm_cache stats")
    assert isinstance(stats, CacheStats)
    assert (stats.hits, stats.misses) == (1, 1)
    assert run(shell, "%llm_cache") == stats
    assert run(shell, "%llm_cache clear") == 1


def test_a_cell_may_go_past_the_cache_and_the_next_one_does_not(shell: Any) -> None:
    shell.run_line_magic("llm_cache", "on")
    run(shell, f"model = 1\n{ASK}")
    run(shell, f"%%llm_cache off\n{ASK}")
    assert run(shell, "%llm_cache stats").hits == 0
    run(shell, ASK)
    assert run(shell, "%llm_cache stats").hits == 1


def test_a_cell_that_fails_leaves_no_options_behind(shell: Any) -> None:
    shell.run_line_magic("llm_cache", "on")
    with pytest.raises(ZeroDivisionError):
        run(shell, "%%llm_cache off\n1 / 0")
    run(shell, ASK)
    run(shell, ASK)
    assert run(shell, "%llm_cache stats").hits == 1


def test_the_backend_and_its_settings_are_those_of_the_library(shell: Any, tmp_path: Path) -> None:
    cache = shell.run_line_magic("llm_cache", f"on 'sqlite:///{tmp_path}/a b=c.db' ttl=60 max_size=5 namespace=me")
    assert (tmp_path / "a b=c.db").exists()
    assert "ttl_seconds=60" in repr(cache)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("fly", "does not know 'fly'"),
        ("stats", "turn it on with  %llm_cache on"),
        ("on memory sqlite://./x.db", "does not know 'sqlite://./x.db'"),
        ("on colour=red", "does not know 'colour'"),
        ("on ttl=soon", "ttl must be a number, not 'soon'"),
        ("off now", "takes nothing more"),
    ],
)
def test_a_wrong_line_says_what_is_wrong_and_what_there_is(shell: Any, line: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        shell.run_line_magic("llm_cache", line)
    assert "%llm_cache on [BACKEND]" in str(caught.value)


def test_a_wrong_cell_line_does_not_run_the_cell(shell: Any) -> None:
    with pytest.raises(UsageError, match="does not know 'ttl'"):
        run(shell, "%%llm_cache ttl\nran = True")
    assert "ran" not in shell.user_ns


def test_a_cache_that_cannot_be_opened_leaves_the_one_that_is_on(shell: Any) -> None:
    cache = shell.run_line_magic("llm_cache", "on")
    with pytest.raises(ValueError, match="unknown backend"):
        shell.run_line_magic("llm_cache", "on foo://bar")
    assert shell.user_ns["llm_cache"] is cache


def test_a_store_that_cannot_be_cleared_is_told_in_one_line(shell: Any, tmp_path: Path) -> None:
    shell.run_line_magic("llm_cache", f"on unix://{tmp_path}/none.sock")
    with pytest.raises(UsageError, match=r"^nothing was cleared, or not all: RedisStore: clear failed: .*$") as caught:
        shell.run_line_magic("llm_cache", "clear")
    assert "\n" not in str(caught.value)


def test_in_a_real_kernel_cells_that_await_keep_their_options() -> None:
    cells = [
        "%load_ext llm_cache_mem\n%llm_cache on",
        "%%llm_cache refresh sample=2\nimport asyncio\nfrom llm_cache_mem.options import current\n"
        "await asyncio.sleep(0)\nprint(current().mode, current().sample)",
        "print(bool(current().mode), current().sample)",
        "llm_cache",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=60, kernel_name="python3").execute(env=dict(os.environ))
    assert book.cells[1].outputs[0].text == "refresh 2\n"
    assert book.cells[2].outputs[0].text == "False 0\n"
    assert "<table" in book.cells[3].outputs[0].data["text/html"]
