"""The store that a command names: opened to be read without changing it, or to be changed."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from llm_cache_mem._util.clock import now
from llm_cache_mem.accounting.counts import EntryHits
from llm_cache_mem.accounting.totals import StoreTotals
from llm_cache_mem.cli.arguments import MISUSED, CommandFailed
from llm_cache_mem.cli.output import count_of, progress
from llm_cache_mem.engine.generations import KIND as GENERATION
from llm_cache_mem.errors import StoreError
from llm_cache_mem.keys import digest
from llm_cache_mem.stores import Opened, Store, StoreSettings, open_store
from llm_cache_mem.stores.base import counting
from llm_cache_mem.stores.filelock import FileLock
from llm_cache_mem.stores.listing import Found, holds
from llm_cache_mem.stores.urls import Scheme, locate
from llm_cache_mem.values.encryption import KEY_VARIABLE, envelope_for
from llm_cache_mem.values.entry import PLAIN, Entry, Envelope, encrypted_with

if TYPE_CHECKING:
    from llm_cache_mem.stores.sqlite import SQLiteStore
    from llm_cache_mem.stores.sqlite.survey import Chosen, Part

__all__ = [
    "READABLE_WITH",
    "UNREADABLE",
    "Reader",
    "Selection",
    "environment_envelope",
    "expires_on_server",
    "leaving_no_empty_file",
    "note_unreadable",
    "open_for_changes",
    "prune",
    "reading",
]

UNREADABLE = "damaged, encrypted with a key not given here, or of a newer version"
READABLE_WITH = f"set {KEY_VARIABLE} to the keys that were used, or upgrade"

_ANY_DIGEST = "0" * 64
_NO_HITS = EntryHits(0, 0.0)
_AT_ONCE = 256  # entries whose hits are asked for
_LOCK_SECONDS = 10.0  # a person rather waits than tries again


class Selection(NamedTuple):
    """Which entries a command is about; None is any."""

    namespace: str | None = None
    kind: str | None = None
    model: str | None = None
    expired: bool = False
    older_than: float | None = None  # seconds: an entry so old counts as expired
    since: float | None = None  # seconds: only entries stored so lately
    text: str | None = None  # in key, model or stored request, whatever its case
    answers: bool = False  # without the marks of what answers depend on, unless of that kind

    @property
    def prefix(self) -> str:
        """What the keys of all of them begin with."""
        return "" if self.namespace is None else digest.prefix(self.namespace)

    @property
    def but(self) -> str | None:
        """The kind that is left out."""
        return GENERATION if self.answers and self.kind != GENERATION else None

    def chosen(self, now: float) -> "Chosen":
        """The same, as a SQLite file is asked for it."""
        from llm_cache_mem.stores.sqlite.survey import Chosen  # only commands on a store need it

        stored_by = None if self.older_than is None else now - self.older_than
        return Chosen(now, self.prefix, self.kind, self.model, stored_by, self.but)

    def includes(self, found: Found, now: float) -> bool:
        entry = found.entry
        if self.but is not None and found.parts.kind == self.but:
            return False
        if self.kind not in (None, found.parts.kind) or self.model not in (None, entry.model):
            return False
        if self.since is not None and now - entry.stored_at > self.since:
            return False
        if self.text is not None and not holds(found, self.text):
            return False
        return (
            not self.expired
            or entry.is_expired(now)
            or (self.older_than is not None and now - entry.stored_at >= self.older_than)
        )


def environment_envelope() -> Envelope:
    """What reads and writes entries as the environment says; CommandFailed if it names no key."""
    try:
        return envelope_for(None)()
    except (ValueError, ImportError) as exc:
        raise CommandFailed(f"{KEY_VARIABLE}: {exc}", MISUSED) from None


def expires_on_server(url: str) -> bool:
    """Whether the store removes by itself, and by its own clock, what has expired."""
    return _locate(url)[0].on_server


@contextlib.contextmanager
def open_for_changes(url: str, *, clock: Callable[[], float] = now) -> Iterator[Store]:
    """The store, without bounds. A file is made if absent; what is there and is not ours is
    refused, not set aside."""
    scheme, backend = _locate(url)
    path = os.fspath(backend)
    is_new = not os.path.lexists(path) or (os.path.isfile(path) and not os.path.getsize(path))
    if scheme.in_file and scheme.encrypted and not is_new:
        Reader(url).close()
    opened = _open(scheme, backend, environment_envelope, clock=clock)
    with contextlib.closing(opened.store), _telling(opened.name):
        yield opened.store


@contextlib.contextmanager
def leaving_no_empty_file(url: str) -> Iterator[None]:
    """Remove the database at the end if the block made it and stored nothing in it."""
    scheme, backend = _locate(url)
    is_new = scheme.in_file and not os.path.lexists(backend)
    try:
        yield
    finally:
        path = os.path.realpath(backend)
        if is_new and os.path.exists(path + ".lock"):  # which recordings do not have
            with contextlib.suppress(CommandFailed, OSError):  # it is in use, or was not made
                _remove_if_empty(url, path)


def _remove_if_empty(url: str, path: str) -> None:
    with FileLock(path + ".lock", _LOCK_SECONDS).hold():  # that every write needs
        with contextlib.closing(Reader(url)) as reader:
            is_empty = not reader.size()
        for name in (path + "-wal", path + "-shm", path, path + ".lock") if is_empty else ():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


class Reader:
    """The entries of the store that *url* names, which is only read; CommandFailed for all that
    goes wrong."""

    def __init__(self, url: str) -> None:
        scheme, backend = _locate(url)
        self.scheme = scheme
        self.envelope = self._noting = _Noting(environment_envelope())
        opened = _open(scheme, backend, lambda: self._noting, read_only=True)
        self.store = opened.store
        self._database = _database(opened.store)
        self._counting = counting(opened.store)
        self.path: str | None = getattr(opened.store, "path", None)  # if it is a file
        self.name = self.path or opened.name  # without a password
        self._foreign = 0
        if self.path is not None and not os.path.exists(self.path):
            raise CommandFailed(f"{self.path}: no such file")

    @property
    def unreadable(self) -> int:
        """How many entries were left out so far, because they cannot be read."""
        found: int = getattr(self.store, "unreadable", 0)
        return found + self._foreign

    def close(self) -> None:
        self.store.close()

    def size(self, prefix: str = "") -> int:
        """How many keys begin with *prefix*."""
        with _telling(self.name):
            return self.store.size(prefix)

    def entries(self, prefix: str = "", part: str = "") -> Iterator[Found]:
        """The entries whose keys begin with *prefix* and hold *part*, the least recently used first
        if that is known."""
        with _telling(self.name):
            yield from self._found(self._listed(prefix, part), part)

    def _found(self, listed: Iterator[tuple[str, Entry]], part: str = "") -> Iterator[Found]:
        for key, entry in listed:
            hidden_by = self._noting.hidden_by.pop(key, "")
            if part not in key:
                continue
            try:
                yield Found(key, digest.parse(key), entry, hidden_by)
            except ValueError:
                self._foreign += 1

    def totals(self) -> StoreTotals | None:
        """The totals of all processes; None if the store keeps none."""
        if self._counting is None:
            return None
        with _telling(self.name):
            return self._counting.totals()

    def with_hits(self, found: Iterable[Found]) -> Iterator[Found]:
        """Those that were *found*, with their hits if the store counts them."""
        left = iter(found)
        while some := list(islice(left, _AT_ONCE)):
            if self._counting is None:
                yield from some
                continue
            with _telling(self.name):
                hits = self._counting.entry_hits([each.key for each in some])
            for each in some:
                yield each._replace(hits=hits.get(each.key, _NO_HITS))

    def parts(self) -> list[tuple[digest.KeyParts, "Part"]] | None:
        """The sums of what is there by namespace, kind and model, if the store keeps such."""
        if self._database is None:
            return None
        with _telling(self.name):
            if self._database.is_sealed():
                return None
            parts = self._database.parts()
        known = []
        for part in parts:
            try:
                known.append((digest.parse(part.space + _ANY_DIGEST), part))
            except ValueError:
                self._foreign += part.entries
        return known

    def newest(self, selection: Selection, limit: int) -> tuple[int, list[Found]] | None:
        """How many entries are selected, but for those found unreadable, and so many that were
        stored last, if the store can tell without a look at all."""
        if self._database is None or selection.since is not None or selection.text is not None:
            return None
        unreadable = self.unreadable
        with _telling(self.name):
            if selection.model is not None and self._database.is_sealed():
                return None
            count, listed = self._database.newest(
                selection.chosen(now()), limit, only_expired=selection.expired
            )
        found = list(self._found(iter(listed)))
        return count - (self.unreadable - unreadable), found

    def _listed(self, prefix: str, part: str) -> Iterator[tuple[str, Entry]]:
        if self._database is not None:  # which need not read the others
            return self._database.entries(prefix, part=part)
        return self.store.entries(prefix)


def prune(store: Store, selection: Selection, *, dry_run: bool) -> int | None:
    """Remove what is selected from *store* without reading it, or only count it; how many. None: it
    has to be read."""
    database = _database(store)
    if database is None or (selection.model is not None and database.is_sealed()):
        return None
    chosen = selection.chosen(now())
    return database.count_expired(chosen) if dry_run else database.prune(chosen)


def _database(store: Store) -> "SQLiteStore | None":
    from llm_cache_mem.stores.sqlite import SQLiteStore  # only commands on a store need it

    return store if isinstance(store, SQLiteStore) else None


@contextlib.contextmanager
def reading(url: str, selection: Selection) -> Iterator[tuple[Reader, Iterator[Found]]]:
    """A reader of the store, and those of its entries that are selected, with a progress bar as
    they are walked."""
    began = now()
    with (
        contextlib.closing(Reader(url)) as reader,
        progress("reading", lambda: reader.size(selection.prefix)) as step,
    ):

        def entries() -> Iterator[Found]:
            for found in reader.entries(selection.prefix):
                step()
                if selection.includes(found, began):
                    yield found

        try:
            yield reader, entries()
        finally:
            note_unreadable(reader)


def note_unreadable(reader: Reader) -> None:
    """Say on stderr how many entries *reader* left out because they cannot be read, and what would
    help."""
    if reader.unreadable:
        typer.echo(
            f"left out {count_of(reader.unreadable)} that cannot be read: {UNREADABLE};"
            f" {READABLE_WITH}",
            err=True,
        )


class _Noting:
    """An Envelope that notes by which encryption key the entries that it reads are hidden."""

    def __init__(self, inner: Envelope) -> None:
        self._inner = inner
        self.digests: Sequence[Callable[[str], str]] = inner.digests
        self.hidden_by: dict[str, str] = {}

    def knows(self, key_id: str) -> bool:
        return self._inner.knows(key_id)

    def pack(self, key: str, entry: Entry) -> bytes:
        return self._inner.pack(key, entry)

    def unpack(self, key: str, data: bytes) -> Entry:
        entry = self._inner.unpack(key, data)
        if hidden_by := encrypted_with(data):
            self.hidden_by[key] = hidden_by
        return entry


def _locate(url: str) -> tuple[Scheme, str | Path]:
    """The scheme of the store, and the URL or path to open. Any file that is there is a path; of
    ``tiered:memory,URL``, the memory is of no concern to other processes."""
    url = url.partition(",")[2].strip() if url.startswith("tiered:") else url
    backend = Path(url) if "://" not in url and os.path.isfile(url) else url
    try:
        scheme, place = locate(backend)
    except ValueError as exc:
        raise CommandFailed(str(exc), MISUSED) from None
    if not scheme.in_file and not scheme.on_server:
        raise CommandFailed(
            f"{url!r} is private to the process that uses it: commands cannot see its entries",
            MISUSED,
        )
    return scheme, Path(place) if scheme.in_file else place


def _open(
    scheme: Scheme,
    backend: str | Path,
    envelope: Callable[[], Envelope],
    *,
    clock: Callable[[], float] = now,
    read_only: bool = False,
) -> Opened:
    settings = StoreSettings(
        clock=clock,
        envelope=envelope if scheme.encrypted else lambda: PLAIN,  # whatever the environment says
        read_only=read_only,
        lock_timeout=_LOCK_SECONDS,
    )
    try:
        with _telling(os.fspath(backend)):
            return open_store(backend, settings)
    except (ValueError, ImportError) as exc:
        raise CommandFailed(str(exc), MISUSED) from None


@contextlib.contextmanager
def _telling(name: str) -> Iterator[None]:
    try:
        yield
    except StoreError as exc:
        from llm_cache_mem.stores.sqlite.layout import FileRefused, is_damage

        if isinstance(exc.__cause__, FileRefused):  # which names the file
            text = exc.reason
        elif exc.__cause__ is not None and is_damage(exc.__cause__):
            text = f"{name} is damaged, or is not a SQLite database; it is left as it is"
        else:
            text = f"{name}: {exc.operation} failed: {exc.reason}"
        raise CommandFailed(text) from exc
