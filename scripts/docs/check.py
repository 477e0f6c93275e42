"""A look at the finished site: every link leads somewhere, every page is in the menu, and nothing
is fetched from elsewhere."""

import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["Page", "check", "main"]

FETCHED = {
    ("script", "src"),
    ("img", "src"),
    ("source", "src"),
    ("iframe", "src"),
    ("object", "data"),
}
FETCHED_BY = {"stylesheet", "preload", "preconnect", "icon", "manifest"}


@dataclass
class Page(HTMLParser):
    """One page: the ids that can be linked to, where it links to, and what a browser fetches to
    show it."""

    path: Path
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        for name, value in given.items():
            if (tag, name) in FETCHED or (
                tag == "link" and name == "href" and FETCHED_BY & set(given.get("rel", "").split())
            ):
                self.fetched.append(value)
            elif name == "href" and tag in ("a", "link"):
                self.links.append(value)


def check(site: Path) -> list[str]:
    """What is wrong with *site*, a line for each; empty if nothing is."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    wrong = [problem for page in pages.values() for problem in _broken(page, pages, site.resolve())]
    wrong += [
        f"{page.path}: fetches {url}"
        for page in pages.values()
        for url in page.fetched
        if urlsplit(url).netloc
    ]
    start = pages[(site / "index.html").resolve()]
    menu = {_target(start, link) for link in start.links if not urlsplit(link).netloc}
    return wrong + [
        f"{page.path}: not in the nav of mkdocs.yml"
        for path, page in pages.items()
        if path not in menu
    ]


def _target(page: Page, link: str) -> Path:
    """The file that *link*, which has no host, leads to."""
    path = unquote(urlsplit(link).path)
    return (page.path.parent / path if path else page.path).resolve()


def _broken(page: Page, pages: dict[Path, Page], site: Path) -> list[str]:
    wrong = []
    for link in [*page.links, *page.fetched]:
        url = urlsplit(link)
        if url.scheme or url.netloc:
            continue
        target = _target(page, link)
        if not target.is_file() or not target.is_relative_to(site):
            wrong.append(f"{page.path}: {link} leads nowhere")
        elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].ids:
            wrong.append(f"{page.path}: {link} names no heading there")
    return wrong


def main() -> None:
    """Check the site that the command line names: status 1 and a line for each thing that is
    wrong."""
    if wrong := check(Path(sys.argv[1])):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
