"""``llm-cache-mem bench live``: measure the same questions without a cache, with the server's, with
the client's and with both."""

import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llm_cache_mem.cli.arguments import MISUSED, AsJson, CommandFailed
from llm_cache_mem.cli.bench_options import prices_in
from llm_cache_mem.cli.output import print_json

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
        typer.Argument(help="A small model on this machine, or a provider."),
    ] = "local",
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The provider's model.")] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Another server with the provider's API.")
    ] = None,
    calls: Annotated[
        int,
        typer.Option(metavar="N", min=2, max=10_000, help="Questions for each of the four ways."),
    ] = 12,
    repeats: Annotated[
        float,
        typer.Option(metavar="N", min=0.0, max=0.99, help="Share of them that were asked before."),
    ] = 0.5,
    prefix_words: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=100_000,
            help="Length of the common system prompt. [default: 1200; local: 120]",
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, max=100_000, help="Length of an answer.")
    ] = 32,
    price: Annotated[
        str | None,
        typer.Option(
            metavar="PRICES",
            help=(
                "Dollars per million tokens, with commas: input, output, prompt-cache reads,"
                " writes, an hour of storage; by default from genai-prices."
            ),
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before spending money.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure real calls: the same questions without a cache, with the server's prompt cache, with
    the client's cache, and with both.

    The SDK finds the provider's API key itself. The maximum cost is shown before the first call.
    """
    from llm_cache_mem.accounting.pricing import resolve
    from llm_cache_mem.bench.live import (
        ARMS,
        ModelUnavailable,
        local_model,
        make_plan,
        provider_model,
        run,
        summary,
    )

    if provider != "local" and model is None:
        raise CommandFailed(f"which model of {provider}? Give --model", MISUSED)
    words = prefix_words or (120 if provider == "local" else 1200)
    plan = make_plan(calls, repeats, words, max_tokens, secrets.token_hex(4))
    pricer = resolve(
        None if price is None else {model or "smollm2-135m-instruct": prices_in(price, None)}
    )
    if provider == "local":
        opened = local_model()
    else:
        assert model is not None
        _agree(plan, model, pricer, yes)
        opened = provider_model(provider, model, base_url)
    try:
        with opened as target, _asking(len(ARMS) * calls) as step:
            found = run(plan, target.create, step)
    except (CommandFailed, ModelUnavailable):
        raise
    except Exception as exc:
        raise CommandFailed(
            f"the call to {provider} failed: {type(exc).__name__}{_status(exc)}"
        ) from exc
    rows = summary(found, target.model, pricer)
    document = {"target": target.title, **plan._asdict(), "prefix_words": words, "arms": rows}
    if as_json:
        print_json(document)
        return
    from llm_cache_mem.bench.text import show_live

    show_live(document)


def _agree(plan: "Plan", model: str, pricer: "Pricer", yes: bool) -> None:
    """Show the maximum cost and ask for confirmation; CommandFailed without it."""
    from llm_cache_mem.bench.live import ARMS, most_tokens
    from llm_cache_mem.responses.usage import Usage

    sent, received = most_tokens(plan)
    calls = len(ARMS) * plan.calls
    dollars = pricer(model, Usage(sent, received, cache_write_tokens=sent))
    bill = "at an unknown price" if dollars is None else f"for ${dollars:,.2f} at the most"
    what = (
        f"{calls:,} calls of {model} at the most, {sent:,} tokens in and {received:,} out, {bill}"
    )
    typer.echo(what, err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(
            "confirm the cost with --yes, as there is no terminal to ask on", MISUSED
        )
    if not typer.confirm("Make these calls?", err=True):
        raise CommandFailed("not confirmed; no call was made")


def _status(exc: Exception) -> str:
    status = getattr(exc, "status_code", None)
    return f" {status}" if isinstance(status, int) else ""


@contextmanager
def _asking(total: int) -> Iterator[Callable[[str], object]]:
    """Show a progress bar if stderr is a terminal."""
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
