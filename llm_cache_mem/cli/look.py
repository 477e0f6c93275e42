"""The commands that look: nothing in the store changes by them, not even the order of use."""

import json
import sys
from collections.abc import Iterator
from heapq import nlargest
from itertools import chain
from time import time
from typing import Annotated, Any

import typer

from llm_cache_mem._util.terminal import visible
from llm_cache_mem.cli.arguments import (
    AsJson,
    CommandFailed,
    Ignore,
    Kind,
    Model,
    Namespace,
    RequestFile,
    Url,
    UrlFirst,
    parse_json,
    request_in,
    url_and,
    url_of,
)
from llm_cache_mem.cli.output import print_json
from llm_cache_mem.cli.report import Summary
from llm_cache_mem.cli.store import Reader, Selection, reading
from llm_cache_mem.keys import digest as keys
from llm_cache_mem.stores.listing import Found, describe
from llm_cache_mem.values.encryption import new_key

__all__ = ["key", "keygen", "list_", "show", "stats"]

_CANDIDATES = 10
_DIGEST_LENGTH = 64


def stats(
    url: Url = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read every entry, and count what cannot be read.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What is in a store: entries, bytes, tokens and dollars, by namespace, kind and model."""
    summary, now = Summary(), time()
    with reading(url_of(url), Selection()) as (reader, entries):
        parts = None if check else reader.parts()
        for names, part in parts or ():
            summary.add_part(names.namespace, names.kind, part)
        for found in entries if parts is None else ():
            summary.add(describe(found, now))
    document = {"store": reader.name, "unreadable": reader.unreadable} | summary.as_dict()
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
    expired: Annotated[bool, typer.Option("--expired", help="Only what has expired.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="How many, the newest first; 0 is all.")] = 50,
    as_json: AsJson = False,
) -> None:
    """The entries, the newest first: key, model, age, expiry, size, tokens and cost of each."""
    now, total = time(), 0

    def described() -> Iterator[dict[str, Any]]:
        nonlocal total
        for found in entries:
            total += 1
            yield describe(found, now)

    selection = Selection(namespace, kind, model, expired)
    with reading(url_of(url), selection) as (reader, entries):
        newest = reader.newest(selection, limit) if limit else None
        if newest is not None:
            total, rows = newest[0], [describe(found, now) for found in newest[1]]
        else:
            rows = nlargest(limit or sys.maxsize, described(), key=lambda row: row["stored_at"])
    if as_json:
        print_json({"total": total, "entries": rows})
        return
    from llm_cache_mem.cli.render import show_list

    show_list(rows, total, now)


def show(
    url: UrlFirst = None,
    key: Annotated[
        str | None,
        typer.Argument(metavar="KEY", help="A key or its digest, or what one of them begins with."),
    ] = None,
    value: Annotated[
        bool, typer.Option("--value", help="The answer too, as the JSON that is stored.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What is known about one entry; its answer only with --value."""
    url, wanted = url_and("KEY", url, key)
    now = time()
    with reading(url, Selection()) as (reader, _):
        found = _the_one(reader, wanted)
    row = describe(found, now)
    answer = parse_json(found.entry.payload.json()) if value else None
    if as_json:
        print_json(row | ({"value": answer} if value else {}))
        return
    from llm_cache_mem.cli.render import show_entry

    show_entry(row, now)
    if value:
        typer.echo()
        for line in json.dumps(answer, indent=2, ensure_ascii=False).split("\n"):
            typer.echo(visible(line))


def key(
    file: RequestFile = "-",
    ignore: Ignore = None,
    canonical: Annotated[
        bool, typer.Option("--canonical", help="The text that is hashed, instead of its digest.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The key of a request, as LLMCache.key gives it: the hex SHA-256 of its canonical JSON."""
    messages, params = request_in(file)
    names = keys.DEFAULT_IGNORE if ignore is None else ignore
    params = {name: value for name, value in params.items() if name not in names}
    digest, text = keys.digest(messages, params), keys.canonical(messages, params)
    if as_json:
        print_json({"key": digest} | ({"canonical": text} if canonical else {}))
    else:
        typer.echo(text if canonical else digest)


def keygen() -> None:
    """Make an encryption key, for LLM_CACHE_MEM_KEY or LLMCache(encryption_key=...)."""
    typer.echo(new_key())


def _the_one(reader: Reader, wanted: str) -> Found:
    """The entry whose key or digest is *wanted*, or else the only one that begins so."""
    exact, similar = [], []
    hidden = (
        [hide(wanted) for hide in reader.envelope.digests] if len(wanted) == _DIGEST_LENGTH else []
    )
    parts = (wanted, *hidden) if wanted.isascii() else ()  # as all keys are
    for found in chain.from_iterable(reader.entries(part=part) for part in dict.fromkeys(parts)):
        digest = found.key.rpartition(":")[2]
        if wanted in (found.key, digest) or digest in hidden:
            exact.append(found)
        elif found.key.startswith(wanted) or digest.startswith((wanted, *hidden)):
            similar.append(found)
        if len(exact) + len(similar) > _CANDIDATES:
            break
    candidates = exact or similar
    if not candidates:
        raise CommandFailed(f"no entry has a key that begins with {wanted!r}")
    if len(candidates) > 1:
        keys = "".join(f"\n  {visible(found.key)}" for found in candidates[:_CANDIDATES])
        more = "\n  ..." if len(candidates) > _CANDIDATES else ""
        raise CommandFailed(f"more than one key begins with {wanted!r}; which?{keys}{more}")
    return candidates[0]
