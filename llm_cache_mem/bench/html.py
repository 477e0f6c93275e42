"""The report as one HTML file, in light and dark, that loads nothing from anywhere."""

from html import escape

from llm_cache_mem.accounting.render import Row, table
from llm_cache_mem.bench.report import Document
from llm_cache_mem.bench.tables import facts, tables

__all__ = ["render", "section"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2530; --dim: #5d6b7a; --line: #d8dee6; --back: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ef; --dim: #9aa7b5; --line: #36414d; --back: #12171d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th { color: var(--dim); font-weight: 500; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; }
p, footer { color: var(--dim); max-width: 46rem; }
figure { margin: 2rem 0; background: #fff; } svg { width: 100%; height: auto; }
"""


def render(document: Document) -> str:
    """Return *document*, made by ``report.build``, as HTML: with charts where matplotlib is
    installed, else with a line that says what they need."""
    name = escape(document["trace"]["name"].rstrip("/").rpartition("/")[2])
    pairs = "".join(
        f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in facts(document)
    )
    shown = "".join(section(*each) for each in tables(document))
    price = ", ".join(
        f"{field.replace('_', ' ')} {value:g}"
        for field, value in document["price"].items()
        if value is not None
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{name}: what caches save</title><style>{_STYLE}</style></head><body>
<h1>What caches save: {name}</h1>
<dl>{pairs}</dl>
{_charts(document)}
{shown}
<footer>Dollars per million tokens: {escape(price)}. Made by llm-cache-mem bench.</footer>
</body></html>
"""


def _charts(document: Document) -> str:
    try:
        from llm_cache_mem.bench.charts import charts, to_svg
    except ImportError as exc:
        if exc.name != "matplotlib":
            raise
        return f"<p>{escape(str(exc))}</p>"
    return "".join(
        f'<figure role="img" aria-label="{escape(chart.title)}">{to_svg(chart)}</figure>'
        for chart in charts(document)
    )


def section(title: str, head: Row, rows: list[Row], note: str) -> str:
    """A table under its *title*, with a *note* below."""
    below = f"<p>{escape(note)}</p>" if note else ""
    cells = table([head, *rows], texts=0)
    return f'<h2>{escape(title)}</h2><div class="wide">{cells}</div>{below}'
