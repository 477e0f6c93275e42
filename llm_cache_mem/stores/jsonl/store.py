"""Recordings in one file of JSON lines, made to be read, reviewed and kept in git beside the tests
that replay them."""

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from threading import RLock  # re-entrant: a signal handler may ask in the middle of it
from typing import NamedTuple

from llm_cache_mem._util.clock import now
from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.diagnostics.redaction import Redaction, Rule
from llm_cache_mem.errors import LLMCacheError, StoreError
from llm_cache_mem.stores.base import NOTHING_REMOVED, Removed
from llm_cache_mem.stores.filelock import FileLock, no_folder, opened
from llm_cache_mem.stores.jsonl.fields import BadLine
from llm_cache_mem.stores.jsonl.lines import from_line, says_the_same, to_line
from llm_cache_mem.stores.writers import warn_of_owner
from llm_cache_mem.values.entry import Entry

__all__ = ["JsonlStore"]

_FOLLOW_NOT = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)  # Windows has neither
_BROKEN_LINES_NAMED = 5


@without_content
class _Line(NamedTuple):
    """A line as it stands in the file, and what it says; its times may be older than those of the
    entry."""

    text: bytes
    entry: Entry


class _State(NamedTuple):
    """The file as it was when it was *seen* last. Never changed, only replaced."""

    seen: tuple[int, ...] | None
    lines: Mapping[str, _Line]
    line_end: bytes = b"\n"


class JsonlStore:
    """A Store in the file at *path*: one line an entry, in the order of the keys, with the request
    where the entry has one.

    Every write replaces the file as a whole under a lock and keeps what others wrote, so threads,
    processes and a ``kill -9`` lose nothing; a power cut may. Writing an answer again that is there
    already, and never expires, leaves its line as it is. A line that an editor or a merge has
    broken raises StoreError with its number, here and at every use, and is never written over. A
    new file is readable by this user alone (0600); one that is there keeps its mode. Reading needs
    no right to write. There are no bounds: recordings are removed only explicitly.

    Args:
        path: The file, in a folder that exists. ``~`` is the home directory.
        redact: Names of fields of requests and patterns of text that are not written, besides the
            secrets that never are (Redaction).
        clock: Unix seconds.
        lock_timeout: Seconds that a write waits for others; then it fails.
        make_folder: Make the folder with the first write.

    Raises:
        StoreError: The folder is missing, or a line is broken.
    """

    blocking = True
    counts_at_once = True
    records = True  # caches keep requests here, and remove nothing in passing

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        redact: Iterable[Rule] = (),
        clock: Callable[[], float] = now,
        lock_timeout: float = 10.0,
        make_folder: bool = False,
    ) -> None:
        name = os.fspath(path)
        if not name or "\0" in name:
            raise ValueError(f"JsonlStore needs the path of a file, got {name!r}")
        name = os.path.expanduser(name)
        self.name = f"jsonl:///{name}"
        self.path = os.path.realpath(name)  # what a link points to is replaced, not the link
        self.redaction = Redaction(redact)
        self._clock = clock
        self._file_lock = FileLock(self.path, lock_timeout)
        self._lock = RLock()
        self._state = _State(None, {})
        self._owner_known = False
        reset_after_fork(self)
        with self._only_store_errors("open"):
            folder = os.path.dirname(self.path)
            if not make_folder and not os.path.isdir(folder):
                raise StoreError(type(self).__name__, "open", no_folder(folder))
            self._current()

    def __repr__(self) -> str:
        return f"JsonlStore({self.path!r})"

    def _after_fork(self) -> None:
        self._lock = RLock()

    def get(self, key: str) -> Entry | None:
        with self._only_store_errors("get"):
            line = self._current().lines.get(key)
            return None if line is None else line.entry

    def put(self, key: str, entry: Entry) -> Removed:
        return self.put_many({key: entry})

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        with self._only_store_errors("get"):
            lines = self._current().lines
            return {key: lines[key].entry for key in keys if key in lines}

    def put_many(self, entries: Mapping[str, Entry]) -> Removed:
        with self._only_store_errors("put"), self._writing() as lines:
            for key, entry in entries.items():
                lines[key] = self._line(key, entry, lines.get(key))
        return NOTHING_REMOVED

    def delete(self, key: str, *, stored_at: float | None = None) -> bool:
        def is_meant(name: str, entry: Entry) -> bool:
            return name == key and stored_at in (None, entry.stored_at)

        return self._remove("delete", is_meant) > 0

    def delete_many(self, keys: Collection[str]) -> int:
        """Remove *keys* in one write; how many were there."""
        return self._remove("delete", lambda key, entry: key in keys)

    def clear(self, prefix: str = "") -> int:
        return self._remove("clear", lambda key, entry: key.startswith(prefix))

    def purge(self) -> int:
        now = self._clock()
        return self._remove("purge", lambda key, entry: entry.is_expired(now))

    def size(self, prefix: str = "") -> int:
        with self._only_store_errors("size"):
            lines = self._current().lines
            return sum(key.startswith(prefix) for key in lines) if prefix else len(lines)

    def entries(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        """As Store.entries, in the order of the keys."""
        with self._only_store_errors("entries"):
            lines = self._current().lines
        return iter([(key, line.entry) for key, line in lines.items() if key.startswith(prefix)])

    def close(self) -> None:
        with self._only_store_errors("close"):
            self._file_lock.close()

    # -- Reading the file

    def _current(self) -> _State:
        """What the file holds now."""
        state = self._state
        if state.seen is not None and state.seen == _seen(self._stat()):
            return state
        with self._lock:
            return self._read()

    def _stat(self) -> os.stat_result | None:
        try:
            return os.stat(self.path)
        except FileNotFoundError:
            return None

    def _read(self) -> _State:
        found = self._stat()
        if found is None:
            self._state = _State(None, {})
            return self._state
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(type(self).__name__, "open", f"{self.path} is not a file")
        if not self._owner_known:
            self._owner_known = True
            warn_of_owner(self.path, found)
        with open(self.path, "rb") as file:
            seen = _seen(os.fstat(file.fileno()))
            data = file.read()
        self._state = _State(
            seen, self._parsed(data), b"\r\n" if data.partition(b"\n")[0].endswith(b"\r") else b"\n"
        )
        return self._state

    def _parsed(self, data: bytes) -> dict[str, _Line]:
        """The lines by key; those that have not changed are what they were."""
        known = {line.text: (key, line) for key, line in self._state.lines.items()}
        found: dict[str, tuple[int, _Line]] = {}
        broken: list[str] = []
        for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            text = raw.strip()
            if not text:
                continue
            try:
                key, line = known.get(text) or _fresh(text)
                if key in found:
                    raise BadLine(f"the same key as in line {found[key][0]}: keep one of them")
                found[key] = number, line
            except BadLine as exc:
                broken.append(f"line {number}: {exc}")
        if broken:
            more = (
                f"; and {len(broken) - _BROKEN_LINES_NAMED} more"
                if len(broken) > _BROKEN_LINES_NAMED
                else ""
            )
            if not found:
                more += " (or this is not a recording of llm-cache-mem)"
            raise StoreError(
                type(self).__name__,
                "reading",
                f"{self.path}, {'; '.join(broken[:_BROKEN_LINES_NAMED])}{more}",
            )
        return {key: found[key][1] for key in sorted(found)}

    # -- Writing the file

    def _line(self, key: str, entry: Entry, there: _Line | None) -> _Line:
        """The line of *entry*; that which is *there* if it says the same."""
        text = to_line(key, entry, self.redaction)
        _, read_back = from_line(text)
        if there is not None and (there.text == text or says_the_same(there.text, text)):
            text = there.text
        return _Line(text, _with_times_of(entry, read_back))

    def _remove(self, operation: str, is_meant: Callable[[str, Entry], bool]) -> int:
        """Remove the lines that are meant; how many. The file is not touched if there are none."""
        with self._only_store_errors(operation):
            if not any(is_meant(key, line.entry) for key, line in self._current().lines.items()):
                return 0
            with self._writing() as lines:
                meant = [key for key, line in lines.items() if is_meant(key, line.entry)]
                for key in meant:
                    del lines[key]
            return len(meant)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[dict[str, _Line]]:
        """The lines, to be changed in the with-block, at whose end they are written; no other
        thread writes meanwhile."""
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with self._lock, self._file_lock.hold():
            before = (
                self._read()
            )  # not what was seen last: a file system's clock may be too coarse to tell
            lines = dict(before.lines)
            yield lines
            self._write(lines, before)

    def _write(self, lines: dict[str, _Line], before: _State) -> None:
        lines = {key: lines[key] for key in sorted(lines)}
        texts = [line.text for line in lines.values()]
        if texts == [line.text for line in before.lines.values()]:
            self._state = before._replace(lines=lines)
            return
        data = b"".join(text + before.line_end for text in texts)
        self._state = _State(self._replace(data), lines, before.line_end)

    def _replace(self, data: bytes) -> tuple[int, ...]:
        """Put *data* in the place of the file, all at once; what the new file looks like."""
        folder, name = os.path.split(self.path)
        # Only who has the lock writes, so one name will do, and what a killed process left is
        # written over.
        temporary = os.path.join(
            folder,
            f".{name}.new" if self._file_lock.between_processes else f".{name}.{os.getpid()}.new",
        )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        with opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FOLLOW_NOT) as file:
            try:
                there = self._stat()
                if there is not None and hasattr(os, "fchmod"):
                    os.fchmod(file.fileno(), stat.S_IMODE(there.st_mode))
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                os.replace(temporary, self.path)
                return _seen(os.fstat(file.fileno()))
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise

    @contextlib.contextmanager
    def _only_store_errors(self, operation: str) -> Iterator[None]:
        try:
            yield
        except LLMCacheError:
            raise
        except Exception as exc:
            reason = (
                f"{self.path}: {exc.strerror or exc}"
                if isinstance(exc, OSError)
                else type(exc).__name__
            )
            raise StoreError(type(self).__name__, operation, reason) from exc


def _fresh(text: bytes) -> tuple[str, _Line]:
    key, entry = from_line(text)
    return key, _Line(text, entry)


def _with_times_of(entry: Entry, read_back: Entry) -> Entry:
    """What others will read, but for times as exact as they came."""
    return Entry(
        read_back.payload,
        entry.stored_at,
        entry.expires_at,
        read_back.model,
        read_back.usage,
        entry.cost_usd,
        entry.seconds,
        read_back.request,
        read_back.tags,
        depends_on=read_back.depends_on,
        generation=read_back.generation,
    )


def _seen(found: os.stat_result | None) -> tuple[int, ...]:
    return (
        ()
        if found is None
        else (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    )
