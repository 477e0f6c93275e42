"""Lines of entries on their way into a store, some hundred at a time."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from llm_cache_mem.cli.arguments import BadInput
from llm_cache_mem.cli.jsonl import from_line
from llm_cache_mem.cli.store import environment_envelope
from llm_cache_mem.errors import ValueNotCacheable
from llm_cache_mem.keys import digest as keys
from llm_cache_mem.stores import Store
from llm_cache_mem.stores.circuit_breaker import FailOpenStore
from llm_cache_mem.values.encryption import KEY_VARIABLE
from llm_cache_mem.values.entry import Entry

__all__ = ["Import"]

_LINES = 500
_BYTES = 1 << 20


class _Line(NamedTuple):
    number: int
    key: str
    entry: Entry


class Import:
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
