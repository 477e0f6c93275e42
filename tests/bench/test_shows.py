"""The report as a page and as pictures, and the live measurement against a server of our own."""

import json
import re
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cli_helpers import fails, read, run

from llm_cache_mem.bench.live import ARMS, make_plan, prefix, questions


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "<b>&trace.jsonl"
    call = {"input_length": 2048, "output_length": 100}
    lines = [
        json.dumps(call | {"timestamp": 1000 * n, "hash_ids": [1, 2, 3, 4 + n % 3]})
        for n in range(9)
    ]
    path.write_text("\n".join(lines))
    return path


class Page(HTMLParser):
    """What a page is made of: its tags, and whatever it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loads: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self.open[-1] in ("meta", "br"):
            self.open.pop()
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(trace: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "report.html"
    run(
        "bench",
        str(trace),
        "--max-size",
        "1",
        "--max-size",
        "none",
        "--policies",
        "--html",
        str(out),
    )
    text = out.read_text()
    page = Page(text)
    assert page.open == []
    assert all(str(load).startswith("#") for load in page.loads)  # shapes of the chart itself
    assert not re.search(r"https?:|url\((?!#)|@import|<script", text)
    assert page.tags.count("svg") == 3
    assert page.tags.count("table") == 4
    assert "prefers-color-scheme: dark" in text
    assert "<b>&trace" not in text
    assert "&lt;b&gt;&amp;trace" in text


def test_without_matplotlib_the_page_has_its_tables_and_names_the_extra(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "llm_cache_mem.bench.charts", raising=False)
    out = tmp_path / "report.html"
    run("bench", str(trace), "--html", str(out))
    text = out.read_text()
    page = Page(text)
    assert page.open == []
    assert page.loads == []
    assert (page.tags.count("svg"), page.tags.count("table")) == (0, 3)
    assert "llm-cache-mem[plot]" in text
    said = fails("bench", str(trace), "--plot", str(tmp_path), status=2)
    assert "llm-cache-mem[plot]" in said


def test_pictures_are_written_for_every_chart(trace: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "new" / "pictures"
    run(
        "bench",
        str(trace),
        "--max-size",
        "1",
        "--max-size",
        "none",
        "--policies",
        "--plot",
        str(folder),
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "hit_rates.png",
        "policies.png",
        "savings.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())


def test_the_same_questions_are_asked_in_every_way_and_the_share_asked_before_is_right() -> None:
    plan = make_plan(20, 0.5, 100, 8, "run")
    asked = questions(plan)
    assert asked == questions(plan)
    assert (len(asked), len(set(asked))) == (20, 10)
    assert 100 <= len(prefix(plan).split()) < 130


@pytest.mark.parametrize(
    "wrong", [(1, 0.5, 10, 8), (4, 1.0, 10, 8), (4, -0.1, 10, 8), (4, 0.5, 0, 8), (4, 0.5, 10, 0)]
)
def test_a_make_plan_wrong_numbers_is_refused(wrong: tuple[int, float, int, int]) -> None:
    with pytest.raises(ValueError, match="two calls or more"):
        make_plan(*wrong, "run")


@pytest.fixture
def server() -> Iterator[str]:
    pytest.importorskip("openai")
    pytest.importorskip("anthropic")
    from llm_cache_mem.testing.model_server.stand_in import StandInServer

    with StandInServer(delay=0.0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("provider", "path"), [("openai", "/v1"), ("anthropic", "")])
def test_live_asks_through_the_real_sdks(
    server: str, provider: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", "none")
    options = [
        "--model",
        "stand-in",
        "--base-url",
        server + path,
        "--calls",
        "8",
        "--prefix-words",
        "50",
        "--price",
        "1,1",
    ]
    found = read("bench", "live", provider, *options, "--yes")
    rows = {row["arm"]: row for row in found["arms"]}
    assert list(rows) == [arm.name for arm in ARMS]
    assert [row["calls"] for row in rows.values()] == [8, 8, 4, 4]
    assert all(0 < row["p50_seconds"] <= row["p95_seconds"] for row in rows.values())
    neither = rows["neither"]
    assert neither["usd"] == pytest.approx(
        (neither["input_tokens"] + neither["output_tokens"]) / 1e6
    )
    text = run("bench", "live", provider, *options, "--yes")
    assert "at the most" in text.stderr
    assert "client cache" in text.stdout


def test_live_spends_nothing_that_nobody_agreed_to(server: str) -> None:
    options = [
        "live",
        "openai",
        "--model",
        "stand-in",
        "--base-url",
        f"{server}/v1",
        "--price",
        "10,10",
    ]
    said = fails("bench", *options, status=2)
    assert re.search(
        r"48 calls of stand-in at the most, [\d,]+ tokens in and 1,536 out, for \$\d", said
    )
    assert "--yes" in said
    assert "Give --model" in fails("bench", "live", "anthropic", status=2)


def test_live_says_why_it_could_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    options = ["--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--calls", "2"]
    assert "APIConnectionError" in fails("bench", "live", "openai", *options, "--yes")


@pytest.mark.slow
def test_the_local_model_reads_its_prompt_cache_where_it_may() -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("openai")
    found = read("bench", "live", "--calls", "4", "--prefix-words", "60", "--max-tokens", "4")
    rows = {row["arm"]: row for row in found["arms"]}
    assert rows["prompt cache"]["cached_tokens"] > 3 * rows["neither"]["cached_tokens"]
    assert rows["both"]["calls"] == 2
