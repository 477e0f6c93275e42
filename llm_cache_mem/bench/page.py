"""The report as a page: one file that opens from a disk, in light and dark, with nothing loaded
from anywhere."""

from collections.abc import Sequence
from html import escape

from llm_cache_mem.bench import svg
from llm_cache_mem.bench.charts import Bars, charts
from llm_cache_mem.bench.report import Document
from llm_cache_mem.bench.tables import facts, tables

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2530; --dim: #5d6b7a; --line: #d8dee6; --back: #fff;
  --gain: #1f7a4d; --loss: #b3392f;
  --c0: #30475e; --c1: #1f7a4d; --c2: #c26a1b; --c3: #6b4fa0; --c4: #b3392f; --c5: #1b7fa6; --c6:
  #8a7a1f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --dim: #9aa7b5; --line: #36414d;
  --back: #12171d;
  --gain: #4fbf85; --loss: #ec7b70;
  --c0: #b9c7d6; --c1: #4fbf85; --c2: #e89a4f; --c3: #a98be0; --c4: #ec7b70; --c5: #57b8de; --c6:
  #cdbb55; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; } dt { color:
  var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
th { color: var(--dim); font-weight: 500; } th, td { padding: .2rem .7rem; text-align: right;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; } p, footer { color: var(--dim); max-width: 46rem;
  }
svg { width: 100%; max-width: 760px; font: 12px system-ui, sans-serif; } svg text { fill:
  var(--ink); white-space: pre; }
svg .value { fill: var(--dim); }
svg .axis, svg .grid { stroke: var(--line); } svg rect.gain { fill: var(--gain); } svg rect.loss {
  fill: var(--loss); }
svg polyline { fill: none; stroke-width: 2; }
"""
_COLOURS = "".join(
    f"svg polyline.c{n} {{ stroke: var(--c{n}); }} svg circle.c{n}, svg text.c{n} {{ fill:"
    f" var(--c{n}); }}\n"
    for n in range(7)
)


def page(document: Document) -> str:
    """*document*, as ``report.build`` makes it, as HTML."""
    name = escape(document["trace"]["name"].rstrip("/").rpartition("/")[2])
    pairs = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts(document)
    )
    pictures = "".join(
        f"<h2>{escape(chart.title)}</h2>{svg.bars(chart) if isinstance(chart, Bars) else svg.lines(chart)}"
        for chart in charts(document)
    )
    blocks = "".join(_table(*block) for block in tables(document))
    price = ", ".join(
        f"{field.replace('_', ' ')} {value:g}"
        for field, value in document["price"].items()
        if value is not None
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport"'
        f' content="width=device-width"><title>{name}: what caches'
        f" save</title><style>{_STYLE}{_COLOURS}</style></head><body>\n<h1>What caches save:"
        f" {name}</h1><dl>{pairs}</dl>\n{pictures}\n{blocks}\n<footer>Dollars per million tokens:"
        f" {escape(price)}. Made by llm-cache-mem bench.</footer></body></html>\n"
    )


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    below = f"<p>{escape(note)}</p>" if note else ""
    return (
        f"<h2>{escape(title)}</h2><div"
        f' class="wide"><table><tr>{top}</tr>{body}</table></div>{below}'
    )
