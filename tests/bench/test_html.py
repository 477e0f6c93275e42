"""The report as an HTML page and as PNG charts."""

import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cli_helpers import fails, run


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


def test_page_is_well_formed_and_loads_nothing(trace: Path, tmp_path: Path) -> None:
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


def test_page_without_matplotlib_has_tables_and_names_the_extra(
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


def test_report_is_private_whatever_the_umask(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    before = os.umask(0)
    try:
        run("bench", str(trace), "--html", str(out))
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o600


def test_plot_writes_a_png_for_every_chart(trace: Path, tmp_path: Path) -> None:
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
