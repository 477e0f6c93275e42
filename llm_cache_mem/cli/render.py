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
from llm_cache_mem.accounting.render import dollars, saved

__all__ = ["duration", "moment", "show_entry", "show_list", "show_stats"]

Row = Mapping[str, Any]

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
    if row["depends_on"]:
        lines["depends on"] = ", ".join(row["depends_on"])
    _print_pairs(out(), lines)


def show_stats(stats: Row, now: float) -> None:
    """The totals, then a table of who they belong to."""
    console = out()
    lines = {
        "store": stats["store"],
        "entries": f"{stats['entries']:,}",
        "size": _size(stats["bytes"]),
    }
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
    if stats["entries"]:
        console.print()
        print_table(_groups(stats))


def _note(text: str) -> None:
    Console(stderr=True, highlight=False).print(Text(text))


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def _cell(text: str) -> Text:
    return Text(visible(text), no_wrap=True, overflow="ellipsis")


def _print_pairs(console: Console, lines: Mapping[str, str]) -> None:
    for name, text in lines.items():
        console.print(Text.assemble((f"{name:<{_LABEL}}", "bold"), visible(text)), soft_wrap=True)


def _groups(stats: Row) -> Table:
    table = _table()
    table.add_column("by", no_wrap=True, style="bold")
    table.add_column("")
    shown = [name for name in _SUMS if name != "expired" or stats["expired"]]
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for by, unnamed in (("namespace", "(default)"), ("kind", ""), ("model", "(unknown)")):
        groups = stats[f"by_{by}"]
        for number, (name, sums) in enumerate(groups.items()):
            if number == _MOST_GROUPS:
                table.add_row("", _cell(f"and {len(groups) - number:,} more: --json"))
                break
            cells = (_SUMS[each](sums) for each in shown)
            table.add_row("" if number else by, _cell(name or unnamed), *cells)
    return table


_SUMS: Final[dict[str, Callable[[Row], str]]] = {
    "entries": lambda sums: f"{sums['entries']:,}",
    "expired": lambda sums: f"{sums['expired']:,}",
    "size": lambda sums: _size(sums["bytes"]),
    "tokens": lambda sums: f"{sums['input_tokens'] + sums['output_tokens']:,}",
    "cost": lambda sums: saved(sums["cost_usd"], sums["unpriced"], sums["entries"]),
}
"""The columns of a group of entries."""


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
