"""The cost of a trace: tokens are summed as integers, and dollars computed at the end."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from llm_cache_mem.accounting.pricing import Price, resolve
from llm_cache_mem.responses.usage import Usage

__all__ = ["DEFAULT_PRICE", "SHORT_TTL", "Charges", "PromptCacheBill", "cost", "price_of"]

DEFAULT_PRICE = Price(input=3.0, output=15.0, cache_read=0.30, cache_write=3.75, cache_write_1h=6.0)
_BATCH: Final = 10_000  # calls to sum at once
SHORT_TTL = 300.0
"""Seconds; a prompt cache with a longer time to live is written at the price of an hour."""


def cost(price: Price, input_tokens: int, output_tokens: int) -> float:
    """Return the dollars for calls without any cache."""
    return (input_tokens * price.input + output_tokens * price.output) / 1_000_000


class PromptCacheBill:
    """Tokens of calls to a prompt cache with a time to live of *ttl* seconds: *read*, *written*,
    and *useful_writes*, the written tokens that were read later. *hits* are calls that read any."""

    __slots__ = ("hits", "read", "ttl", "useful_writes", "written")

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self.hits = self.read = self.written = self.useful_writes = 0

    def costs(self, price: Price, input_tokens: int, output_tokens: int) -> "Costs":
        """Return the dollars for calls with so many tokens in total."""
        reading = price.input if price.cache_read is None else price.cache_read
        writing = price.input if price.cache_write is None else price.cache_write
        if self.ttl > SHORT_TTL and price.cache_write_1h is not None:
            writing = price.cache_write_1h
        free = (
            cost(price, input_tokens - self.read, output_tokens) + self.read * reading / 1_000_000
        )
        surcharge = (writing - price.input) / 1_000_000
        return Costs(free + self.written * surcharge, free, free + self.useful_writes * surcharge)


class Charges:
    """The charges for calls to prompt caches with these *ttls*, summed in batches, which takes a
    tenth of the time."""

    def __init__(self, ttls: Iterable[float]) -> None:
        self._bills = [PromptCacheBill(ttl) for ttl in ttls]
        self._reads: list[tuple[int, ...]] = []
        self._useful_writes: list[Sequence[int]] = []
        self._tokens = 0

    def add(self, tokens: int, reads: tuple[int, ...]) -> None:
        """Add a call of *tokens*, of which *reads*, one number per TTL, are read and the rest
        written."""
        self._tokens += tokens
        self._reads.append(reads)
        if len(self._reads) >= _BATCH:
            self._flush()

    def add_useful_writes(self, tokens: Sequence[int]) -> None:
        """Add written tokens that were read later, one number per TTL."""
        self._useful_writes.append(tokens)
        if len(self._useful_writes) >= _BATCH:
            self._flush()

    def merge(self, other: "Charges") -> None:
        """Add the calls of *other*."""
        for bill, more in zip(self._bills, other.bills(), strict=True):
            bill.hits += more.hits
            bill.read += more.read
            bill.written += more.written
            bill.useful_writes += more.useful_writes

    def bills(self) -> list[PromptCacheBill]:
        """Return the bills so far, one per TTL."""
        self._flush()
        return self._bills

    def _flush(self) -> None:
        for bill, reads in zip(
            self._bills, zip(*self._reads, strict=True), strict=False
        ):  # not strict: without calls there are no reads
            read = sum(reads)
            bill.hits += len(reads) - reads.count(0)
            bill.read += read
            bill.written += self._tokens - read
        for bill, tokens in zip(self._bills, zip(*self._useful_writes, strict=True), strict=False):
            bill.useful_writes += sum(tokens)
        self._reads.clear()
        self._useful_writes.clear()
        self._tokens = 0


class Costs(NamedTuple):
    """Dollars if every prompt is written at its price, if writing is free, and if an *oracle*
    writes only what will be read."""

    write_all: float
    free_writes: float
    oracle: float


def price_of(
    model: str, pricer: "Callable[[str, Usage], float | None] | None" = None
) -> Price | None:
    """Return the price of *model* from genai-prices, or None if unknown. It is the price of calls
    of a thousand tokens: longer ones can cost more."""
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
    per_million = [None if each is None else each * 1000 for each in dollars]
    return Price(*per_million)  # type: ignore[arg-type]  # the first two are numbers
