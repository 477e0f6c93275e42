"""``import --from KIND SOURCE DEST``: entries from other caches, recordings and traces."""

import os
from contextlib import nullcontext
from importlib import import_module
from typing import Any, Final

import typer

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.cli.arguments import (
    FAILED,
    MISUSED,
    BadInput,
    CommandFailed,
    parse_json,
    seconds_in,
)
from llm_cache_mem.cli.output import count_of, progress, report
from llm_cache_mem.cli.store import leaving_no_empty_file, open_for_changes
from llm_cache_mem.migration.sources import SOURCES, Form, Moved, move
from llm_cache_mem.stores.urls import URL_VARIABLE

__all__ = ["KINDS", "bring"]

KINDS = ", ".join(SOURCES)
_EXTRAS: Final[dict[str, str]] = dict.fromkeys(("httpx", "yaml"), "'llm-cache-mem[migrate]'")


def bring(
    kind: str,
    source: str | None,
    destination: str | None,
    *,
    namespace: str | None,
    ttl: str | None,
    request: str | None,
    sdk: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import *source*, of this *kind*, into the store *destination*; with *dry_run*, only count.
    *request* is JSON."""
    if kind not in SOURCES:
        raise CommandFailed(f"unknown source {kind!r}; known are {KINDS}", MISUSED)
    destination = destination or os.environ.get(URL_VARIABLE)
    if not source or not (destination or dry_run):
        raise CommandFailed(f"give a SOURCE and a store: import --from {kind} SOURCE URL", MISUSED)
    seconds = None if ttl is None else seconds_in(ttl)
    rest = None if request is None else _rest(kind, request)
    form = _completion_class() if sdk == "openai" else lambda answer: answer
    with nullcontext() if dry_run else leaving_no_empty_file(str(destination)):
        if not dry_run:
            with open_for_changes(str(destination)):  # whose errors are those of every command
                pass
        cache = LLMCache(
            backend="memory" if dry_run else str(destination),
            max_size=None,
            ttl_seconds=seconds,
            namespace=namespace or "",
            strict=True,
        )
        try:
            with cache, progress("importing") as step:
                moved = move(kind, source, cache, step, request=rest, form=form)
        except ImportError as exc:
            raise CommandFailed(_how_to_install(exc), MISUSED) from None
    _report(moved, dry_run=dry_run, as_json=as_json)
    if not moved.imported + moved.present:
        raise typer.Exit(FAILED)


def _rest(kind: str, text: str) -> dict[str, Any]:
    """What --request says of all requests."""
    if kind != "gptcache":
        raise CommandFailed("--request is only for --from gptcache", MISUSED)
    try:
        found = parse_json(text.encode("utf-8", "surrogateescape"))
    except BadInput:
        found = None
    request: dict[str, Any] = found if isinstance(found, dict) else {}
    valid = isinstance(request.get("model"), str)
    if not valid or not isinstance(request.get("messages", []), list):
        raise CommandFailed('--request is JSON such as {"model": "gpt-5-mini"}', MISUSED)
    return request


def _completion_class() -> Form:
    try:
        made: Form = import_module("openai.types.chat").ChatCompletion.model_validate
    except ModuleNotFoundError as exc:
        raise CommandFailed(_how_to_install(exc), MISUSED) from None
    return made


def _how_to_install(exc: ImportError) -> str:
    if "pip install" in str(exc):
        return str(exc)
    package = exc.name or "langchain-core"
    return f"{exc}: pip install {_EXTRAS.get(package, package)}"


def _report(moved: Moved, *, dry_run: bool, as_json: bool) -> None:
    skipped = dict(moved.skipped.most_common())
    counts = {"imported": moved.imported, "present": moved.present, "skipped": skipped}
    would = "would import" if dry_run else "imported"
    present = f", {moved.present:,} were there already" if moved.present else ""
    report(as_json, counts, f"{would} {count_of(moved.imported)}{present}")
    for reason, number in skipped.items():
        typer.echo(f"skipped {number:,}: {reason}", err=True)
    if not (moved.imported or moved.present or skipped):
        typer.echo("no records were found in the source", err=True)
