"""``llm-cache-mem bench live``: the same questions with no cache, the server's, the client's and
both, measured for real."""

import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llm_cache_mem.cli.bench_options import prices_in
from llm_cache_mem.cli.input import MISUSED, CommandFailed
from llm_cache_mem.cli.shared import AsJson, print_json

if TYPE_CHECKING:
    from llm_cache_mem.accounting.pricing import Pricer
    from llm_cache_mem.bench.live import Plan

__all__ = ["EXAMPLES", "live"]

EXAMPLES = """\b
Examples:
  llm-cache-mem bench live
  llm-cache-mem bench live anthropic --model claude-haiku-4-5 --calls 20
  llm-cache-mem bench live openai --model my-model --base-url http://localhost:8080/v1 --price 0,0
"""


def live(
    provider: Annotated[
        Literal["local", "openai", "anthropic"],
        typer.Argument(help="Whom to ask: a small model on this machine, or a provider."),
    ] = "local",
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The provider's model.")] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Who else speaks the provider's protocol.")
    ] = None,
    calls: Annotated[
        int, typer.Option(min=2, max=10_000, help="Questions that each of the four ways is asked.")
    ] = 12,
    repeats: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Share of them that were asked before.")
    ] = 0.5,
    prefix_words: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="Length of the common system prompt. [default: 1200; local: 120]",
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, max=100_000, help="Length of an answer.")] = 32,
    price: Annotated[
        str | None,
        typer.Option(
            metavar="IN,OUT[,READ[,WRITE[,HOUR]]]",
            help="Dollars per million tokens; else what genai-prices knows.",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure it: the same questions with no cache, the server's prompt cache, the client's cache,
    and both.

    A provider's key is taken from where its SDK looks for it. What it can cost at the most is shown
    before anything is asked.
    """
    from llm_cache_mem.accounting.pricing import resolve
    from llm_cache_mem.bench.live import ARMS, NoModel, local, plan_of, remote, run, summary

    if provider != "local" and model is None:
        raise CommandFailed(f"which model of {provider}? Give --model", MISUSED)
    words = prefix_words or (120 if provider == "local" else 1200)
    plan = plan_of(calls, repeats, words, max_tokens, secrets.token_hex(4))
    pricer = resolve(
        None if price is None else {model or "smollm2-135m-instruct": prices_in(price, None)}
    )
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
        raise CommandFailed(
            f"{provider} could not be asked: {type(exc).__name__}{_status(exc)}"
        ) from exc
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
    from llm_cache_mem.responses.usage import Usage

    sent, received = most_tokens(plan)
    calls = len(ARMS) * plan.calls
    dollars = pricer(model, Usage(sent, received, cache_write_tokens=sent))
    bill = (
        "nobody here knows for how many dollars"
        if dollars is None
        else f"for ${dollars:,.2f} at the most"
    )
    what = (
        f"{calls:,} calls of {model} at the most, {sent:,} tokens in and {received:,} out, {bill}"
    )
    typer.echo(what, err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(
            "nobody is here to be asked whether to spend that: --yes does it", MISUSED
        )
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

    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)
