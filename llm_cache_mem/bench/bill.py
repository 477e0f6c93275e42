"""What a trace costs: tokens of calls summed as whole numbers, dollars worked out at the end."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from llm_cache_mem.accounting.pricing import Price, resolve
from llm_cache_mem.responses.usage import Usage

__all__ = ["DEFAULT_PRICE", "LONG_LIFE", "Charges", "PromptCacheBill", "cost", "price_of"]

DEFAULT_PRICE = Price(input=3.0, output=15.0, cache_read=0.30, cache_write=3.75, cache_write_1h=6.0)
_MANY: Final = 10_000  # calls whose charges wait to be summed
LONG_LIFE = 300.0
"""Seconds; a prompt cache that is to live longer is written at the price of an hour."""


def cost(price: Price, input_tokens: int, output_tokens: int) -> float:
    """Dollars for calls without any cache."""
    return (input_tokens * price.input + output_tokens * price.output) / 1_000_000


class PromptCacheBill:
    """Tokens of calls in front of a prompt cache that lives for *lifetime* seconds; *owed* are
    those that were worth writing."""

    __slots__ = ("hits", "lifetime", "owed", "read", "written")

    def __init__(self, lifetime: float) -> None:
        self.lifetime = lifetime
        self.hits = self.read = self.written = self.owed = 0

    def costs(self, price: Price, input_tokens: int, output_tokens: int) -> "Costs":
        """Dollars for calls of so many tokens in all, by three ways to write."""
        reading = price.input if price.cache_read is None else price.cache_read
        writing = price.input if price.cache_write is None else price.cache_write
        if self.lifetime > LONG_LIFE and price.cache_write_1h is not None:
            writing = price.cache_write_1h
        free = (
            cost(price, input_tokens - self.read, output_tokens) + self.read * reading / 1_000_000
        )
        surcharge = (writing - price.input) / 1_000_000
        return Costs(free + self.written * surcharge, free, free + self.owed * surcharge)


class Charges:
    """Calls in front of prompt caches that live for *lifetimes*. They are summed many at a time, in
    a tenth of the time."""

    def __init__(self, lifetimes: Iterable[float]) -> None:
        self._bills = [PromptCacheBill(lifetime) for lifetime in lifetimes]
        self._reads: list[tuple[int, ...]] = []
        self._owed: list[Sequence[int]] = []
        self._tokens = 0

    def add(self, tokens: int, reads: tuple[int, ...]) -> None:
        """A call of *tokens*, of which *reads*, by lifetime, are read and the rest written."""
        self._tokens += tokens
        self._reads.append(reads)
        if len(self._reads) >= _MANY:
            self._sum_up()

    def owe(self, tokens: Sequence[int]) -> None:
        """So many tokens, by lifetime, were worth writing."""
        self._owed.append(tokens)
        if len(self._owed) >= _MANY:
            self._sum_up()

    def merge(self, other: "Charges") -> None:
        """Count the calls of *other* too."""
        for bill, more in zip(self._bills, other.bills(), strict=True):
            bill.hits += more.hits
            bill.read += more.read
            bill.written += more.written
            bill.owed += more.owed

    def bills(self) -> list[PromptCacheBill]:
        """What came together so far, by lifetime."""
        self._sum_up()
        return self._bills

    def _sum_up(self) -> None:
        for bill, reads in zip(
            self._bills, zip(*self._reads, strict=True), strict=False
        ):  # none at all, without calls
            read = sum(reads)
            bill.hits += len(reads) - reads.count(0)
            bill.read += read
            bill.written += self._tokens - read
        for bill, owed in zip(self._bills, zip(*self._owed, strict=True), strict=False):
            bill.owed += sum(owed)
        self._reads.clear()
        self._owed.clear()
        self._tokens = 0


class Costs(NamedTuple):
    """Dollars: *write_all* pays for writing every prompt, *free_writes* for none, *oracle* for what
    will be read."""

    write_all: float
    free_writes: float
    oracle: float


def price_of(
    model: str, pricer: "Callable[[str, Usage], float | None] | None" = None
) -> Price | None:
    """What genai-prices asks for *model*, or None where it knows no price. For calls of a thousand
    tokens: long ones can cost more."""
    ask = pricer or resolve(None)
    thousand = 1000
    kinds = (
        Usage(thousand, 0),
        Usage(0, thousand),
        Usage(thousand, 0, cache_read_tokens=thousand),
        Usage(thousand, 0, cache_write_tokens=thousand),
        Usage(thousand, 0, cache_write_tokens=thousand, cache_write_1h_tokens=thousand),
    )
    dollars = [ask(model, usage) for usage in kinds]
    if dollars[0] is None or dollars[1] is None:
        return None
    # the first two are numbers
    return Price(*(None if each is None else each * 1000 for each in dollars))  # type: ignore[arg-type]
