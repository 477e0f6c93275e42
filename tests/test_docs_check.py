"""The look at the finished documentation site sees what is broken. The site itself is built, and
looked at, by make docs."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
START = (
    '<a href="more.html#here">more</a> <a href="#top">up</a> <a'
    ' href="https://example.org/x">elsewhere</a><h1 id="top"></h1>'
)
MORE = (
    '<link rel="stylesheet" href="assets/a%20b.css"><h2 id="here"></h2><a'
    ' href="index.html">start</a>'
)


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def check():
    return load("check").check


@pytest.fixture
def site(tmp_path):
    (tmp_path / "mkdocs.yml").write_text("beside the site, not in it")
    folder = tmp_path / "site"
    (folder / "assets").mkdir(parents=True)
    (folder / "assets" / "a b.css").write_text("")
    (folder / "index.html").write_text(START)
    (folder / "more.html").write_text(MORE)
    return folder


def test_a_sound_site_passes(check, site):
    assert check(site) == []


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ('<a href="gone.html">', "gone.html leads nowhere"),
        ('<a href="../mkdocs.yml">', "../mkdocs.yml leads nowhere"),
        ('<img src="gone.svg">', "gone.svg leads nowhere"),
        ('<a href="more.html#gone">', "more.html#gone names no heading there"),
        ('<a href="#gone">', "#gone names no heading there"),
        ('<script src="https://cdn.example/x.js"></script>', "fetches https://cdn.example/x.js"),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', "fetches //cdn.example/x.css"),
    ],
)
def test_broken_parts_are_named(check, site, added, said):
    (site / "index.html").write_text(START + added)
    (line,) = check(site)
    assert line.endswith(f"index.html: {said}")


def test_a_page_outside_the_menu_is_named(check, site):
    (site / "lost.html").write_text("")
    (line,) = check(site)
    assert line.endswith("lost.html: not in the nav of mkdocs.yml")


# -- The pages that are read where the repository is shown


def headings_of(page: Path) -> set[str]:
    """The anchors of *page*: its headings in lower case, without punctuation, with hyphens for
    spaces."""
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize(
    "name",
    ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "docs/index.md"],
)
def test_links_of_pages_that_no_site_holds_lead_somewhere(name):
    page = ROOT / name
    text = re.sub(
        r"^```.*?^```|`[^`\n]*`",
        "",
        page.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
        if not target.startswith(("http://", "https://")):
            there = (page.parent / target) if target else page
            assert there.exists(), f"{target} leads nowhere"
            assert not anchor or there.suffix != ".md" or anchor in headings_of(there), (
                f"{target}#{anchor} names no heading there"
            )
