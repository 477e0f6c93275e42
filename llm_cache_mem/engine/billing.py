"""Billing: what the provider was paid for an answer, read from it and counted."""

from collections.abc import Callable
from typing import Any, NamedTuple

from llm_cache_mem.accounting import pricing
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.accounting.provider import PaidCall
from llm_cache_mem.engine.settings import Settings
from llm_cache_mem.keys.request import Request
from llm_cache_mem.responses import usage
from llm_cache_mem.values.payload import Payload

__all__ = ["NOT_READ", "Billing", "Listener", "Paid"]

Listener = Callable[[Request, Any, float | None], object]
"""Called with request, response and seconds for each call that is paid for; must not raise."""

_UNKNOWN = pricing.Bill()
_FREE = pricing.Bill(usd=0.0)


class Paid(NamedTuple):
    """What a response took: *model* is the one that answered, *bill* is in dollars."""

    usage: usage.Usage | None
    model: str | None
    bill: pricing.Bill
    seconds: float | None


NOT_READ = Paid(None, None, _UNKNOWN, None)


class Billing:
    """Reads what responses took, and counts it in *ledger*. Thread-safe."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._settings = settings
        self._listeners: tuple[Listener, ...] = ()
        self.account = self._read_account
        """What a new entry takes where its usage and price may be read later."""

    def listen(self, listener: Listener) -> None:
        """Call *listener* for each call that is paid for from now on."""
        self._listeners = (*self._listeners, listener)

    def read(self, asked: str | None, response: Any, seconds: float | None) -> Paid:
        """What *response* took; *asked* is the model that was asked."""
        if self._settings.free:
            return Paid(None, None, _FREE, seconds)
        if response is None:
            return Paid(None, None, _UNKNOWN, seconds)
        used, answered_by = usage.read_usage(response), usage.read_model(response)
        if used is None:
            return Paid(None, answered_by, _UNKNOWN, seconds)
        bill = pricing.bill(self._settings.price, (answered_by, asked), used)
        return Paid(used, answered_by, bill, seconds)

    def count(
        self, request: Request, response: Any, seconds: float | None, price_rate: float = 1.0
    ) -> Paid:
        """What the provider was paid for *response*, counted whether it will be stored or not."""
        paid = self.read(request.model, response, seconds)
        if price_rate != 1.0:
            paid = paid._replace(bill=paid.bill.at(price_rate))
        model, bill = request.model or paid.model, paid.bill
        identity = usage.identify(response) if self._ledger.watched else None
        call = PaidCall(model, paid.usage, seconds, bill.read_usd, bill.premium_usd, identity)
        if paid.usage is not None:
            self._ledger.paid(call)
        if request.tags or self._ledger.counts_calls:
            self._ledger.called(request.key, request.tags, call, bill.usd)
        for tell in self._listeners:
            tell(request, response, seconds)
        return paid

    def usd_of(self, model: str | None, response: Any, *, price_rate: float = 1.0) -> float | None:
        """The cost of *response* in dollars, *model* being the one that was asked; None without a
        price. *price_rate* is as in ``Writer.store``."""
        return self.read(model, response, None).bill.at(price_rate).usd

    async def load_prices(self) -> None:
        """Load the price list without blocking the event loop."""
        await pricing.aload(self._settings.price)

    def _read_account(
        self, payload: Payload, asked: str | None
    ) -> tuple[str | None, tuple[int, ...] | None, float | None]:
        paid = self.read(asked, payload.peek(), None)
        return asked or paid.model, paid.usage, paid.bill.usd
