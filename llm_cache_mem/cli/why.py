"""The command ``why``: how a request, or a whole run, differs from the stored ones.
Nothing in the store changes by it."""

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Annotated, Any

import typer

from llm_cache_mem._util.terminal import visible
from llm_cache_mem.cli.arguments import (
    MISUSED,
    AsJson,
    BadInput,
    CommandFailed,
    Ignore,
    Kind,
    RequestFile,
    Url,
    in_utf8,
    opened,
    parse_json,
    request_in,
    url_of,
)
from llm_cache_mem.cli.output import print_json, progress
from llm_cache_mem.cli.store import Selection, reading
from llm_cache_mem.diagnostics.explain import Explanation, StoredRequest, explain
from llm_cache_mem.diagnostics.redaction import Redaction
from llm_cache_mem.diagnostics.survey import survey
from llm_cache_mem.keys.digest import DEFAULT_IGNORE
from llm_cache_mem.keys.request import Keyer
from llm_cache_mem.stores.listing import Found

__all__ = ["why"]

_OF_TRANSPORT = "http."  # in front of what a body does not say: the base URL, the path


def why(
    url: Url = None,
    file: RequestFile = "-",
    namespace: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            callback=in_utf8,
            help="Search this namespace; namespaces do not share entries.",
        ),
    ] = "",
    kind: Kind = None,
    ignore: Ignore = None,
    whole_run: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Find the fields that cost the most hits in a store or a file of JSON Lines.",
        ),
    ] = False,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD", help="With --all: the field of each line that holds the request."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="With --all: a param that decides the answer; may be repeated."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain why a request misses.

    Shows the nearest stored request and each field that differs, with secrets removed.

    Needs stored requests: those of a jsonl store, or of caches with keep_requests=True. With --all:
    over a whole run, the fields that cost most hits, and the key_fn that would win them back; names
    and patterns only, nothing of what was asked.
    """

    if whole_run:
        if file != "-":
            raise CommandFailed("--all takes a store or a file, not a request besides", MISUSED)
        _survey(
            url_of(url),
            Selection(namespace, kind, answers=True),
            at,
            {"ignore": ignore, "keep": keep or ()},
            as_json,
        )
        return
    if at is not None or keep is not None:
        raise CommandFailed("--at and --keep belong to --all", MISUSED)

    url = url_of(url)
    asked, digest = _read(file, kind or "", ignore)
    same: list[str] = []
    total = 0

    def requests(entries: Iterator[Found]) -> Iterator[StoredRequest]:
        nonlocal total
        for found in entries:
            total += 1
            if found.parts.digest in digests:
                same.append(found.key)
            request = found.entry.request
            yield StoredRequest(found.key, found.parts.kind, found.parts.sample or 0, request)

    selection = Selection(namespace, kind, answers=True)
    with reading(url, selection) as (reader, entries):
        digests = {digest, *(hide(digest) for hide in getattr(reader.envelope, "digests", ()))}
        found = explain(asked, requests(entries))
    if kind is not None and not total:
        raise CommandFailed(f"there are no entries of kind {kind!r} in {_where(selection)}")
    if same:
        found = found._replace(key=same[0], nearest=same[0], differences=(), state="stored")
    told = tuple(_told(found, asked))
    of_body = bool(told or not found.differences)
    if of_body:
        found = found._replace(differences=told)
    if as_json:
        print_json(found.as_dict())
    else:
        typer.echo(str(found) if of_body else _stored_over_http(found))


def _stored_over_http(found: Explanation) -> str:
    """What to say of a body whose nearest stored request differs only in where it was sent."""
    fields = ", ".join(f"{one.path}={one.sides()[0]}" for one in found.differences)
    return visible(
        f"a request with this body is stored, under {fields}: {found.nearest}\nIts key has these"
        " fields too, because it was sent over HTTP: add them to the request to compare all of it",
        lines=True,
    )


def _survey(
    source: str, selection: Selection, at: str | None, asked: dict[str, Any], as_json: bool
) -> None:

    of_lines = at is not None or _is_of_lines(source)
    listed = _requests_in_lines(source, at) if of_lines else _requests_in_store(source, selection)
    if asked["ignore"] is None:  # a cache keeps what it does not ignore
        asked = {**asked, "ignore": DEFAULT_IGNORE if of_lines else ()}
    found = {kind: survey(requests, **asked) for kind, requests in listed.items()}
    if as_json:
        print_json([{"kind": kind, **one.as_dict()} for kind, one in found.items()])
    else:
        typer.echo(
            "\n\n".join(
                f"{visible(kind)}: {one}" if len(found) > 1 else str(one)
                for kind, one in found.items()
            )
        )


def _is_of_lines(source: str) -> bool:
    """Whether it is a file of requests rather than a store: JSON lines, packed or not, that no
    store has written."""
    if source == "-":
        return True
    if not os.path.isfile(source):
        return False
    with _unpacked(source) as lines:
        first = next((line for line in lines if line.strip()), b"")[:1_000_000]
    return first.lstrip().startswith(b"{") and not first.startswith(b'{"key": ')


@contextmanager
def _unpacked(file: str) -> Iterator[IO[bytes]]:
    with opened(file) as stream:
        if file == "-" or stream.read(2) != b"\x1f\x8b":
            if file != "-":
                stream.seek(0)
            yield stream
            return
        stream.seek(0)
        with gzip.open(stream) as inner:
            yield inner  # type: ignore[misc]  # typeshed does not call it an IO[bytes]


def _requests_in_lines(file: str, at: str | None) -> dict[str, list[Any]]:
    found: list[Any] = []
    with _unpacked(file) as lines, progress("reading") as step:
        for number, line in enumerate(lines, 1):
            step()
            if not line.strip():
                continue
            try:
                row = parse_json(line)
                request = row if at is None else row[at]
            except BadInput as exc:
                raise BadInput(f"{file}, line {number}: {exc}") from None
            except (KeyError, TypeError):
                raise BadInput(f"{file}, line {number}: it has no {at!r}") from None
            if not isinstance(request, dict):
                raise BadInput(f"{file}, line {number}: the request is no JSON object")
            found.append(request)
    return {"": found}


def _requests_in_store(url: str, selection: Selection) -> dict[str, list[Any]]:
    """The stored requests, of each kind by itself: kinds do not answer one another."""
    found: dict[str, list[Any]] = {}
    total = 0
    with reading(url, selection) as (_, entries):
        for one in entries:
            total += 1
            if one.entry.request is not None:
                found.setdefault(one.parts.kind, []).append(parse_json(one.entry.request))
    if selection.kind is not None and not total:
        raise CommandFailed(
            f"there are no entries of kind {selection.kind!r} in {_where(selection)}"
        )
    if not found:
        raise CommandFailed(
            f"no entry (of {total:,}) of {_where(selection)} has its request stored:"
            " LLMCache(keep_requests=True) stores requests"
        )
    return found


def _where(selection: Selection) -> str:
    if selection.namespace:
        return f"namespace {selection.namespace!r}"
    return "the default namespace (--namespace names another)"


def _read(file: str, kind: str, ignore: list[str] | None) -> tuple[StoredRequest, str]:
    """The request in *file* and its digest."""

    messages, params = request_in(file)
    keyer = Keyer("", None, DEFAULT_IGNORE if ignore is None else ignore)
    digest = keyer.digest(messages, params)
    return StoredRequest(digest, kind, 0, Redaction().json(keyer.text(messages, params))), digest


def _told(found: Explanation, asked: StoredRequest) -> Iterator[Any]:
    """A body as it is sent says nothing of where it is sent; that is no difference."""
    whole = b'"http.' in (asked.request or b"")
    return (one for one in found.differences if whole or not one.path.startswith(_OF_TRANSPORT))
