"""The result of one request of a run."""

from dataclasses import dataclass
from typing import Any

__all__ = ["MapResult"]


@dataclass(frozen=True, slots=True, repr=False)
class MapResult:
    """The result of one request.

    Its ``repr`` shows neither the answer nor the text of an error.
    """

    value: Any
    """The answer; None if there is an error."""
    hit: bool
    """Whether it was answered without a call of its own: from the cache, or by the call of an equal
    request in the same run."""
    seconds: float
    """How long it took, from when it was read from the requests; 0.0 in a batch."""
    usd: float | None
    """What its call cost in dollars: 0.0 for a hit or an error, None if the price is unknown."""
    error: Exception | None
    """What went wrong, with ``on_error="collect"``."""
    index: int
    """The place of its request, from 0."""

    def __repr__(self) -> str:
        error = None if self.error is None else type(self.error).__name__
        return f"MapResult(index={self.index}, hit={self.hit}, usd={self.usd}, error={error})"
