"""What came of verified hits: how often the model, asked again, gave the stored answer."""

from math import sqrt
from typing import NamedTuple

__all__ = ["VerifiedStats"]

_Z = 1.959964  # 95 % of a normal distribution


class VerifiedStats(NamedTuple):
    """Verified hits of one model and kind of entry."""

    checked: int = 0
    """Hits whose request was asked again and whose fresh answer could be compared."""
    agreed: int = 0
    failed: int = 0
    """Requests whose call failed, or whose answer could not be compared."""
    replaced: int = 0
    """Entries that a fresh answer replaced."""
    drift_since: float | None = None
    """When the first answer disagreed, in Unix seconds."""
    spent_usd: float = 0.0
    """What the calls cost, as far as it is known."""

    @property
    def drifted(self) -> int:
        """How many disagreed."""
        return self.checked - self.agreed

    @property
    def interval(self) -> tuple[float, float]:
        """The share of all hits that agree, between these bounds with 95 % confidence (Wilson)."""
        if not self.checked:
            return 0.0, 1.0
        n, share = self.checked, self.agreed / self.checked
        centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        margin = _Z * sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
        return max(0.0, centre - margin), min(1.0, centre + margin)

    def as_dict(self) -> dict[str, object]:
        """Everything above as plain JSON."""
        return {**self._asdict(), "drifted": self.drifted, "interval": list(self.interval)}
