"""The report as text: aligned tables with explanatory notes."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from llm_cache_mem._util.tables import out, print_table
from llm_cache_mem._util.terminal import visible
from llm_cache_mem.accounting.render import dollars
from llm_cache_mem.bench.report import Document
from llm_cache_mem.bench.tables import count, facts, percent, seconds, tables

__all__ = ["show", "show_live"]


def show(document: Document) -> None:
    """Print *document*, made by ``report.build``, on stdout."""
    console = out()
    for name, text in facts(document):
        console.print(Text.assemble((f"{name:<14}", "bold"), visible(text)), soft_wrap=True)
    for title, head, rows, note in tables(document):
        console.print()
        print_table(_table(title, head, rows))
        if note:
            console.print(Text(note, style="dim"), soft_wrap=True)


def show_live(document: Document) -> None:
    """Print the document of ``bench live``."""
    console = out()
    asked = (
        f"{document['calls']} questions, {percent(document['repeats'], 0)} of them repeats, behind"
        f" {document['prefix_words']} words of common prompt"
    )
    console.print(
        Text.assemble((f"{'asked':<14}", "bold"), f"{document['target']}: {asked}"), soft_wrap=True
    )
    head = (
        "",
        "calls",
        "tokens in",
        "from prompt cache",
        "tokens out",
        "p50",
        "p95",
        "total",
        "dollars",
    )
    rows = [
        (
            *(row["arm"], count(row["calls"]), count(row["input_tokens"])),
            f"{count(row['cached_tokens'])} = {percent(_share_cached(row), 0)}",
            *(
                count(row["output_tokens"]),
                seconds(row["p50_seconds"]),
                seconds(row["p95_seconds"]),
                seconds(row["seconds"]),
            ),
            "unknown" if row["usd"] is None else dollars(row["usd"]),
        )
        for row in document["arms"]
    ]
    console.print()
    print_table(_table("Measured", head, rows))
    console.print(
        Text(
            "Seconds as the program measures them; tokens as the server reports them.",
            style="dim",
        ),
        soft_wrap=True,
    )


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for heading in head:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table


def _share_cached(row: dict[str, float]) -> float:
    return row["cached_tokens"] / row["input_tokens"] if row["input_tokens"] else 0
