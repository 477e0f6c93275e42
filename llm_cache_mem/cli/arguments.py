"""Parse and validate command-line input: URLs, options, spans of time, requests as strict JSON."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, BinaryIO

import typer

from llm_cache_mem._util import strict_json
from llm_cache_mem._util.durations import parse_duration
from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.stores.urls import URL_VARIABLE

__all__ = [
    "DEFAULT_STORE",
    "FAILED",
    "MISUSED",
    "STORE_HELP",
    "AsJson",
    "BadInput",
    "CommandFailed",
    "Ignore",
    "Key",
    "Kind",
    "Model",
    "Namespace",
    "RequestFile",
    "Url",
    "UrlFirst",
    "in_utf8",
    "opened",
    "parse_json",
    "request_in",
    "seconds_in",
    "url_and",
    "url_of",
]

FAILED = 1
"""The exit status where something was not found or did not work."""
MISUSED = 2
"""The exit status of a wrong command line."""
_DEFAULT_PATH = "./.llm_cache_mem.db"
DEFAULT_STORE = f"sqlite://{_DEFAULT_PATH}"
STORE_HELP = f"The store: a URL or a path. Default: {_DEFAULT_PATH}"
"""Of the commands that make calls."""


class CommandFailed(LLMCacheError):
    """A command cannot do what it was asked; the text says why, and *status* is what the process
    ends with."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status


class BadInput(CommandFailed):
    """Data that was read is not what it should be; the text quotes nothing from it."""


def parse_json(data: bytes) -> Any:
    """One JSON value, read strictly: BadInput for NaN, for a name twice in an object, for what is
    not UTF-8."""
    try:
        return strict_json.parse(data, "utf-8-sig")
    except strict_json.NotJson as exc:
        raise BadInput(str(exc)) from None


def seconds_in(span: str) -> float:
    """The seconds in *span*, such as ``7d``; CommandFailed if it is not a duration."""
    try:
        return parse_duration(span)
    except ValueError as exc:
        raise CommandFailed(str(exc), MISUSED) from None


def url_of(argument: str | None) -> str:
    """The store's URL, which the environment may give; CommandFailed if neither does."""
    if not argument:
        raise CommandFailed(
            f"which store? Give its URL or path ({_DEFAULT_PATH} is that of run and map), or set"
            f" {URL_VARIABLE}",
            MISUSED,
        )
    return argument


def url_and(what: str, first: str | None, second: str | None) -> tuple[str, str]:
    """The store's URL and *what*, from two arguments, or from one and the environment;
    CommandFailed if one is missing."""
    if second is None:
        first, second = os.environ.get(URL_VARIABLE), first
    if not first or not second:
        raise CommandFailed(
            f"give a store and a {what}, or the {what} alone and {URL_VARIABLE} in the environment",
            MISUSED,
        )
    return first, second


def in_utf8(value: str | None) -> str | None:
    """*value*, the name of something that is stored; BadParameter where its bytes on the command
    line are no UTF-8, as such names are."""
    try:
        _ = value is not None and value.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("this is not UTF-8") from None
    return value


Url = Annotated[
    str | None,
    typer.Argument(
        metavar="URL",
        envvar=URL_VARIABLE,
        help="The store: sqlite://./cache.db, a path, redis://host, ...",
    ),
]
UrlFirst = Annotated[
    str | None,
    typer.Argument(metavar="URL", help=f"The store; {URL_VARIABLE} can name it instead."),
]
Key = Annotated[
    str | None,
    typer.Argument(metavar="KEY", help="A key, its digest, or the beginning of either."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Namespace = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", callback=in_utf8, help='Only this namespace; "" is the default one.'
    ),
]
Kind = Annotated[
    str | None,
    typer.Option(metavar="KIND", callback=in_utf8, help="Only this kind: value, stream, ..."),
]
RequestFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help='A JSON object: "messages" and all other parameters; - is stdin.'
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Leave this param out, as LLMCache(ignore=...) does; may be repeated.",
    ),
]
Model = Annotated[
    str | None, typer.Option(metavar="NAME", callback=in_utf8, help="Only answers of this model.")
]


@contextmanager
def opened(file: str) -> Iterator[BinaryIO]:
    """The file to read, or stdin for ``-``."""
    if file != "-":
        with open(file, "rb") as stream:
            yield stream
        return
    if sys.stdin.isatty():
        typer.echo("reading from the terminal; Ctrl-D ends it", err=True)
    yield sys.stdin.buffer


def request_in(file: str) -> tuple[Any, dict[str, Any]]:
    """The messages and all else of the request in *file*; BadInput for what is none."""
    source = "stdin" if file == "-" else file
    with opened(file) as stream:
        data = stream.read()
    if not data.strip():
        raise BadInput(f"{source} is empty: the request is read from there")
    try:
        params = parse_json(data)
    except BadInput as exc:
        raise BadInput(f"{source}: {exc}") from None
    if not isinstance(params, dict) or "messages" not in params:
        raise BadInput(f'{source}: the request is not a JSON object with "messages"')
    return params.pop("messages"), params
