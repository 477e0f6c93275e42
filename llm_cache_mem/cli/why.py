"""The command ``why``: what stands between a request and a stored answer. Nothing in the store changes by it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_cache_mem.cli.input import BadInput, parse_json, url_of
from llm_cache_mem.cli.shared import AsJson, Kind, Namespace, Url, opened, print_json, reading

if TYPE_CHECKING:
    from llm_cache_mem.cli.store import Found
    from llm_cache_mem.explain import Explanation, Kept

__all__ = ["why"]

_OF_TRANSPORT = "http."  # in front of what a body does not say: the base URL, the path


def why(
    url: Url = None,
    file: Annotated[str, typer.Argument(metavar="FILE", help='A JSON object: "messages" and all other parameters; - is stdin.')] = "-",
    namespace: Namespace = None,
    kind: Kind = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="No part of the request, as in LLMCache(ignore=...); may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Why a request misses: the nearest stored one and each field that differs, shortened, without secrets.

    Needs stored requests: those of a jsonl store, or of caches with keep_requests=True.
    """
    from llm_cache_mem.cli.store import Selection
    from llm_cache_mem.explain import Kept, explain

    url = url_of(url)
    asked, digest = _read(file, kind or "", ignore)
    same: list[str] = []

    def kept(entries: "Iterator[Found]") -> "Iterator[Kept]":
        for found in entries:
            if found.parts.digest in digests:
                same.append(found.key)
            request = found.entry.request
            yield Kept(found.key, found.parts.kind, found.parts.sample or 0, request)

    with reading(url, Selection(namespace or "", kind)) as (reader, entries):
        digests = {digest, *(hide(digest) for hide in getattr(reader.envelope, "digests", ()))}
        found = explain(asked, kept(entries))
    if same:
        found = found._replace(key=same[0], nearest=same[0], differences=(), state="stored")
    found = found._replace(differences=tuple(_told(found, asked)))
    if as_json:
        print_json(found.as_dict())
    else:
        typer.echo(str(found))


def _read(file: str, kind: str, ignore: list[str] | None) -> "tuple[Kept, str]":
    """The request in *file* and its digest."""
    from llm_cache_mem.explain import Kept
    from llm_cache_mem.keys import DEFAULT_IGNORE
    from llm_cache_mem.redaction import Redaction
    from llm_cache_mem.request import Keyer

    with opened(file) as stream:
        params: Any = parse_json(stream.read())
    if not isinstance(params, dict) or "messages" not in params:
        raise BadInput('the request is not a JSON object with "messages"')
    messages = params.pop("messages")
    keyer = Keyer("", None, DEFAULT_IGNORE if ignore is None else ignore)
    digest = keyer.digest(messages, params)
    return Kept(digest, kind, 0, Redaction().json(keyer.kept(messages, params))), digest


def _told(found: "Explanation", asked: "Kept") -> Iterator[Any]:
    """A body as it is sent says nothing of where it is sent; that is no difference."""
    whole = b'"http.' in (asked.request or b"")
    return (one for one in found.differences if whole or not one.path.startswith(_OF_TRANSPORT))
