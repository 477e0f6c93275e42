"""Note uses of entries in the file now and then, for the order of eviction."""

import contextlib

from llm_cache_mem.stores.sqlite import rows
from llm_cache_mem.stores.sqlite.access import Access
from llm_cache_mem.stores.sqlite.file import Connection
from llm_cache_mem.stores.sqlite.uses import Uses

__all__ = ["Touches"]

_SECONDS = 0.02  # how long a reader waits to write uses


class Touches:
    """Writes *uses* through *access*: a few reads write those of many."""

    def __init__(self, access: Access, uses: Uses, bounds: rows.Bounds) -> None:
        self._access = access
        self._uses = uses
        self._bounds = bounds
        self._flush_next = False

    def begin(self) -> None:
        """Go on from the uses that are in the file."""
        self._uses.go_on_from(self._access.use(rows.newest_use))
        self._access.use(self._adapt)

    def note(self, key: str, used: object) -> None:
        """Note a use of *key*, whose row says that it was last *used* then; None: it was not
        read."""
        if self._access.file.read_only:
            return
        self._uses.note(key, used)
        if self._flush_next or self.flush_soon():
            self._flush_next = False
            self.flush()

    def note_only(self, key: str, used: object) -> None:
        """As ``note``, but write nothing."""
        self._uses.note(key, used)

    def flush_soon(self) -> bool:
        """Whether the next use that is noted is to write them; only one caller is told."""
        if self._access.file.read_only or self._flush_next or not self._uses.are_due():
            return False
        self._flush_next = True
        return True

    def flush(self, *, all_of_them: bool = False) -> None:
        """Write the uses that are due."""
        due = self._uses.take_due(all_of_them=all_of_them)
        with contextlib.suppress(Exception):  # on a read-only, locked or full disk reading goes on
            if due:
                self._access.write_soon(rows.touch, _SECONDS, due)
            self._access.use(self._adapt)

    def _adapt(self, db: Connection) -> None:
        self._uses.adapt_to(rows.oldest_use(db), is_crowded=rows.is_crowded(db, self._bounds))
