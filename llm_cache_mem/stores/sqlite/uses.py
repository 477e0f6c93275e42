"""When entries were used, for the order of eviction: noted at each use, written seldom."""

from collections.abc import Mapping
from time import time_ns

__all__ = ["Uses"]

_NOTED = 4096  # uses that are remembered
_DUE = 256  # uses that wait to be written, or
_DUE_NS = 2_000_000_000  # how long they wait
_LONGEST_LAG_NS = 600_000_000_000  # until a use of an entry is written again
_LAG_SHARE = 8  # of the age of the least recently used entry, if that may soon be evicted


class Uses:
    """The uses of entries in one process.

    A write costs many times a read: uses are written together, and that of an entry only if the
    file knows none that is nearly as late. The others count for what this process evicts, and are
    lost with it, which does no harm.
    """

    def __init__(self) -> None:
        self.noted: dict[str, int] = {}  # when keys were used
        self._due: dict[str, int] = {}  # those of them that the file should know
        self._due_at = time_ns() + _DUE_NS
        self.lag = _DUE_NS  # between uses of an entry that are written
        self._last = 0

    def tick(self) -> int:
        """A number that grows with every use: the time, so that processes agree on it, and never
        the same one twice."""
        now = self._last = max(time_ns(), self._last + 1)
        return now

    def go_on_from(self, last: int) -> None:
        """Give later numbers than *last*, even if the clock was set back."""
        self._last = last

    def note(self, key: str, used: object) -> None:
        """Note a use of *key*, whose row says that it was last *used* then; None: it was not
        read."""
        if used is None:
            used = self._due.get(key) or self.noted.get(key)
        now = self.note_put(key)
        if not isinstance(used, int) or now - used >= self.lag:
            self._due[key] = now

    def note_put(self, key: str) -> int:
        """Note a use of *key* that its row will tell, if it does not tell one that is nearly as
        late; when that was."""
        now = self.tick()
        if len(self.noted) >= _NOTED:
            self.noted.clear()
        self.noted[key] = now
        return now

    def are_due(self) -> bool:
        """Whether there are uses to write, or it is time to look; True once in a while."""
        now = time_ns()
        if now < self._due_at and len(self._due) < _DUE:
            return False
        self._due_at = now + _DUE_NS
        return True

    def take_due(self, *, all_of_them: bool = False) -> Mapping[str, int]:
        """The uses to write, and with *all_of_them* those that the file need not know."""
        due, self._due = self._due, {}
        return {**due, **self.noted} if all_of_them else due

    def adapt_to(self, oldest: int, *, is_crowded: bool) -> None:
        """Write uses seldom where nothing is evicted yet, or the least recently used entry, of
        *oldest*, has been for long."""
        age = self._last - oldest if is_crowded else _LAG_SHARE * _LONGEST_LAG_NS
        self.lag = max(_DUE_NS, min(_LONGEST_LAG_NS, age // _LAG_SHARE))
