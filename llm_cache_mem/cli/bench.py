"""The ``bench`` commands: simulate a trace, record one, and measure real calls."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from llm_cache_mem.cli import bench_live
from llm_cache_mem.cli.arguments import MISUSED, AsJson, CommandFailed
from llm_cache_mem.cli.bench_options import configs_in, prices_in, span_in
from llm_cache_mem.cli.output import print_json, replacing, report
from llm_cache_mem.cli.store import Reader, note_unreadable

if TYPE_CHECKING:
    from llm_cache_mem.accounting.counts import EntryHits
    from llm_cache_mem.bench.reader import Trace
    from llm_cache_mem.bench.report import Document
    from llm_cache_mem.values.entry import Entry

__all__ = ["app"]

_RUN = "run"
_SQLITE = b"SQLite format 3\0"  # what its files begin with


class _RunByDefault(TyperGroup):
    """``bench TRACE`` is ``bench run TRACE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [_RUN, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Measure what a cache saves. bench TRACE is bench run TRACE.\n\nA client-side exact"
        " cache, the provider's prompt cache, and both."
    ),
)

_EXAMPLES = """\b
Examples:
  llm-cache-mem bench trace.jsonl.gz
  llm-cache-mem bench trace.jsonl --max-size 256 --max-size none --ttl 5m --ttl 1h
  llm-cache-mem bench RAGPulse/ --key question --policies --html report.html --plot charts/
"""

_RECORD_EXAMPLES = """\b
Examples:
  llm-cache-mem bench record ./cache.db trace.jsonl && llm-cache-mem bench trace.jsonl --sort
  llm-cache-mem bench record recordings.jsonl trace.jsonl --once
"""


@app.command(_RUN, epilog=_EXAMPLES)
def run(
    trace: Annotated[
        str,
        typer.Argument(
            metavar="TRACE",
            help="A file of JSON lines, gzipped or not, a folder of RAGPulse; - is stdin.",
        ),
    ],
    max_size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N", help="Entries of the client cache; none: no limit. [default: 256]"
        ),
    ] = None,
    ttl: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPAN", help="Time to live of its entries: 5m, 1h, 7d, none. [default: 1h]"
        ),
    ] = None,
    coalesce: Annotated[
        bool, typer.Option(help="Whether concurrent identical calls share one call.")
    ] = True,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="lru|sieve", help="Eviction policy of the client cache. [default: lru]"
        ),
    ] = None,
    policies: Annotated[
        bool,
        typer.Option(
            "--policies",
            help="Also compare eviction policies with the best possible, at each --max-size.",
        ),
    ] = False,
    prompt_ttl: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPAN",
            help="Time to live of the prompt cache; none: leave it out. [default: 5m and 1h]",
        ),
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(
            metavar="PRICES",
            help=(
                "Dollars per million tokens, with commas: input, output, prompt-cache reads,"
                " writes, an hour of storage. [default: 3,15,0.3,3.75,6]"
            ),
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Instead of --price: the price of this model from genai-prices."
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="own, mooncake, ragpulse or sessions; by default detected from the first line.",
        ),
    ] = None,
    key: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="RAGPulse: the part of a request that is its key: whole, no-system or question.",
        ),
    ] = "whole",
    on_error: Annotated[
        Literal["stop", "skip"], typer.Option(help="What to do at a bad line.")
    ] = "stop",
    sort: Annotated[
        bool, typer.Option("--sort", help="Sort the calls first, if they are in no order.")
    ] = False,
    html: Annotated[
        str | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write the report as an HTML page; the extra plot adds charts.",
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            "--plot", metavar="FOLDER", help="Write its charts as PNG files (extra plot)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a trace: hit rates, tokens, dollars and time that the caches save.

    The client cache is LLMCache itself under a simulated clock. Repeat --max-size and --ttl to
    simulate every pair.
    """
    from llm_cache_mem.bench import results
    from llm_cache_mem.bench.eviction import DEFAULT_SIZES
    from llm_cache_mem.bench.reader import open_trace
    from llm_cache_mem.bench.simulation import DEFAULT_PROMPT_TTLS

    _refuse_store(trace)
    configs = configs_in(max_size, ttl, policy, coalesce)
    prompt_ttls = (
        DEFAULT_PROMPT_TTLS
        if prompt_ttl is None
        else tuple(span for span in map(span_in, prompt_ttl) if span is not None)
    )
    prices = prices_in(price, model)
    if plot is not None:
        _check_plot()
    sizes = (
        [rule.max_size for rule in configs if rule.max_size is not None]
        if max_size
        else DEFAULT_SIZES
    )
    with (
        open_trace(trace, format=format, on_error=on_error, key=key, sort=sort) as opened,
        _progress(opened) as step,
    ):
        opened.warn = lambda text: typer.echo(f"skipped: {text}", err=True)
        policy_sizes = sorted(set(sizes)) if policies else None
        document = results.run(
            opened, configs, prompt_ttls, price=prices, policy_sizes=policy_sizes, step=step
        ).document
    if not document["trace"]["calls"]:
        raise CommandFailed(f"{trace} has no calls")
    _write(document, html, plot)
    if as_json:
        print_json(document)
        return
    from llm_cache_mem.bench.text import show

    show(document)


@app.command("record", epilog=_RECORD_EXAMPLES)
def record(
    store: Annotated[
        str,
        typer.Argument(metavar="STORE", help="A store or a file of recordings: its URL or path."),
    ],
    trace: Annotated[str, typer.Argument(metavar="TRACE", help="The trace to write, a new file.")],
    salt_variable: Annotated[
        str | None,
        typer.Option(
            "--salt-from",
            metavar="VARIABLE",
            help="The environment variable with the salt; by default it is random.",
        ),
    ] = None,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Record each entry as one call: where the store counts no hits."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn the entries of a store into a trace of digests, token counts and times, without the text
    of prompts or answers.

    Each entry is the call that it was stored for and one call for each hit, evenly from then until
    the last one; tool results are left out. SQLite and Redis count hits, others do not: record the
    running program with LLMCache(on_event=TraceRecorder("trace.jsonl")) or
    TraceRecorder("trace.jsonl").wrap(client.messages.create), which also has the exact times. If
    the cache kept requests (LLMCache(keep_requests=True), or recordings), the trace has the blocks
    of the prompts, which the simulation of the prompt cache needs.
    """
    from llm_cache_mem.bench.recorder import TraceRecorder, record_entries
    from llm_cache_mem.tools.results import KINDS

    salt = None if salt_variable is None else os.environ.get(salt_variable)
    if salt_variable is not None and not salt:
        raise CommandFailed(f"{salt_variable} is not in the environment", MISUSED)
    if os.path.exists(trace):
        raise CommandFailed(f"{trace} exists; give the name of a new file")
    tools = 0
    with closing(Reader(store)) as reader:
        if not once:
            _refuse_uncounted(reader)
        recorder = TraceRecorder(trace, salt=salt)

        def of_models() -> Iterator[tuple[str, "Entry", "EntryHits | None"]]:
            nonlocal tools
            entries = reader.entries()
            for found in entries if once else reader.with_hits(entries):
                if found.parts.kind in KINDS:
                    tools += 1
                else:
                    yield found.key, found.entry, found.hits

        try:
            recorded = record_entries(of_models(), recorder)
        except BaseException:
            os.unlink(trace)
            raise
        finally:
            recorder.close()
        note_unreadable(reader)
    counts = {
        "calls": recorded.calls,
        "without_request": recorded.without_request,
        "of_tools": tools,
        "lost": recorder.lost,
    }
    notes = {
        "without their prompts, which the store did not keep": recorded.without_request,
        "tool results left out": tools,
        "lost": recorder.lost,
    }
    parts = [f"; {number:,} {note}" for note, number in notes.items() if number]
    report(as_json, counts, f"recorded {recorded.calls:,} calls{''.join(parts)}")


app.command("live", epilog=bench_live.EXAMPLES)(bench_live.live)


def _refuse_uncounted(reader: Reader) -> None:
    """Raise CommandFailed for a store that does not know how often its entries were hit."""
    totals = reader.totals()
    if totals is None or totals.since is None:
        why = "does not count hits" if totals is None else "has counted no calls yet"
        raise CommandFailed(
            f"{reader.name} {why}, so the trace would show no repeats; record the running program"
            ' with LLMCache(on_event=TraceRecorder("trace.jsonl")), or each entry as one call with'
            " --once",
            MISUSED,
        )


def _refuse_store(trace: str) -> None:
    """Raise CommandFailed for a store given in place of a trace."""
    is_url = "://" in trace
    if not is_url and Path(trace).is_file():
        with open(trace, "rb") as file:
            if file.read(len(_SQLITE)) != _SQLITE:
                return
    elif not is_url:
        return
    name = "this URL" if is_url else trace  # a URL may hold a password
    store = "STORE" if is_url else trace
    raise CommandFailed(
        f"{name} is a store, not a trace; llm-cache-mem bench record {store} trace.jsonl makes a"
        " trace from it",
        MISUSED,
    )


def _check_plot() -> None:
    try:
        import llm_cache_mem.bench.charts  # noqa: F401
    except ImportError as exc:
        raise CommandFailed(str(exc), MISUSED) from None


def _write(document: "Document", html: str | None, plot: str | None) -> None:
    if html is not None:
        from llm_cache_mem.bench.html import render

        with replacing(html, force=True) as file:
            file.write(render(document).encode())
        typer.echo(f"wrote {html}", err=True)
    if plot is not None:
        from llm_cache_mem.bench.charts import save_png

        for path in save_png(document, Path(plot)):
            typer.echo(f"wrote {path}", err=True)


@contextmanager
def _progress(trace: "Trace") -> Iterator[Callable[[], object] | None]:
    """Show a progress bar if stderr is a terminal: the share of the file read, and the number of
    calls."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    calls = 0
    columns = (TextColumn("{task.fields[calls]:,} calls"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("simulating", total=trace.size, calls=0)

        def step() -> None:
            nonlocal calls
            calls += 1
            if not calls % 1000:
                bar.update(task, completed=trace.bytes_read, calls=calls)

        yield step
