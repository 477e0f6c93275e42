"""Budget: what a run has spent, and whether it may make another call."""

import threading
from typing import Final

from llm_cache_mem.errors import BudgetSpent

__all__ = ["Budget"]

_NO_PRICE: Final = (
    "budget_usd needs the price of each call, and that of an answer is unknown: pass prices= to"
    " LLMCache, or install the extra prices"
)


class Budget:
    """Dollars spent by a run, up to *most* if that is not None. Thread-safe.

    A call begins if its expected cost, the mean of those before it, and that of the calls in
    progress still fit. So a run can only go over by what its last calls cost above the mean, or by
    the first calls, of which no cost is known yet.
    """

    def __init__(self, most: float | None) -> None:
        self.most = most
        self.spent = 0.0
        self.calls = 0
        self._in_progress = 0
        self._lock = threading.Lock()
        self._refusal: str | None = None

    def reserve(self) -> None:
        """Note that a call begins; BudgetSpent if it may not."""
        with self._lock:
            if self.most is not None and self._refusal is None:
                mean = self.spent / self.calls if self.calls else 0.0
                if (
                    self.spent >= self.most
                    or self.spent + mean * (self._in_progress + 1) > self.most
                ):
                    self._refusal = f"budget_usd={self.most:g} is spent"
            if self._refusal is not None:
                raise BudgetSpent(self._refusal)
            self._in_progress += 1

    def settle(self, usd: float | None, *, paid: bool) -> None:
        """Note that a call that was reserved is over, and has cost *usd* if it was *paid*."""
        with self._lock:
            self._in_progress -= 1
            if not paid:
                return
            self.calls += 1
            self.spent += usd or 0.0
            if usd is None and self.most is not None:
                self._refusal = _NO_PRICE
