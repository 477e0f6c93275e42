"""The commands that change a store, and the one that carries it elsewhere."""

import os
import sys
from contextlib import nullcontext
from time import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llm_cache_mem.cli.arguments import (
    MISUSED,
    BadInput,
    CommandFailed,
    seconds_in,
    url_and,
    url_of,
)
from llm_cache_mem.cli.output import (
    AsJson,
    Kind,
    Model,
    Namespace,
    Url,
    UrlFirst,
    count_of,
    in_utf8,
    opened,
    progress,
    reading,
    replacing,
    report,
)

if TYPE_CHECKING:
    from llm_cache_mem.cli.transfer import Import

__all__ = ["clear", "export", "import_", "prune"]

File = Annotated[
    str | None, typer.Argument(metavar="FILE", help="A file of JSON Lines; - is stdin or stdout.")
]


def prune(
    url: Url = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Also what was stored so long ago: 7d, 12h, 1h30m."),
    ] = None,
    namespace: Namespace = None,
    kind: Kind = None,
    model: Model = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many it would remove.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what has expired; --older-than adds to that, the other options narrow it down."""
    from llm_cache_mem.cli.store import Selection, open_for_changes

    age = None if older_than is None else seconds_in(older_than)
    selection = Selection(namespace, kind, model, expired=True, older_than=age)
    url = url_of(url)
    removed = 0
    with (
        reading(url, selection) as (_, entries),
        nullcontext() if dry_run else open_for_changes(url) as store,
    ):
        if store is not None and selection == Selection(expired=True):
            removed = store.purge()  # by an index, without reading them
        else:
            for found in entries:
                removed += store is None or store.delete(found.key, stored_at=found.entry.stored_at)
    report(
        as_json,
        {"removed": removed, "dry_run": dry_run},
        f"{'would remove' if dry_run else 'removed'} {count_of(removed)}",
    )


def clear(
    url: Url = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", callback=in_utf8, help='This namespace; "" is the default one.'
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All namespaces.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove every entry of a namespace, or all there are."""
    from llm_cache_mem.cli.store import Selection, open_for_changes

    if everything == (namespace is not None):
        raise CommandFailed("say what to remove: --namespace NAME, or --all", MISUSED)
    url, selection = url_of(url), Selection(namespace)
    with reading(url, selection) as (reader, _):
        count, name = reader.size(selection.prefix), reader.name
    if count and not yes:
        what = (
            f"{count_of(count)} of {'all namespaces' if everything else f'namespace {namespace!r}'}"
        )
        if not sys.stdin.isatty():
            raise CommandFailed(
                f"this would remove {what}, and nobody is here to be asked: --yes does it", MISUSED
            )
        if not typer.confirm(f"Remove {what} from {name}?", err=True):
            raise CommandFailed("nothing was removed")
    with open_for_changes(url) as store:
        removed = store.clear(selection.prefix)
    report(as_json, {"removed": removed}, f"removed {count_of(removed)}")


def export(
    url: UrlFirst = None,
    file: File = None,
    namespace: Namespace = None,
    kind: Kind = None,
    model: Model = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Write entries with their answers as JSON Lines, the least recently used first where that is
    known."""
    from llm_cache_mem.cli.jsonl import to_line
    from llm_cache_mem.cli.store import Selection

    url, target = url_and("FILE", url, file)
    count = 0
    with reading(url, Selection(namespace, kind, model)) as (reader, entries):
        if (
            reader.path is not None
            and os.path.exists(target)
            and os.path.samefile(target, reader.path)
        ):
            raise CommandFailed(f"{target} is the store itself", MISUSED)
        with (
            nullcontext(sys.stdout.buffer) if target == "-" else replacing(target, force=force)
        ) as out:
            for found in entries:
                out.write(to_line(found.key, found.entry, found.hidden_by))
                count += 1
            out.flush()
    typer.echo(f"exported {count_of(count)}", err=True)


def import_(
    url: UrlFirst = None,
    file: File = None,
    namespace: Annotated[
        str | None,
        typer.Option(metavar="NAME", callback=in_utf8, help="Put them all into this namespace."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace entries that are as new, or newer.")
    ] = False,
    on_error: Annotated[
        Literal["stop", "skip"], typer.Option(help="What to do at a line that is no entry.")
    ] = "stop",
    as_json: AsJson = False,
) -> None:
    """Read entries from JSON Lines, as export writes them, into a store, which is made if there is
    none."""
    from llm_cache_mem.cli.jsonl import numbered_lines
    from llm_cache_mem.cli.store import expires_on_server, open_for_changes
    from llm_cache_mem.cli.transfer import Import

    url, source = url_and("FILE", url, file)
    # At a clock of 0 nothing has expired, so that a file sweeps away nothing of what is brought:
    # replay reads at any age.
    now = time() if expires_on_server(url) else 0.0
    with (
        opened(source) as lines,
        open_for_changes(url, clock=time if now else lambda: 0.0) as store,
        progress("importing") as step,
    ):
        bringing = Import(store, namespace=namespace, overwrite=overwrite, now=now)
        for number, line in numbered_lines(lines):
            step()
            for problem in bringing.add(number, line):
                _bad_line(problem, bringing, on_error)
        for problem in bringing.flush():
            _bad_line(problem, bringing, on_error)
    counts = bringing.counts
    kept = f", kept {counts['kept']:,} that were as new or newer" if counts["kept"] else ""
    expired = f", left out {counts['expired']:,} that have expired" if counts["expired"] else ""
    skipped = f", skipped {counts['bad_lines']:,} bad lines" if counts["bad_lines"] else ""
    report(as_json, counts, f"imported {count_of(counts['imported'])}{kept}{expired}{skipped}")


def _bad_line(problem: str, bringing: "Import", on_error: str) -> None:
    if on_error == "stop":
        raise BadInput(
            f"{problem}; imported {count_of(bringing.counts['imported'])} before it (--on-error"
            " skip goes on)"
        )
    bringing.counts["bad_lines"] += 1
    typer.echo(problem, err=True)
