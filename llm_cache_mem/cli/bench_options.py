"""Parse the options of the benchmark: sizes, durations and prices."""

from itertools import product
from typing import TYPE_CHECKING, Literal

from llm_cache_mem.cli.arguments import MISUSED, CommandFailed, seconds_in

if TYPE_CHECKING:
    from llm_cache_mem.accounting.pricing import Price
    from llm_cache_mem.bench.clients import CacheConfig

__all__ = ["configs_in", "prices_in", "span_in"]


def configs_in(
    sizes: list[str] | None, spans: list[str] | None, policies: list[str] | None, coalesce: bool
) -> "list[CacheConfig]":
    """Return a config for each pair of limits and each policy."""
    from llm_cache_mem.bench.clients import CacheConfig

    chosen: list[Literal["lru", "sieve"]] = [_policy(policy) for policy in policies or ["lru"]]
    bounds = product(map(_size, sizes or ["256"]), map(span_in, spans or ["1h"]))
    return [CacheConfig(size, ttl, coalesce, policy) for size, ttl in bounds for policy in chosen]


def _size(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isascii() or not text.isdigit() or not int(text):
        raise CommandFailed(
            f"--max-size {text!r} is not a number of entries: write 256, or none", MISUSED
        )
    return int(text)


def _policy(text: str) -> Literal["lru", "sieve"]:
    if text not in ("lru", "sieve"):
        raise CommandFailed(f"--policy {text!r}: write lru or sieve", MISUSED)
    return "lru" if text == "lru" else "sieve"


def span_in(text: str) -> float | None:
    """Parse a time to live into seconds; None for ``none``."""
    seconds = None if text == "none" else seconds_in(text)
    if seconds == 0:
        raise CommandFailed(f"{text!r} is not a time to live: write 5m, 1h, 7d, or none", MISUSED)
    return seconds


def prices_in(text: str | None, model: str | None) -> "Price":
    """Return the price of ``--price``, or of *model* from genai-prices."""
    from llm_cache_mem.accounting.pricing import Price
    from llm_cache_mem.bench.bill import DEFAULT_PRICE, price_of

    if text is not None and model is not None:
        raise CommandFailed("give --price or --model, not both", MISUSED)
    if model is not None:
        known = price_of(model)
        if known is None:
            raise CommandFailed(
                f"no price is known for {model!r}: give --price (genai-prices is the extra prices)",
                MISUSED,
            )
        return known
    if text is None:
        return DEFAULT_PRICE
    try:
        numbers = [float(part) for part in text.split(",")]
        if not 2 <= len(numbers) <= len(Price._fields) or not all(
            0 <= number < 1e6 for number in numbers
        ):
            raise ValueError
    except ValueError:
        raise CommandFailed(
            f"--price {text!r}: write two to five numbers, as in 3,15,0.3,3.75,6", MISUSED
        ) from None
    return Price(*numbers)
