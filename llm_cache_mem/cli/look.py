"""The commands that look: nothing in the store changes by them, not even the order of use."""

import json
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from heapq import nlargest
from itertools import chain
from time import time
from typing import Annotated

import typer

from llm_cache_mem._util.terminal import visible
from llm_cache_mem.cli.arguments import (
    MISUSED,
    AsJson,
    CommandFailed,
    Ignore,
    Key,
    Kind,
    Model,
    Namespace,
    RequestFile,
    Url,
    UrlFirst,
    in_utf8,
    parse_json,
    request_in,
    seconds_in,
    url_and,
    url_of,
)
from llm_cache_mem.cli.output import print_json
from llm_cache_mem.cli.report import Summary
from llm_cache_mem.cli.store import Reader, Selection, reading
from llm_cache_mem.keys import digest as keys
from llm_cache_mem.stores.listing import Found, beginning, describe
from llm_cache_mem.values.encryption import new_key

__all__ = ["key", "keygen", "list_", "show", "stats", "the_one"]


class Sort(StrEnum):
    """Which entries a list begins with; size, cost and hits have the largest first."""

    newest = "newest"
    oldest = "oldest"
    size = "size"
    cost = "cost"
    hits = "hits"


_RANK: dict[Sort, Callable[[Found], float]] = {
    Sort.newest: lambda found: found.entry.stored_at,
    Sort.oldest: lambda found: -found.entry.stored_at,
    Sort.size: lambda found: found.entry.size,
    Sort.cost: lambda found: found.entry.cost_usd or 0.0,
    Sort.hits: lambda found: found.hits.hits if found.hits is not None else 0,
}
_CANDIDATES = 10
_DIGEST_LENGTH = 64
_OVER_HTTP = (
    "; the key of a request that was sent over HTTP also has http.base_url, http.path and the"
    " headers that count: `llm-cache-mem why` finds it by its body"
)


def stats(
    url: Url = None,
    namespace: Namespace = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read every entry and count unreadable ones.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Summarize a store: calls avoided, entries, tokens and dollars.

    Calls are those of all processes that share it, at most a minute ago.
    """
    summary, now = Summary(), time()
    selection = Selection(namespace, answers=True)
    with reading(url_of(url), selection) as (reader, entries):
        parts = None if check else reader.parts()
        for names, part in parts or ():
            if namespace in (None, names.namespace) and names.kind != selection.but:
                summary.add_part(names.namespace, names.kind, part)
        for found in entries if parts is None else ():
            summary.add(describe(found, now))
        totals = reader.totals()
    if totals is not None and namespace is not None:
        totals = totals.of(namespace)
    document = {"store": reader.name, "unreadable": reader.unreadable} | summary.as_dict()
    document["totals"] = None if totals is None else totals.as_dict()
    if as_json:
        print_json(document)
        return
    from llm_cache_mem.cli.render import show_stats

    show_stats(document, now)


def list_(
    url: Url = None,
    namespace: Namespace = None,
    kind: Kind = None,
    model: Model = None,
    expired: Annotated[bool, typer.Option("--expired", help="Only expired entries.")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Only entries stored in the last 1h, 7d, …")
    ] = None,
    grep: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            callback=in_utf8,
            help="Only entries with this text in the key, the model or the stored request.",
        ),
    ] = None,
    sort: Annotated[
        Sort,
        typer.Option(metavar="ORDER", help="Which come first: newest, oldest, size, cost or hits."),
    ] = Sort.newest,
    limit: Annotated[
        int, typer.Option(metavar="N", min=0, help="How many to show; 0 is all.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """List entries, the newest first.

    With model, age, expiry, size, hits, tokens, cost and, where requests are stored, the beginning
    of the prompt.
    """
    now = time()
    span = None if since is None else seconds_in(since)
    selection = Selection(namespace, kind, model, expired, since=span, text=grep, answers=True)
    with reading(url_of(url), selection) as (reader, entries):
        if sort is Sort.hits:
            if reader.totals() is None:
                raise CommandFailed(f"{reader.name} does not count the hits of entries", MISUSED)
            entries = reader.with_hits(entries)
        listed = reader.newest(selection, limit) if limit and sort is Sort.newest else None
        total, some = listed if listed is not None else _first(entries, limit, sort)
        rows = [
            describe(found, now) | {"prompt": beginning(found.entry)}
            for found in (some if sort is Sort.hits else reader.with_hits(some))
        ]
    if as_json:
        print_json({"total": total, "entries": rows})
        return
    from llm_cache_mem.cli.render import show_list

    show_list(rows, total, now)


def _first(entries: Iterator[Found], limit: int, sort: Sort) -> tuple[int, list[Found]]:
    """How many *entries* there are, and the first *limit* of them in the order of *sort*."""
    total = 0

    def counted() -> Iterator[Found]:
        nonlocal total
        for found in entries:
            total += 1
            yield found

    rows = nlargest(limit or sys.maxsize, counted(), key=_RANK[sort])
    return total, rows


def show(
    url: UrlFirst = None,
    key: Key = None,
    namespace: Namespace = None,
    value: Annotated[
        bool, typer.Option("--value", help="Show the answer too, as stored JSON.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one entry.

    With its request where requests are stored, and its answer with --value.
    """
    url, wanted = url_and("KEY", url, key)
    now = time()
    with reading(url, Selection()) as (reader, _):
        (found,) = reader.with_hits([the_one(reader, wanted, namespace)])
    row, parts = describe(found, now), {}
    if found.entry.request is not None:
        parts["request"] = parse_json(found.entry.request)
    if value:
        parts["value"] = parse_json(found.entry.payload.json())
    if as_json:
        print_json(row | parts)
        return
    from llm_cache_mem.cli.render import show_entry

    show_entry(row, now)
    for name, part in parts.items():
        typer.echo(f"\n{name}")
        for line in json.dumps(part, indent=2, ensure_ascii=False).split("\n"):
            typer.echo(visible(line))


def key(
    file: RequestFile = "-",
    ignore: Ignore = None,
    canonical: Annotated[
        bool,
        typer.Option("--canonical", help="Print the text that is hashed instead of its digest."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the key of a request.

    The hex SHA-256 of its canonical JSON, as LLMCache.key returns it.
    """
    messages, params = request_in(file)
    names = keys.DEFAULT_IGNORE if ignore is None else ignore
    params = {name: value for name, value in params.items() if name not in names}
    digest, text = keys.digest(messages, params), keys.canonical(messages, params)
    if as_json:
        print_json({"key": digest} | ({"canonical": text} if canonical else {}))
    else:
        typer.echo(text if canonical else digest)


def keygen() -> None:
    """Generate an encryption key.

    For LLM_CACHE_MEM_KEY or LLMCache(encryption_key=...).
    """
    typer.echo(new_key())


def the_one(reader: Reader, wanted: str, namespace: str | None) -> Found:
    """The entry whose key or digest is *wanted*, or else the only one that begins so."""
    exact, similar = [], []
    hidden = (
        [hide(wanted) for hide in reader.envelope.digests] if len(wanted) == _DIGEST_LENGTH else []
    )
    parts = (wanted, *hidden) if wanted.isascii() else ()  # as all keys are
    for found in chain.from_iterable(reader.entries(part=part) for part in dict.fromkeys(parts)):
        if namespace not in (None, found.parts.namespace):
            continue
        digest = found.key.rpartition(":")[2]
        if wanted in (found.key, digest) or digest in hidden:
            exact.append(found)
        elif found.key.startswith(wanted) or digest.startswith((wanted, *hidden)):
            similar.append(found)
        if len(exact) + len(similar) > _CANDIDATES:
            break
    candidates = exact or similar
    if not candidates:
        hint = _OVER_HTTP if len(wanted) == _DIGEST_LENGTH else ""
        raise CommandFailed(f"no entry has a key that begins with {wanted!r}{hint}")
    if len(candidates) > 1:
        keys = "".join(f"\n  {visible(found.key)}" for found in candidates[:_CANDIDATES])
        more = "\n  ..." if len(candidates) > _CANDIDATES else ""
        raise CommandFailed(f"more than one key begins with {wanted!r}; which?{keys}{more}")
    return candidates[0]
