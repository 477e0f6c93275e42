"""What commands print and write: progress, counts, JSON, files that replace others."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import typer

from llm_cache_mem.cli.arguments import CommandFailed

__all__ = ["count_of", "print_json", "progress", "replacing", "report"]

_MANY = 2000  # entries: a few tenths of a second


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
def replacing(path: str, *, force: bool, partial: bool = False) -> Iterator[BinaryIO]:
    """A new file that takes its place at *path* when it is complete, or *partial* on an error too,
    readable by this user alone."""
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
        os.replace(temporary, path) if partial else os.unlink(temporary)
        raise


def report(as_json: bool, counts: dict[str, Any], text: str) -> None:
    """What a command has done, for machines or for people."""
    print_json(counts) if as_json else typer.echo(text)


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))


def count_of(number: int, one: str = "entry", many: str = "entries") -> str:
    return f"{number:,} {one if number == 1 else many}"
