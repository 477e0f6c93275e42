"""The commands ``export`` and ``import``: carry entries from store to store as JSON Lines."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from time import time
from typing import Annotated, BinaryIO, Literal, NamedTuple

import typer

from llm_cache_mem.cli.arguments import (
    FAILED,
    MISUSED,
    AsJson,
    BadInput,
    CommandFailed,
    Kind,
    Model,
    Namespace,
    UrlFirst,
    in_utf8,
    opened,
    url_and,
)
from llm_cache_mem.cli.jsonl import from_line, numbered_lines, to_line
from llm_cache_mem.cli.migrate import KINDS, bring
from llm_cache_mem.cli.output import count_of, progress, replacing, report
from llm_cache_mem.cli.store import (
    Selection,
    environment_envelope,
    expires_on_server,
    leaving_no_empty_file,
    open_for_changes,
    reading,
)
from llm_cache_mem.diagnostics.redaction import Redaction
from llm_cache_mem.engine.generations import KIND as GENERATION
from llm_cache_mem.errors import ValueNotCacheable
from llm_cache_mem.keys import digest as keys
from llm_cache_mem.migration.sources import Skipped
from llm_cache_mem.stores import Store
from llm_cache_mem.stores.fail_open import FailOpenStore
from llm_cache_mem.stores.jsonl.lines import has_secret
from llm_cache_mem.stores.listing import Found
from llm_cache_mem.values.encryption import KEY_VARIABLE
from llm_cache_mem.values.entry import Entry

__all__ = ["export", "import_"]

_LINES = 5000  # that one transaction writes, if they take
_BYTES = 4 << 20  # or less


File = Annotated[
    str | None, typer.Argument(metavar="FILE", help="A file of JSON Lines; - is stdin or stdout.")
]


def export(
    url: UrlFirst = None,
    file: File = None,
    namespace: Namespace = None,
    kind: Kind = None,
    model: Model = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    to: Annotated[
        Literal["vcr"] | None,
        typer.Option(help="Write a cassette of VCR.py, with the responses of HTTP."),
    ] = None,
) -> None:
    """Export entries with their answers as JSON Lines.

    The least recently used come first if the store knows the order; in a cassette, the oldest.
    """
    url, target = url_and("FILE", url, file)
    count, secret, redaction = 0, 0, Redaction()
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
            if to == "vcr":
                count = _write_cassette(entries, out)
            for found in entries:
                out.write(to_line(found.key, found.entry, found.hidden_by))
                count += 1
                secret += has_secret(found.key, found.entry, redaction)
            out.flush()
    typer.echo(f"exported {count_of(count)}", err=True)
    if secret:
        typer.echo(
            f"warning: {secret:,} of them hold what looks like a secret, in the clear", err=True
        )


def _write_cassette(entries: Iterator[Found], out: BinaryIO) -> int:
    """Write a cassette of VCR.py, and say why entries are not in it; how many are."""
    try:
        from llm_cache_mem.migration import cassette_writer
    except ModuleNotFoundError as exc:
        raise CommandFailed(f"{exc}: pip install 'llm-cache-mem[migrate]'", MISUSED) from None
    made, skipped = [], Counter[str]()
    for found in sorted(entries, key=lambda found: found.entry.stored_at):
        try:
            made.append(cassette_writer.interaction_of(found.key, found.entry))
        except Skipped as exc:
            skipped[str(exc)] += 1
    for reason, number in skipped.items():
        typer.echo(f"skipped {number:,}: {reason}", err=True)
    if skipped and not made:
        raise typer.Exit(FAILED)
    cassette_writer.write_cassette(made, out)
    return len(made)


def import_(
    url: UrlFirst = None,
    file: File = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", callback=in_utf8, help="Import everything into this namespace."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace entries even if they are as new or newer.")
    ] = False,
    on_error: Annotated[
        Literal["stop", "skip"], typer.Option(help="What to do with an invalid line.")
    ] = "stop",
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="KIND",
            help=f"Import SOURCE, written by another tool, into URL: {KINDS}.",
        ),
    ] = None,
    ttl: Annotated[
        str | None, typer.Option(metavar="SPAN", help="With --from: how long entries live.")
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="With --from gptcache: the model and all else that every request had.",
        ),
    ] = None,
    sdk: Annotated[
        Literal["openai"] | None,
        typer.Option(help="With --from: store chat completions as this SDK's, not as dicts."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --from: only count what would be imported.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import entries from JSON Lines or another tool.

    The lines are those that export writes; --from names another tool. A missing store is created.

    import URL FILE, or import --from KIND SOURCE URL
    """
    if from_ is not None:
        bring(
            from_,
            url,
            file,
            namespace=namespace,
            ttl=ttl,
            request=request,
            sdk=sdk,
            dry_run=dry_run,
            as_json=as_json,
        )
        return
    url, source = url_and("FILE", url, file)
    # At a clock of 0 nothing has expired, so that a file sweeps away nothing of what is brought:
    # replay reads at any age.
    now = time() if expires_on_server(url) else 0.0
    with (
        opened(source) as lines,
        leaving_no_empty_file(url),
        open_for_changes(url, clock=time if now else lambda: 0.0) as store,
        progress("importing") as step,
    ):
        bringing = _Import(store, namespace=namespace, overwrite=overwrite, now=now)
        for number, line in numbered_lines(lines):
            step()
            for problem in bringing.add(number, line):
                _bad_line(problem, bringing, on_error)
        for problem in bringing.flush():
            _bad_line(problem, bringing, on_error)
    counts = bringing.counts
    kept = f", kept {counts['kept']:,} that were as new or newer" if counts["kept"] else ""
    expired = f", left out {counts['expired']:,} that have expired" if counts["expired"] else ""
    bad = count_of(counts["bad_lines"], "bad line", "bad lines")
    skipped = f", skipped {bad}" if counts["bad_lines"] else ""
    report(as_json, counts, f"imported {count_of(counts['imported'])}{kept}{expired}{skipped}")


def _bad_line(problem: str, bringing: "_Import", on_error: str) -> None:
    if on_error == "stop":
        raise BadInput(
            f"{problem}; imported {count_of(bringing.counts['imported'])} before it (--on-error"
            " skip goes on)"
        )
    bringing.counts["bad_lines"] += 1
    typer.echo(problem, err=True)


class _Line(NamedTuple):
    number: int
    key: str
    entry: Entry


class _Import:
    """Brings entries into *store*: what became of them is in ``counts``. At *now*, in Unix seconds,
    what has expired is left out.

    ``add`` and ``flush`` give a text for each line that is no entry; what came before it is in the
    store by then.
    """

    def __init__(self, store: Store, *, namespace: str | None, overwrite: bool, now: float) -> None:
        self.counts = {"imported": 0, "kept": 0, "expired": 0, "bad_lines": 0}
        self._store = FailOpenStore(
            store, strict=True, on_error=lambda operation: None
        )  # for stores that know no many
        self._envelope = getattr(store, "envelope", None) or environment_envelope()
        self._namespace = namespace
        self._overwrite = overwrite
        self._now = now
        self._lines: dict[str, _Line] = {}
        self._bytes = 0

    def add(self, number: int, line: bytes) -> Iterator[str]:
        """Take the line; put those that wait into the store if there are many."""
        try:
            key, entry = self._entry(line)
        except (BadInput, ValueNotCacheable) as exc:
            yield from self.flush()
            yield f"line {number}: {exc}"
            return
        if key.rsplit(":", 2)[1] == GENERATION:  # an old one would make old answers valid again
            return
        if key in self._lines or len(self._lines) == _LINES or self._bytes > _BYTES:
            yield from self.flush()
        self._lines[key] = _Line(number, key, entry)
        self._bytes += len(line)

    def flush(self) -> Iterator[str]:
        """Put what waits into the store."""
        waiting, self._lines, self._bytes = self._lines, {}, 0
        held = {} if self._overwrite or not waiting else self._store.get_many(list(waiting))
        fresh = []
        for key, line in waiting.items():
            if line.entry.is_expired(self._now):
                self.counts["expired"] += 1
            elif key in held and held[key].stored_at >= line.entry.stored_at:
                self.counts["kept"] += 1
            else:
                fresh.append(line)
        yield from self._put(fresh)

    def _put(self, fresh: list[_Line]) -> Iterator[str]:
        try:
            if fresh:
                self._store.put_many({line.key: line.entry for line in fresh})
                self.counts["imported"] += len(fresh)
        except ValueNotCacheable as exc:
            if len(fresh) == 1:
                yield f"line {fresh[0].number}: {exc}"
                return
            for line in fresh:  # which one, shows when they go one by one
                yield from self._put([line])

    def _entry(self, line: bytes) -> tuple[str, Entry]:
        key, entry, hidden_by = from_line(line)
        if hidden_by and not self._envelope.knows(hidden_by):
            raise BadInput(
                f"its key is hidden with an encryption key that {KEY_VARIABLE} does not name"
            )
        if not hidden_by and self._envelope.digests:
            key = _hidden(key, self._envelope.digests[0])
        if self._namespace is not None:
            key = keys.prefix(self._namespace, keys.parse(key).kind) + key.rpartition(":")[2]
        return key, entry


def _hidden(key: str, hide: Callable[[str], str]) -> str:
    """The stored key, with its digest as a cache that encrypts looks for it."""
    head, _, tail = key.rpartition(":")
    digest, dot, sample = tail.partition(".")
    return f"{head}:{hide(digest)}{dot}{sample}"
