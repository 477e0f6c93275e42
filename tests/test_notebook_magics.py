"""The magics of a notebook, in a real shell; and, for cells that await, in a real kernel."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import llama_index_llm_cache_mem
import nbformat
import pytest
from http_server import provider
from installation.answers import BODY, answer
from IPython import get_ipython
from IPython.core.error import UsageError
from IPython.testing.globalipapp import start_ipython
from langchain_core.globals import get_llm_cache
from nbclient import NotebookClient

from llm_cache_mem import CacheStats, LLMCache

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guides" / "notebooks.md"


@pytest.fixture(scope="module")
def _ipython() -> Any:
    return start_ipython() or get_ipython()  # it starts once in a process


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


ASK = (
    "from langchain_core.language_models import"
    " FakeListChatModel\nFakeListChatModel(responses=['a', 'b', 'c']).invoke('q').content"
)


def test_on_caches_both_frameworks_and_off_restores_them(shell: Any) -> None:
    cache = shell.run_line_magic("llm_cache", "on")
    assert isinstance(cache, LLMCache)
    assert llama_index_llm_cache_mem.get_llm_cache() is cache is shell.user_ns["llm_cache"]
    assert get_llm_cache() is not None
    shell.run_line_magic("llm_cache", "off")
    assert get_llm_cache() is None
    assert "llm_cache" not in shell.user_ns


def test_on_covers_sdks_and_may_run_again(shell: Any) -> None:
    before = httpx.HTTPTransport.handle_request
    with provider() as server:
        server.gives(answer())
        ask = (
            "import openai\n"
            f"with openai.OpenAI(api_key='k', base_url='{server.url}/v1') as client:\n"
            f"    client.chat.completions.create(**{BODY!r})"
        )
        cache = run(shell, "%llm_cache on")
        run(shell, ask)
        assert run(shell, "%llm_cache on") is cache
        run(shell, ask)
        assert server.calls == 1
        shell.run_line_magic("llm_cache", "off")
        run(shell, ask)
        assert server.calls == 2
    assert httpx.HTTPTransport.handle_request is before


def test_a_model_is_asked_once_and_stats_tell_so(shell: Any) -> None:
    shell.run_line_magic("llm_cache", "on")
    run(shell, ASK)
    run(shell, ASK)
    stats = run(shell, "%llm_cache stats")
    assert isinstance(stats, CacheStats)
    assert (stats.hits, stats.misses) == (1, 1)
    assert run(shell, "%llm_cache") == stats
    assert run(shell, "%llm_cache clear") == 1


def test_the_cells_of_the_page_about_it_run_one_after_the_other(
    shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = re.findall(
        r"^```ipython\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    results = {cell: run(shell, cell) for cell in cells}
    assert results["%llm_cache\n"].hits == 1
    assert (
        str(results["%llm_cache why\n"].differences)
        == '(messages[0].content: "Who wrote the Air?" → "Who wrote the air?",)'
    )
    assert [result for result in results.values() if isinstance(result, str)][-4:] == [
        "Handel.",
        "Bach.",
        "Handel.",
        "Bach.",
    ]
    assert (tmp_path / "cache.db").exists()
    assert "llm_cache" not in shell.user_ns


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
    cache = shell.run_line_magic(
        "llm_cache", f"on 'sqlite:///{tmp_path}/a b=c.db' ttl=1m max_size=5 namespace=me"
    )
    assert (tmp_path / "a b=c.db").exists()
    assert "ttl_seconds=60" in repr(cache)


def test_every_line_of_the_pages_names_known_settings(
    shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = (page.read_text(encoding="utf-8") for page in PAGE.parents[1].rglob("*.md"))
    lines = re.findall(r"^ *%llm_cache (on .*)", "\n".join(pages), re.MULTILINE)
    assert len(lines) >= 3

    def opened(backend: str, **settings: Any) -> None:
        raise ValueError("understood")

    monkeypatch.setattr("llm_cache_mem.notebook.LLMCache", opened)
    for line in lines:
        with pytest.raises(UsageError, match=r"^understood$"):
            shell.run_line_magic("llm_cache", line)


def test_a_prompt_without_html_shows_reports_as_text(shell: Any) -> None:
    shell.run_line_magic("llm_cache", "on ttl=60.5")
    stats = shell.run_line_magic("llm_cache", "stats")
    shown, _ = shell.display_formatter.format(stats)
    assert shown["text/plain"] == str(stats) == "no calls yet"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("fly", "does not know 'fly'"),
        ("stats", "turn it on with  %llm_cache on"),
        ("on memory sqlite://./x.db", "does not know 'sqlite://./x.db'"),
        ("on colour=red", "does not know 'colour'"),
        ("on ttl=soon", "ttl: 'soon' is not a duration"),
        ("off now", "takes nothing more"),
        ("why", "turn it on with  %llm_cache on"),
        ("on keep_requests=maybe", "keep_requests must be yes or no, not 'maybe'"),
    ],
)
def test_a_wrong_command_line_names_the_error_and_the_choices(
    shell: Any, line: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        shell.run_line_magic("llm_cache", line)
    assert "%llm_cache on [BACKEND]" in str(caught.value)


def test_a_wrong_cell_line_does_not_run_the_cell(shell: Any) -> None:
    with pytest.raises(UsageError, match="does not know 'ttl'"):
        run(shell, "%%llm_cache ttl\nran = True")
    assert "ran" not in shell.user_ns


def test_a_cache_that_cannot_be_opened_leaves_the_one_that_is_on(shell: Any) -> None:
    cache = shell.run_line_magic("llm_cache", "on")
    with pytest.raises(UsageError, match="unknown backend"):
        shell.run_line_magic("llm_cache", "on foo://bar")
    assert shell.user_ns["llm_cache"] is cache


def test_a_store_that_cannot_be_cleared_is_told_in_one_line(shell: Any, tmp_path: Path) -> None:
    shell.run_line_magic("llm_cache", f"on unix://{tmp_path}/none.sock")
    with pytest.raises(
        UsageError, match=r"^nothing was cleared, or not all: RedisStore: clear failed: .*$"
    ) as caught:
        shell.run_line_magic("llm_cache", "clear")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("on ttl=-1", "ttl_seconds must be more than 0"),
        ("on max_size=0", "max_size must be at least 1"),
        ("on mode=fly", "mode must be"),
        ("on 'sqlite://./a", "a quotation is not closed"),
    ],
)
def test_a_setting_that_the_library_refuses_is_told_in_one_line(
    shell: Any, line: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        shell.run_line_magic("llm_cache", line)
    assert "\n" not in str(caught.value)


def test_so_is_one_of_a_cell_which_does_not_run(shell: Any) -> None:
    with pytest.raises(UsageError, match="mode must be"):
        run(shell, "%%llm_cache mode=fly\nran = True")
    assert "ran" not in shell.user_ns


# -- Why


def test_why_names_the_fields_that_differ(shell: Any) -> None:
    shell.run_line_magic("llm_cache", "on")
    run(shell, ASK)
    run(shell, ASK.replace("'q'", "'q?'"))
    found = run(shell, "%llm_cache why")
    assert [str(difference) for difference in found.differences] == [
        'messages[0].content: "q" → "q?"'
    ]
    html = found._repr_html_()
    assert "<td style='text-align:left'>messages[0].content</td>" in html
    assert "&quot;q?&quot;" in html


def test_why_of_several_tells_each_as_it_was_then(shell: Any) -> None:
    shell.run_line_magic("llm_cache", "on")
    for question in ("'q'", "'q <b>'"):
        run(shell, ASK.replace("'q'", question))
    found = run(shell, "%llm_cache why 5")
    assert [one.stored for one in found] == [1, 0]
    assert str(found).endswith("\n\nnothing is stored in this namespace yet")
    assert "<b>" not in found._repr_html_()


def test_why_all_names_the_field_that_costs_hits(shell: Any) -> None:
    cache = shell.run_line_magic("llm_cache", "on")
    for user in ("ann", "bob", "eve"):
        cache.put("q", "a", model="m", user=user)
    found = run(shell, "%llm_cache why all")
    assert (found.costs[0].field, found.costs[0].hits) == ("user", 2)
    assert "<code>key_fn=ignoring(&quot;user&quot;)</code>" in found._repr_html_()


def test_why_reports_that_there_is_nothing_to_explain(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = shell.run_line_magic("llm_cache", "on")
    run(shell, "%llm_cache why")
    run(shell, "%llm_cache why all")
    cache.get_or_call([{"role": "user", "content": float("nan")}], lambda **request: "a")
    run(shell, "%llm_cache why")
    assert capsys.readouterr().out.splitlines() == [
        "no call has missed yet",
        "no entry with its request is stored yet",
        "no call has missed yet; uncached or not stored: request 1",
    ]


@pytest.mark.parametrize("words", ["soon", "0", "-1", "1 2", "all 3"])
def test_why_takes_a_number_or_all(shell: Any, words: str) -> None:
    shell.run_line_magic("llm_cache", "on")
    with pytest.raises(UsageError, match=f"a number of misses, or all, not '{words}'"):
        shell.run_line_magic("llm_cache", f"why {words}")


def test_a_database_keeps_requests_only_when_told_to(shell: Any, tmp_path: Path) -> None:
    cache = shell.run_line_magic("llm_cache", f"on 'sqlite:///{tmp_path}/a.db'")
    cache.put("CANARY", "a")
    with pytest.raises(
        UsageError, match=r"stores none: turn it on with  %llm_cache on BACKEND keep_requests=yes$"
    ):
        shell.run_line_magic("llm_cache", "why")
    assert [entry.request for _, entry in cache.engine.entries()] == [None]
    cache = shell.run_line_magic("llm_cache", f"on 'sqlite:///{tmp_path}/b.db' keep_requests=yes")
    assert cache.get("CANARY") is None
    assert run(shell, "%llm_cache why").stored == 0


# -- Tables


def test_a_cache_shows_what_it_is_and_what_it_saved(shell: Any) -> None:
    cache = run(shell, "%llm_cache on")
    head = (
        "<p><code>LLMCache(backend=&#x27;memory&#x27;, ttl_seconds=3600.0,"
        " mode=&#x27;on&#x27;)</code></p>"
    )
    assert cache._repr_html_() == f"{head}<p>no calls yet</p>"
    cache.get_or_call([{"role": "user", "content": float("nan")}], lambda **request: "a")
    assert cache._repr_html_() == head + cache.stats()._repr_html_()
    assert "<td style='text-align:right'>request 1</td>" in cache._repr_html_()


def test_in_a_real_kernel_cells_that_await_keep_their_options() -> None:
    cells = [
        "%load_ext llm_cache_mem\n%llm_cache on",
        (
            "%%llm_cache refresh sample=2\nimport asyncio\nfrom llm_cache_mem.options import"
            " current\nawait asyncio.sleep(0)\nprint(current().mode, current().sample)"
        ),
        "print(bool(current().mode), current().sample)",
        "%%llm_cache refresh sample=3\nprint(current().mode, current().sample)",
        "await asyncio.sleep(0)\nprint(bool(current().mode), current().sample)",
        "print(bool(current().mode), current().sample)",
        "llm_cache.get('q')",
        "llm_cache",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=300, startup_timeout=300, kernel_name="python3").execute(
        env=dict(os.environ)
    )
    said = [cell.outputs[0].text for cell in book.cells[1:6]]
    assert said == ["refresh 2\n", "False 0\n", "refresh 3\n", "False 0\n", "False 0\n"]
    assert "<table" in book.cells[7].outputs[0].data["text/html"]
