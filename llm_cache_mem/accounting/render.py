"""The counters as people read them: aligned text in a terminal, tables in a notebook."""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from itertools import chain, repeat

from llm_cache_mem.accounting.stats import CacheStats

__all__ = ["aligned", "as_html", "as_text", "by_reason", "dollars", "headed", "table"]

Row = tuple[str, ...]
_ALWAYS = ("hits", "misses", "size")
_LEFT, _RIGHT = "text-align:left", "text-align:right"


def as_text(stats: CacheStats) -> str:
    """Every counter, then a table of each way of saving and one of each model, where there is
    something in them."""
    rows = list(_summary(stats))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    for more in _tables(stats):
        lines += ["", *aligned(more)]
    return "\n".join(lines)


def as_html(stats: CacheStats) -> str:
    """The same as tables, with every name escaped; of what may go wrong only what did."""
    shown = [(name, value) for name, value in _summary(stats) if value != "0" or name in _ALWAYS]
    rows = [
        f"<tr><th style='{_LEFT}'>{escape(name)}</th><td style='{_RIGHT}'>{escape(value)}</td></tr>"
        for name, value in shown
    ]
    return f"<table>{''.join(rows)}</table>" + "".join(map(table, _tables(stats)))


def by_reason(skipped: Mapping[str, int]) -> str:
    """What was *skipped*, by reason, on one line."""
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(skipped.items()))


def headed(title: str, html: str) -> str:
    """*html* under the code that it is about."""
    return f"<p><code>{escape(title)}</code></p>{html}"


def aligned(rows: list[Row]) -> list[str]:
    """A table as lines: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def table(rows: Iterable[Row], *, texts: int = 1) -> str:
    """A table as HTML, without colours, so that it suits every theme: the first row is its head,
    the first *texts* columns are texts."""
    lines = []
    for row, tag in zip(rows, chain(["th"], repeat("td")), strict=False):
        cells = (
            f"<{tag} style='{_LEFT if place < texts else _RIGHT}'>{escape(cell)}</{tag}>"
            for place, cell in enumerate(row)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _tables(stats: CacheStats) -> Iterator[list[Row]]:
    if any(saving.calls for saving in stats.savings()) or stats.provider.write_tokens:
        yield list(_savings_rows(stats))
    if stats.by_model:
        yield _model_rows(stats)


def _savings_rows(stats: CacheStats) -> Iterator[Row]:
    yield ("saved by", "calls", "tokens", "seconds", "dollars", "unpriced")
    for source, calls, tokens, seconds, usd, unpriced in stats.savings():
        yield (
            source,
            f"{calls:,}",
            f"{tokens:,}",
            f"{seconds:,.1f}",
            dollars(usd),
            f"{unpriced:,}",
        )


def dollars(amount: float) -> str:
    """With more digits the smaller it is: a call may cost a thousandth of a cent."""
    size = abs(amount)
    digits = 2 if size >= 1 or size == 0 else 4 if size >= 0.001 else 6
    return f"{'-' if amount < 0 else ''}${size:,.{digits}f}"


def _summary(stats: CacheStats) -> Iterator[tuple[str, str]]:
    yield "hits", f"{stats.hits:,}"
    yield "misses", f"{stats.misses:,}"
    yield "hit rate", f"{stats.hit_rate:.1%}"
    yield "size", f"{stats.size:,}"
    yield "stored", f"{stats.stored:,}"
    yield "skipped", by_reason(stats.skipped) or "0"
    yield "evictions", f"{stats.evictions:,}"
    yield "expirations", f"{stats.expirations:,}"
    yield "coalesced", f"{stats.coalesced:,}"
    yield "errors", f"{stats.errors:,}"
    yield "tokens saved", f"{stats.tokens_saved:,}"
    yield "seconds saved", f"{stats.seconds_saved:,.1f}"
    calls = "call" if stats.unpriced_hits == 1 else "calls"
    unpriced = (
        f" (and {stats.unpriced_hits:,} {calls} of unknown price)" if stats.unpriced_hits else ""
    )
    yield "dollars saved", f"{dollars(stats.saved_usd)}{unpriced}"


def _model_rows(stats: CacheStats) -> list[Row]:
    rows: list[Row] = [
        ("model", "hits", "coalesced", "tokens saved", "seconds saved", "dollars saved", "unpriced")
    ]
    for name, model in sorted(stats.by_model.items(), key=lambda item: -item[1].saved_usd):
        rows.append(
            (
                name or "(no model)",
                f"{model.hits:,}",
                f"{model.coalesced:,}",
                f"{model.tokens_saved:,}",
                f"{model.seconds_saved:,.1f}",
                dollars(model.saved_usd),
                f"{model.unpriced_hits:,}",
            )
        )
    return rows
