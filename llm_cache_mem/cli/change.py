"""The commands that remove entries or make them invalid: ``prune``, ``delete``, ``clear``,
``invalidate``."""

import sys
from collections import deque
from contextlib import nullcontext
from itertools import islice
from typing import Annotated

import typer

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.cli.arguments import (
    MISUSED,
    AsJson,
    CommandFailed,
    Key,
    Kind,
    Model,
    Namespace,
    Url,
    UrlFirst,
    in_utf8,
    seconds_in,
    url_and,
    url_of,
)
from llm_cache_mem.cli.look import the_one
from llm_cache_mem.cli.output import count_of, report
from llm_cache_mem.cli.store import Selection, open_for_changes, reading
from llm_cache_mem.cli.store import prune as prune_at_once
from llm_cache_mem.stores.base import counting

__all__ = ["clear", "delete", "invalidate", "prune"]

_LOOKED_AT = 64  # entries: those of another encryption key hide their names


def prune(
    url: Url = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Also entries older than this: 7d, 12h, 1h30m."),
    ] = None,
    namespace: Namespace = None,
    kind: Kind = None,
    model: Model = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would be removed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove expired entries.

    --older-than adds older ones; the other options narrow it down.
    """
    age = None if older_than is None else seconds_in(older_than)
    selection = Selection(namespace, kind, model, expired=True, older_than=age)
    url = url_of(url)
    removed = 0
    with (
        reading(url, selection) as (reader, entries),
        nullcontext() if dry_run else open_for_changes(url) as store,
    ):
        at_once = prune_at_once(store or reader.store, selection, dry_run=dry_run)
        if at_once is not None:
            removed = at_once
        elif store is not None and selection == Selection(expired=True):
            removed = store.purge()
        else:
            for found in entries:
                removed += store is None or store.delete(found.key, stored_at=found.entry.stored_at)
    report(
        as_json,
        {"removed": removed, "dry_run": dry_run},
        f"{'would remove' if dry_run else 'removed'} {count_of(removed)}",
    )


def delete(
    url: UrlFirst = None,
    key: Key = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Delete one entry, such as a wrong answer.

    Asks nothing if exactly one entry has this key; a beginning of several keys deletes none.
    """
    url, wanted = url_and("KEY", url, key)
    with reading(url, Selection()) as (reader, _):
        found = the_one(reader, wanted, namespace)
    with open_for_changes(url) as store:
        removed = int(store.delete(found.key))
    report(as_json, {"removed": removed, "key": found.key}, f"removed {count_of(removed)}")


def clear(
    url: Url = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", callback=in_utf8, help='This namespace; "" is the default one.'
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All namespaces.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove all entries of a namespace, or of the store.

    --all also resets the totals that stats shows.
    """
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
                f"this would remove {what}, and there is no terminal to confirm it: use --yes",
                MISUSED,
            )
        if not typer.confirm(f"Remove {what} from {name}?", err=True):
            raise CommandFailed("nothing was removed")
    with open_for_changes(url) as store:
        removed = store.clear(selection.prefix)
        counted = counting(store) if everything else None
        if counted is not None:
            counted.reset_counts()
    report(as_json, {"removed": removed}, f"removed {count_of(removed)}")


def invalidate(
    url: UrlFirst = None,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A document or another entity: doc:handbook."),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(metavar="NAME", callback=in_utf8, help="Only in this namespace, not in all."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Invalidate the answers that depend on NAME.

    Takes effect immediately, in every process.
    """
    url, name = url_and("NAME", url, name)
    with reading(url, Selection()):
        pass  # there is a store, and it can be read
    with open_for_changes(url) as store:
        cache = LLMCache(backend=store, namespace=namespace or "")
        try:
            found = cache.invalidate(name)
        except ValueError as exc:
            raise CommandFailed(str(exc), MISUSED) from None
    if not found:
        with reading(url, Selection()) as (reader, _):
            deque(islice(reader.entries(), _LOOKED_AT), maxlen=0)
            if reader.unreadable:
                raise CommandFailed(f"it cannot be told whether anything depends on {name}")
    report(
        as_json,
        {"invalidated": found},
        f"invalidated what depends on {name}" if found else f"nothing depends on {name}",
    )
