"""What the commands share: their options, the way they read a store and files, how they report."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from time import time
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from llm_cache_mem.cli.arguments import URL_VARIABLE, BadInput, CommandFailed, parse_json
from llm_cache_mem.values.encryption import KEY_VARIABLE

if TYPE_CHECKING:  # a command loads what it needs: "key" needs no database
    from llm_cache_mem.cli.store import Found, Reader, Selection

__all__ = [
    "READABLE_WITH",
    "UNREADABLE",
    "AsJson",
    "Kind",
    "Model",
    "Namespace",
    "Url",
    "UrlFirst",
    "count_of",
    "in_utf8",
    "note_unreadable",
    "opened",
    "print_json",
    "progress",
    "reading",
    "replacing",
    "report",
    "request_in",
]

UNREADABLE = "damaged, encrypted with a key not given here, or of a newer version"
READABLE_WITH = f"set {KEY_VARIABLE} to the keys that were used, or upgrade"
_MANY = 2000  # entries: a few tenths of a second


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
    typer.Argument(metavar="URL", help=f"The store; may be left out if {URL_VARIABLE} names it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document, for machines.")]
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
Model = Annotated[
    str | None, typer.Option(metavar="NAME", callback=in_utf8, help="Only answers of this model.")
]


@contextmanager
def reading(url: str, selection: "Selection") -> "Iterator[tuple[Reader, Iterator[Found]]]":
    """A reader of the store, and those of its entries that are selected, with a progress bar as
    they are walked."""
    from llm_cache_mem.cli.store import Reader

    now = time()
    with (
        closing(Reader(url)) as reader,
        progress("reading", lambda: reader.size(selection.prefix)) as step,
    ):

        def entries() -> "Iterator[Found]":
            for found in reader.entries(selection.prefix):
                step()
                if selection.includes(found, now):
                    yield found

        try:
            yield reader, entries()
        finally:
            note_unreadable(reader)


def note_unreadable(reader: "Reader") -> None:
    """Say on stderr how many entries *reader* left out because they cannot be read, and what would
    help."""
    if reader.unreadable:
        typer.echo(
            f"left out {count_of(reader.unreadable)} that cannot be read: {UNREADABLE};"
            f" {READABLE_WITH}",
            err=True,
        )


@contextmanager
def progress(what: str, count: Callable[[], int] | None = None) -> Iterator[Callable[[], object]]:
    """A bar on stderr if that is a terminal and *count* says that there is much to do; what is
    yielded is to be called for every step."""
    total = count() if count is not None and sys.stderr.isatty() else None
    if not sys.stderr.isatty() or (total is not None and total < _MANY):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


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


@contextmanager
def replacing(path: str, *, force: bool) -> Iterator[BinaryIO]:
    """A new file that takes its place at *path* when it is complete, readable by this user
    alone."""
    import tempfile

    path = os.path.realpath(path)
    if os.path.isdir(path):
        raise CommandFailed(f"{path} is a directory")
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe, /dev/null
        with open(path, "wb") as device:
            yield device
        return
    if os.path.lexists(path) and not force:
        raise CommandFailed(f"{path} exists; --force replaces it")
    try:
        handle, temporary = tempfile.mkstemp(
            prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path)
        )
    except OSError as exc:
        raise CommandFailed(f"{path} cannot be written: {exc.strerror}") from exc
    try:
        with open(handle, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def report(as_json: bool, counts: dict[str, Any], text: str) -> None:
    """What a command has done, for machines or for people."""
    print_json(counts) if as_json else typer.echo(text)


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))


def count_of(number: int) -> str:
    return f"{number:,} {'entry' if number == 1 else 'entries'}"
