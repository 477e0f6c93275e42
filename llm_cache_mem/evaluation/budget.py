"""Budget: what a run has spent, and whether it may make another call."""

import threading
from typing import Final

from llm_cache_mem.errors import BudgetSpent

__all__ = ["Budget"]

_NO_PRICE: Final = (
    "budget_usd needs the price of each call, and the price of an answer is unknown: pass prices="
    " to LLMCache, or install the extra prices"
)


class Budget:
    """Dollars spent by a run, up to *most* if that is not None. Thread-safe.

    A call begins if its expected cost, the mean of those before it, and that of the calls in
    progress still fit. The first call of a run is made alone. So a run goes over by no more than
    what its last calls cost above the mean, or by that of its first.
    """

    def __init__(self, most: float | None) -> None:
        self.most = most
        self.spent = 0.0
        self.calls = 0
        self.unpriced = 0  # of these, whose price is unknown
        self._in_progress = 0
        self._lock = threading.Lock()
        self._refusal: str | None = None

    def reserve(self) -> bool:
        """Note that a call begins; False if it is to ask again a little later, BudgetSpent if it
        may not."""
        with self._lock:
            if self.most is not None and self._refusal is None:
                if not self.calls and self._in_progress:
                    return False
                mean = self.spent / self.calls if self.calls else 0.0
                expected = self.spent + mean * (self._in_progress + 1)
                if self.spent >= self.most or expected > self.most:
                    self._refusal = f"budget_usd={self.most:g} is spent"
            if self._refusal is not None:
                raise BudgetSpent(self._refusal)
            self._in_progress += 1
            return True

    def settle(self, usd: float | None, *, paid: bool) -> None:
        """Note that a call that was reserved is over, and has cost *usd* if it was *paid*."""
        with self._lock:
            self._in_progress -= 1
            if not paid:
                return
            self.calls += 1
            self.spent += usd or 0.0
            self.unpriced += usd is None
            if usd is None and self.most is not None:
                self._refusal = _NO_PRICE
