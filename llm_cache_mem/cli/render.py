"""What people see: aligned tables on a terminal or in a pipe, ages and sizes in words."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from llm_cache_mem._util.tables import out, print_table
from llm_cache_mem._util.terminal import visible
from llm_cache_mem.accounting.render import avoided, dollars, saved
from llm_cache_mem.accounting.totals import label
from llm_cache_mem.cli.output import count_of

__all__ = ["duration", "moment", "show_entry", "show_list", "show_stats"]

Row = Mapping[str, Any]
Cell = Callable[[Row], str]

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_DIGEST = 8  # digits: one in four billion
_SHRINK = ("namespace", "model", "prompt")  # when the terminal is narrow
_MOST_GROUPS = 20
_SHORT = 0.5  # seconds that are not worth a line
_LABEL = 11  # columns


def duration(seconds: float, parts: int = 1) -> str:
    """*seconds* in their largest units: ``3d``, or with two parts ``3d 4h``."""
    left = round(abs(seconds))
    words: list[tuple[int, str]] = []
    for length, unit in _UNITS:
        count, rest = divmod(left, length)
        if count or (words and len(words) < parts):
            words.append((count, unit))
            left = rest
        if len(words) == parts:
            break
    return " ".join(f"{count:,}{unit}" for count, unit in words if count) or "0s"


def moment(at: float) -> str:
    """A time in ISO 8601, in this place's time zone."""
    try:
        return datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):  # beyond the calendar
        return f"{at:g} s after 1970"


def show_list(rows: Sequence[Row], total: int, now: float) -> None:
    """A line for each of *rows*. A column in which all is as it mostly is (no namespace, kind
    value, ...) is left out."""
    columns: tuple[tuple[str, str, str, Callable[[Row], str]], ...] = (
        ("key", "left", "", lambda row: row["digest"][:_DIGEST]),
        ("sample", "right", "", lambda row: str(row["sample"] or "")),
        ("namespace", "left", "", lambda row: row["namespace"]),
        ("kind", "left", "value", lambda row: row["kind"]),
        ("model", "left", "", lambda row: row["model"] or ""),
        ("age", "right", "", lambda row: duration(now - row["stored_at"])),
        ("expires", "right", "", lambda row: _expiry(row, now)),
        ("size", "right", "", lambda row: _size(row["bytes"])),
        ("hits", "right", "", lambda row: f"{row['hits']:,}" if row["hits"] else ""),
        ("tokens", "right", "", lambda row: _tokens(row["usage"])),
        ("cost", "right", "", lambda row: _dollars(row["cost_usd"])),
        ("prompt", "left", "", lambda row: row["prompt"]),
    )
    table = _table()
    shown = []
    for name, justify, usual, cell in columns:
        if any(cell(row) != usual for row in rows):
            # a str here
            table.add_column(name, justify=justify, no_wrap=name not in _SHRINK)  # type: ignore[arg-type]
            shown.append(cell)
    for row in rows:
        table.add_row(
            *(_cell(cell(row)) for cell in shown), style="dim" if row["expired"] else None
        )
    if rows:
        print_table(table)
    if len(rows) < total:
        _note(f"{len(rows):,} of {total:,} entries; --limit 0 shows all")
    elif not rows:
        _note("no entries")


def show_entry(row: Row, now: float) -> None:
    """What is known about an entry, a line each."""
    usage = row["usage"]
    age = f"{duration(now - row['stored_at'], 2)} ago"
    lines = {
        "key": row["key"],
        "namespace": row["namespace"] or "(default)",
        "kind": row["kind"],
        "sample": str(row["sample"]),
        "model": row["model"] or "unknown",
        "stored": f"{moment(row['stored_at'])}  ({age})",
        "expires": _long_expiry(row, now),
        "size": _size(row["bytes"]),
        "tokens": "unknown"
        if usage is None
        else ", ".join(f"{n:,} {name.removesuffix('_tokens')}" for name, n in usage.items() if n),
        "cost": _dollars(row["cost_usd"]) or "—",
        "took": "unknown" if row["seconds"] is None else f"{row['seconds']:.3g} s",
    }
    if row["hits"]:
        ago = duration(now - row["last_hit_at"], 2)
        lines["hits"] = f"{row['hits']:,}, the last one {ago} ago or shortly before"
    if row["depends_on"]:
        lines["depends on"] = ", ".join(row["depends_on"])
    _print_pairs(out(), lines)


def show_stats(stats: Row, now: float) -> None:
    """The calls avoided, what is stored, and tables of both by namespace and model."""
    console = out()
    lines = {"store": stats["store"]}
    if stats["totals"] is None:
        lines["calls"] = "not counted by this store; cache.stats() has those of one process"
    else:
        lines |= _calls(stats["totals"], now)
    lines["entries"] = f"{stats['entries']:,}"
    lines["size"] = _size(stats["bytes"])
    if stats["expired"]:
        lines["entries"] += f", {stats['expired']:,} of them expired"
    if stats["unreadable"]:
        lines["entries"] += f", and {stats['unreadable']:,} that cannot be read"
    for name in ("oldest", "newest") if stats["entries"] else ():
        at = stats[f"{name}_stored_at"]
        lines[name] = f"{moment(at)}  ({duration(now - at, 2)} ago)"
    if stats["entries"]:
        lines["tokens"] = f"{stats['input_tokens']:,} in, {stats['output_tokens']:,} out"
        lines["cost"] = saved(stats["cost_usd"], stats["unpriced"], stats["entries"])
        if stats["seconds"] >= _SHORT:
            lines["took"] = f"{duration(stats['seconds'], 2)} of waiting for these answers"
    _print_pairs(console, lines)
    if stats["totals"] and stats["totals"]["by_model"]:
        console.print()
        print_table(_groups(stats["totals"], _CALLS, ("namespace", "model")))
    if stats["entries"]:
        console.print()
        print_table(_groups(stats, _ENTRIES, ("namespace", "kind", "model")))


def _calls(totals: Row, now: float) -> dict[str, str]:
    """What became of all calls, a line for each figure that is not zero."""
    if totals["since"] is None:
        return {"calls": "none counted yet"}
    headline = avoided(totals["avoided"], totals["hits"] + totals["misses"])
    lines = {"calls": headline.replace(" calls", "", 1)}
    lines["since"] = f"{moment(totals['since'])}  ({duration(now - totals['since'], 2)} ago)"
    if totals["avoided"]:
        tokens = totals["input_tokens_saved"] + totals["output_tokens_saved"]
        figures = [f"{tokens:,} tokens"]
        if totals["seconds_saved"] >= _SHORT:
            figures.append(f"{duration(totals['seconds_saved'], 2)} of waiting")
        figures.append(saved(totals["saved_usd"], totals["unpriced_hits"], totals["avoided"]))
        lines["saved"] = ", ".join(figures)
    if totals["calls"]:
        cost = saved(totals["paid_usd"], totals["unpriced_calls"], totals["calls"])
        lines["paid"] = f"{count_of(totals['calls'], 'call', 'calls')}, {cost}"
    return lines


def _note(text: str) -> None:
    Console(stderr=True, highlight=False).print(Text(text))


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def _cell(text: str) -> Text:
    return Text(visible(text), no_wrap=True, overflow="ellipsis")


def _print_pairs(console: Console, lines: Mapping[str, str]) -> None:
    for name, text in lines.items():
        console.print(Text.assemble((f"{name:<{_LABEL}}", "bold"), visible(text)), soft_wrap=True)


def _groups(sums: Row, columns: Mapping[str, Cell], names: Sequence[str]) -> Table:
    """The groups of *sums* by each of *names*, without columns that are zero in all."""
    table = _table()
    table.add_column("by", no_wrap=True, style="bold")
    table.add_column("")
    shown = {heading: cell for heading, cell in columns.items() if cell(sums) != "0"}
    for heading in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for by in names:
        groups = {name: sums for name, sums in sums[f"by_{by}"].items() if _counts(sums)}
        for number, (name, group) in enumerate(groups.items()):
            if number == _MOST_GROUPS:
                table.add_row("", _cell(f"and {len(groups) - number:,} more: --json"))
                break
            cells = (cell(group) for cell in shown.values())
            table.add_row("" if number else by, _cell(label(name, _UNNAMED[by])), *cells)
    return table


def _counts(group: Row) -> bool:
    """Whether a group has calls or entries to show: one of skipped calls alone has none."""
    return any(group.get(name) for name in ("hits", "misses", "calls", "entries"))


_UNNAMED: Final = {"namespace": "(default)", "kind": "", "model": "(no model)"}

_CALLS: Final[dict[str, Cell]] = {
    "calls avoided": lambda sums: f"{sums['avoided']:,} of {sums['hits'] + sums['misses']:,}",
    "tokens saved": lambda sums: f"{sums['input_tokens_saved'] + sums['output_tokens_saved']:,}",
    "saved": lambda sums: _known(sums["saved_usd"], sums["unpriced_hits"], sums["avoided"]),
    "paid": lambda sums: _known(sums["paid_usd"], sums["unpriced_calls"], sums["calls"]),
}
"""The columns of a group of calls."""

_ENTRIES: Final[dict[str, Cell]] = {
    "entries": lambda sums: f"{sums['entries']:,}",
    "expired": lambda sums: f"{sums['expired']:,}",
    "size": lambda sums: _size(sums["bytes"]),
    "tokens": lambda sums: f"{sums['input_tokens'] + sums['output_tokens']:,}",
    "cost": lambda sums: _known(sums["cost_usd"], sums["unpriced"], sums["entries"]),
}
"""The columns of a group of entries."""


def _known(usd: float, unpriced: int, calls: int) -> str:
    """As ``saved``, short: at least so much where only some have a known price."""
    some = 0 < unpriced < calls
    return f"≥ {dollars(usd)}" if some else saved(usd, unpriced, calls)


def _expiry(row: Row, now: float) -> str:
    if row["expired"]:
        return "expired"
    return "never" if row["expires_at"] is None else duration(row["expires_at"] - now)


def _long_expiry(row: Row, now: float) -> str:
    at = row["expires_at"]
    if at is None:
        return "never"
    left = duration(at - now, 2)
    return f"{moment(at)}  ({left} ago)" if row["expired"] else f"{moment(at)}  (in {left})"


def _tokens(usage: Row | None) -> str:
    return "" if usage is None else f"{usage['input_tokens'] + usage['output_tokens']:,}"


def _size(count: int) -> str:
    return decimal(count).replace("bytes", "B").replace("byte", "B")


def _dollars(amount: float | None) -> str:
    return "" if amount is None else dollars(amount)
