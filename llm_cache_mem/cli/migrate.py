"""``import --from KIND SOURCE DEST``: entries from other caches, recordings and traces."""

import os

import typer

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.cli.arguments import MISUSED, URL_VARIABLE, CommandFailed, seconds_in
from llm_cache_mem.cli.output import count_of, progress, report
from llm_cache_mem.cli.store import open_for_changes
from llm_cache_mem.migration.sources import SOURCES, UNKEYED, Moved, move

__all__ = ["KINDS", "bring"]

KINDS = ", ".join(SOURCES)


def bring(
    kind: str,
    source: str | None,
    destination: str | None,
    *,
    namespace: str | None,
    ttl: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import *source*, of this *kind*, into the store *destination*; with *dry_run*, only count."""
    if kind in UNKEYED:
        raise CommandFailed(f"{kind} cannot be imported: {UNKEYED[kind]}", MISUSED)
    if kind not in SOURCES:
        raise CommandFailed(f"unknown source {kind!r}; known are {KINDS}", MISUSED)
    destination = destination or os.environ.get(URL_VARIABLE)
    if not source or not (destination or dry_run):
        raise CommandFailed(f"give a SOURCE and a store: import --from {kind} SOURCE URL", MISUSED)
    seconds = None if ttl is None else seconds_in(ttl)
    if not dry_run:
        with open_for_changes(str(destination)):  # whose errors are those of every command
            pass
    backend = "memory" if dry_run else str(destination)
    try:
        with (
            LLMCache(
                backend=backend,
                max_size=None,
                ttl_seconds=seconds,
                namespace=namespace or "",
                strict=True,
            ) as cache,
            progress("importing") as step,
        ):
            moved = move(kind, source, cache, step)
    except ImportError as exc:
        raise CommandFailed(f"{exc}: pip install 'llm-cache-mem[migrate]'", MISUSED) from None
    _report(moved, dry_run=dry_run, as_json=as_json)


def _report(moved: Moved, *, dry_run: bool, as_json: bool) -> None:
    skipped = dict(moved.skipped.most_common())
    counts = {"imported": moved.imported, "present": moved.present, "skipped": skipped}
    would = "would import" if dry_run else "imported"
    present = f", {moved.present:,} were there already" if moved.present else ""
    report(as_json, counts, f"{would} {count_of(moved.imported)}{present}")
    for reason, number in skipped.items():
        typer.echo(f"skipped {number:,}: {reason}", err=True)
