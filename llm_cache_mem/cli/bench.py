"""The commands of the benchmark: what caches save on a trace, traces of your own, and the same question measured for real."""

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from llm_cache_mem.cli.input import MISUSED, CommandFailed, seconds_in
from llm_cache_mem.cli.shared import AsJson, print_json, report

if TYPE_CHECKING:
    from llm_cache_mem.bench.clients import Rule
    from llm_cache_mem.bench.live import Plan
    from llm_cache_mem.bench.readers import Trace
    from llm_cache_mem.bench.report import Document
    from llm_cache_mem.pricing import Price, Pricer

__all__ = ["app"]

_RUN = "run"


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
    help="What an exact cache in the client, the provider's prompt cache, and both save. bench TRACE is bench run TRACE.",
)

_EXAMPLES = """\b
Examples:
  llm-cache-mem bench trace.jsonl.gz
  llm-cache-mem bench trace.jsonl --max-size 256 --max-size 10000 --max-size none --ttl 5m --ttl 1h --ttl none
  llm-cache-mem bench RAGPulse/ --key question --policies --html report.html --plot pictures/
"""

_RECORD_EXAMPLES = """\b
Examples:
  llm-cache-mem bench record ./cache.db trace.jsonl && llm-cache-mem bench trace.jsonl --sort
  llm-cache-mem bench record recordings.jsonl trace.jsonl --salt-from TRACE_SALT
"""


_LIVE_EXAMPLES = """\b
Examples:
  llm-cache-mem bench live
  llm-cache-mem bench live anthropic --model claude-haiku-4-5 --calls 20
  llm-cache-mem bench live openai --model my-model --base-url http://127.0.0.1:8080/v1 --price 0,0 --yes
"""


@app.command(_RUN, epilog=_EXAMPLES)
def run(
    trace: Annotated[str, typer.Argument(metavar="TRACE", help="A file of JSON lines, gzipped or not, a folder of RAGPulse; - is stdin.")],
    max_size: Annotated[
        list[str] | None, typer.Option(metavar="N", help="Entries of the client cache; none: no limit. [default: 256]")
    ] = None,
    ttl: Annotated[
        list[str] | None, typer.Option(metavar="SPAN", help="How long its entries live: 5m, 1h, 7d, none. [default: 1h]")
    ] = None,
    coalesce: Annotated[bool, typer.Option(help="Whether a call joins one in flight for the same request.")] = True,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="lru|sieve", help="Which entry of a full client cache goes. [default: lru]")
    ] = None,
    policies: Annotated[
        bool, typer.Option("--policies", help="Also compare eviction policies with the best possible, at every --max-size.")
    ] = False,
    prompt_ttl: Annotated[
        list[str] | None, typer.Option(metavar="SPAN", help="How long the prompt cache lives; none: leave it out. [default: 5m and 1h]")
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(metavar="IN,OUT[,READ[,WRITE[,HOUR]]]", help="Dollars per million tokens. [default: 3,15,0.3,3.75,6]"),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Instead of --price: what genai-prices knows of this model.")] = None,
    format: Annotated[
        str | None, typer.Option(metavar="NAME", help="own, mooncake, ragpulse or sessions, where the first line does not tell.")
    ] = None,
    key: Annotated[
        str, typer.Option(metavar="NAME", help="RAGPulse: whole, no-system or question is what makes a request the same.")
    ] = "whole",
    on_error: Annotated[Literal["stop", "skip"], typer.Option(help="What to do at a bad line.")] = "stop",
    sort: Annotated[bool, typer.Option("--sort", help="The calls stand in no order: sort them first.")] = False,
    html: Annotated[str | None, typer.Option("--html", metavar="FILE", help="Write the report as one page, with charts.")] = None,
    plot: Annotated[str | None, typer.Option("--plot", metavar="FOLDER", help="Write its charts as pictures (extra plot).")] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a trace: hit rates, tokens, dollars and time that the caches save.

    The client cache is LLMCache itself under a simulated clock. --max-size and --ttl may be repeated: every pair is simulated.
    """
    from llm_cache_mem.bench.compare import DEFAULT_SIZES
    from llm_cache_mem.bench.readers import open_trace
    from llm_cache_mem.bench.report import build
    from llm_cache_mem.bench.simulate import DEFAULT_LIFETIMES, Simulation

    rules = _rules(max_size, ttl, policy, coalesce)
    lifetimes = DEFAULT_LIFETIMES if prompt_ttl is None else tuple(span for span in map(_span, prompt_ttl) if span is not None)
    prices = _price(price, model)
    if plot is not None:
        _check_plot()
    with open_trace(trace, format=format, on_error=on_error, key=key, sort=sort) as opened, _progress(opened) as step:
        opened.warn = lambda text: typer.echo(f"left out: {text}", err=True)
        simulation = Simulation(rules, lifetimes, keep_keys=policies).run(opened, step)
    if not simulation.census.calls:
        raise CommandFailed(f"{trace} holds no call")
    sizes = [rule.max_size for rule in rules if rule.max_size is not None] if max_size else DEFAULT_SIZES
    document = build(opened, simulation, prices, sorted(set(sizes)))
    _write(document, html, plot)
    if as_json:
        print_json(document)
        return
    from llm_cache_mem.bench.text import show

    show(document)


@app.command("record", epilog=_RECORD_EXAMPLES)
def record(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A store or a file of recordings: its URL or path.")],
    trace: Annotated[str, typer.Argument(metavar="TRACE", help="The trace to write; it must not exist.")],
    salt_variable: Annotated[
        str | None, typer.Option("--salt-from", metavar="VARIABLE", help="The environment variable that holds the salt; else it is random.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn what a store kept into a trace without a word of prompts or answers: digests, counts of tokens, times.

    Each entry is one call. Where the cache kept requests (LLMCache(keep_requests=True), or recordings), the blocks of the prompts are in
    the trace too, which the prompt cache is simulated on. Repeats are not in a store: to see those, record the running program, with
    LLMCache(on_event=TraceRecorder("trace.jsonl")) or TraceRecorder("trace.jsonl").wrap(client.messages.create).
    """
    from llm_cache_mem.bench.convert import convert
    from llm_cache_mem.bench.recorder import TraceRecorder
    from llm_cache_mem.cli.store import open_to_read

    salt = None if salt_variable is None else os.environ.get(salt_variable)
    if salt_variable is not None and not salt:
        raise CommandFailed(f"{salt_variable} is not in the environment", MISUSED)
    if os.path.exists(trace):
        raise CommandFailed(f"{trace} exists: a trace is recorded into a new file")
    with closing(open_to_read(store)) as reader, TraceRecorder(trace, salt=salt) as recorder:
        try:
            converted = convert(((found.key, found.entry) for found in reader.entries()), recorder)
        except BaseException:
            os.unlink(trace)
            raise
    counts = {"calls": converted.calls, "without_request": converted.without_request, "lost": recorder.lost}
    blind = f"; of {converted.without_request:,} the request was not kept" if converted.without_request else ""
    lost = f"; {recorder.lost:,} could not be written" if recorder.lost else ""
    report(as_json, counts, f"recorded {converted.calls:,} calls{blind}{lost}")


@app.command("live", epilog=_LIVE_EXAMPLES)
def live(
    provider: Annotated[
        Literal["local", "openai", "anthropic"], typer.Argument(help="Whom to ask: a small model on this machine, or a provider.")
    ] = "local",
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The provider's model.")] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="Who else speaks the provider's protocol.")] = None,
    calls: Annotated[int, typer.Option(min=2, max=10_000, help="Questions that each of the four ways is asked.")] = 12,
    repeats: Annotated[float, typer.Option(min=0.0, max=0.99, help="Share of them that were asked before.")] = 0.5,
    prefix_words: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Length of the common system prompt. [default: 1200; local: 120]")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, max=100_000, help="Length of an answer.")] = 32,
    price: Annotated[
        str | None, typer.Option(metavar="IN,OUT[,READ[,WRITE[,HOUR]]]", help="Dollars per million tokens; else what genai-prices knows.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure it: the same questions with no cache, the server's prompt cache, the client's cache, and both.

    A provider's key is taken from where its SDK looks for it. What it can cost at the most is shown before anything is asked.
    """
    from llm_cache_mem.bench.live import ARMS, plan_of, run, summary
    from llm_cache_mem.bench.models import NoModel, local, remote
    from llm_cache_mem.pricing import resolve

    if provider != "local" and model is None:
        raise CommandFailed(f"which model of {provider}? Give --model", MISUSED)
    words = prefix_words or (120 if provider == "local" else 1200)
    plan = plan_of(calls, repeats, words, max_tokens, secrets.token_hex(4))
    pricer = resolve(None if price is None else {model or "smollm2-135m-instruct": _price(price, None)})
    if provider == "local":
        opened = local()
    else:
        assert model is not None
        _agree(plan, model, pricer, yes)
        opened = remote(provider, model, base_url)
    try:
        with opened as target, _asking(len(ARMS) * calls) as step:
            found = run(plan, target.create, step)
    except (CommandFailed, NoModel):
        raise
    except Exception as exc:
        raise CommandFailed(f"{provider} could not be asked: {type(exc).__name__}{_status(exc)}") from exc
    rows = summary(found, target.model, pricer)
    document = {"target": target.title, **plan._asdict(), "prefix_words": words, "arms": rows}
    if as_json:
        print_json(document)
        return
    from llm_cache_mem.bench.text import show_live

    show_live(document)


def _agree(plan: "Plan", model: str, pricer: "Pricer", yes: bool) -> None:
    """Say what it can cost at the most, and ask; CommandFailed if nobody says yes."""
    from llm_cache_mem.bench.live import ARMS, most_tokens
    from llm_cache_mem.usage import Usage

    sent, received = most_tokens(plan)
    calls = len(ARMS) * plan.calls
    dollars = pricer(model, Usage(sent, received, cache_write_tokens=sent))
    bill = "nobody here knows for how many dollars" if dollars is None else f"for ${dollars:,.2f} at the most"
    what = f"{calls:,} calls of {model} at the most, {sent:,} tokens in and {received:,} out, {bill}"
    typer.echo(what, err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed("nobody is here to be asked whether to spend that: --yes does it", MISUSED)
    if not typer.confirm("Ask?", err=True):
        raise CommandFailed("nothing was asked")


def _status(exc: Exception) -> str:
    status = getattr(exc, "status_code", None)
    return f" {status}" if isinstance(status, int) else ""


@contextmanager
def _asking(total: int) -> Iterator[Callable[[str], object]]:
    """A bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)


def _check_plot() -> None:
    try:
        import llm_cache_mem.bench.plot  # noqa: F401
    except ImportError as exc:
        raise CommandFailed(str(exc), MISUSED) from None


def _write(document: "Document", html: str | None, plot: str | None) -> None:
    if html is not None:
        from llm_cache_mem.bench.page import page

        Path(html).write_text(page(document), encoding="utf-8")
        typer.echo(f"wrote {html}", err=True)
    if plot is not None:
        from llm_cache_mem.bench.plot import plot as draw

        for picture in draw(document, Path(plot)):
            typer.echo(f"wrote {picture}", err=True)


def _rules(sizes: list[str] | None, spans: list[str] | None, policies: list[str] | None, coalesce: bool) -> "list[Rule]":
    from llm_cache_mem.bench.clients import Rule

    chosen: list[Literal["lru", "sieve"]] = [_policy(policy) for policy in policies or ["lru"]]
    bounds = product(map(_size, sizes or ["256"]), map(_span, spans or ["1h"]))
    return [Rule(size, ttl, coalesce, policy) for size, ttl in bounds for policy in chosen]


def _size(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isascii() or not text.isdigit() or not int(text):
        raise CommandFailed(f"--max-size {text!r} is no number of entries: write 256, or none", MISUSED)
    return int(text)


def _policy(text: str) -> Literal["lru", "sieve"]:
    if text not in ("lru", "sieve"):
        raise CommandFailed(f"--policy {text!r}: write lru or sieve", MISUSED)
    return "lru" if text == "lru" else "sieve"


def _span(text: str) -> float | None:
    seconds = None if text == "none" else seconds_in(text)
    if seconds == 0:
        raise CommandFailed(f"{text!r} is no time to live: write 5m, 1h, 7d, or none", MISUSED)
    return seconds


def _price(text: str | None, model: str | None) -> "Price":
    from llm_cache_mem.bench.bill import DEFAULT_PRICE, price_of
    from llm_cache_mem.pricing import Price

    if text is not None and model is not None:
        raise CommandFailed("give --price or --model, not both", MISUSED)
    if model is not None:
        known = price_of(model)
        if known is None:
            raise CommandFailed(f"no price is known for {model!r}: give --price (genai-prices is the extra prices)", MISUSED)
        return known
    if text is None:
        return DEFAULT_PRICE
    try:
        numbers = [float(part) for part in text.split(",")]
        if not 2 <= len(numbers) <= len(Price._fields) or not all(0 <= number < 1e6 for number in numbers):
            raise ValueError
    except ValueError:
        raise CommandFailed(f"--price {text!r}: write two to five numbers, as in 3,15,0.3,3.75,6", MISUSED) from None
    return Price(*numbers)


@contextmanager
def _progress(trace: "Trace") -> Iterator[Callable[[], object] | None]:
    """A bar on stderr if that is a terminal: how much of the file is read, and how many calls that was."""
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
