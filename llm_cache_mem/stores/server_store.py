"""What the stores on servers have in common: settings, a memo of what was unpacked before, and an
error for replies that make no sense."""

from collections.abc import Callable

from llm_cache_mem.values.entry import EntryMemo, Envelope

__all__ = ["ServerStore", "UnexpectedReply"]

_MEMO_ENTRIES, _MEMO_BYTES = 1024, 16 * 1024  # larger ones are not remembered


class UnexpectedReply(Exception):
    """The server said what cannot be the answer; the text repeats nothing of it."""


class ServerStore:
    """The beginning of a Store on a server. *limits*, by name, must be above 0, or ValueError says
    which is not."""

    blocking = True

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        max_value_bytes: int,
        envelope: Envelope,
        **limits: float,
    ) -> None:
        for name, number in {**limits, "max_value_bytes": max_value_bytes}.items():
            if not number > 0:
                raise ValueError(f"{name} must be above 0: got {number}")
        self._clock = clock
        self._max_value_bytes = max_value_bytes
        self.envelope = envelope
        self._memo = EntryMemo(_MEMO_ENTRIES, _MEMO_BYTES, envelope=envelope)
        self.unreadable = 0  # stored entries that could not be read

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def name(self) -> str:
        """Where the entries are, without user and password."""
        raise NotImplementedError
