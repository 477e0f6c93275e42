"""Advice on the cheapest way to cache a prefix, from its length and the rate of calls."""

from math import exp, isfinite, log
from typing import Any, NamedTuple

from llm_cache_mem.accounting import pricing
from llm_cache_mem.prompt_cache.rules import Provider, Rules, provider_of, rules_for
from llm_cache_mem.responses.usage import Usage

__all__ = ["Advice", "Option", "advise", "cost"]


class Option(NamedTuple):
    """One way to use the provider's cache. *cost*: of the prefix, over the hours in question, in
    units of sending it once uncached.

    *usd*: the same in dollars, None if the price is not known. *break_even*: the calls an hour from
    which on it is cheaper than no cache over that time; None if it never is.
    """

    name: str
    ttl: str | None
    keep_alive: bool
    cost: float
    usd: float | None
    break_even: float | None


class Advice(NamedTuple):
    """The *options*, the *best* (cheapest) of them, and the *reason* in a sentence."""

    best: Option
    options: tuple[Option, ...]
    reason: str

    def __str__(self) -> str:
        rows = [self.reason, ""]
        for option in self.options:
            usd = "" if option.usd is None else f"  ${option.usd:,.4f}"
            start = (
                ""
                if option.break_even is None or option.name == "nothing"
                else f"  pays from {option.break_even:.2f} calls/hour on"
            )
            rows.append(
                f"{'>' if option is self.best else ' '} {option.name:<18} {option.cost:>9.2f}"
                f" x{usd}{start}"
            )
        return "\n".join(rows)


def advise(
    calls_per_hour: float,
    prefix_tokens: int,
    *,
    model: str,
    provider: Provider | None = None,
    hours: float = 8.0,
    prices: pricing.Prices = None,
    margin: float = 0.8,
) -> Advice:
    """Advise on a prefix of *prefix_tokens* that begins *calls_per_hour* calls at random times, for
    *hours*.

    With r and w the prices of reading and of writing it, as parts of the price of sending it, T the
    lifetime, L = calls an hour, and calls that come independently of one another (Poisson), a call
    finds the prefix with probability 1 - exp(-L T), and

    - nothing costs L a time unit;
    - a lifetime T, renewed by use: L (r + (w - r) exp(-L T)), and the first call writes. In the
      long run it pays from L = ln((w - r) / (1 - r)) / T on;
    - keep-alive: every call and every renewal reads, L r + r / (*margin* T). In the long run it
      pays from L = r / ((1 - r) *margin* T) on.

    ``cost`` has the exact sums for a limited time, on which the break-evens are based too: for
    fewer hours it takes more calls an hour. Prices are those of *prices* or genai-prices; for a
    model without a price, the factors that its provider documents. ValueError for numbers out of
    range, and for a *model* of an unknown provider unless *provider* is given.
    """
    for name, number in (
        ("calls_per_hour", calls_per_hour),
        ("prefix_tokens", prefix_tokens),
        ("hours", hours),
        ("margin", margin),
    ):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise TypeError(f"{name} must be a number, not {type(number).__name__}")
    if (
        not calls_per_hour >= 0
        or prefix_tokens < 1
        or not hours > 0
        or not 0 < margin < 1
        or not isfinite(calls_per_hour * hours)
    ):
        raise ValueError(
            "calls_per_hour must be >= 0, prefix_tokens >= 1, hours > 0 and margin between 0 and 1,"
            " and none of them infinite"
        )
    if provider is None and provider_of(model) is None:
        raise ValueError(
            f"the provider of {model!r} is unknown: give provider='anthropic' or provider='openai',"
            " whose rules differ"
        )
    rules = rules_for(model, provider)
    factors = _factors(rules, model, prefix_tokens, pricing.resolve(prices))
    uncached = cost(calls_per_hour, hours, 1.0, 1.0, None)
    options = [Option("nothing", None, False, uncached, factors.usd(uncached), 0.0)]
    for ttl, seconds in rules.lifetimes.items():
        write, read, lifetime = factors.write[ttl], factors.read, seconds / 3600
        spent = cost(calls_per_hour, hours, read, write, lifetime)
        start = _pays_from(hours, read, write, lifetime)
        options.append(Option(ttl, ttl, False, spent, factors.usd(spent), start))
        spent = cost(calls_per_hour, hours, read, write, lifetime, renewals=margin * lifetime)
        start = (
            None
            if read >= 1
            else cost(0.0, hours, read, write, lifetime, renewals=margin * lifetime)
            / ((1 - read) * hours)
        )
        options.append(Option(f"{ttl}, keep-alive", ttl, True, spent, factors.usd(spent), start))
    if prefix_tokens < rules.minimum_tokens:
        why = (
            f"{model} caches from {rules.minimum_tokens:,} tokens on, and the prefix has"
            f" {prefix_tokens:,}: there is nothing to gain."
        )
        return Advice(options[0], tuple(options), why)
    best = min(options, key=lambda option: option.cost)  # the simpler of two equals comes first
    if best.name == "nothing":
        return Advice(
            best,
            tuple(options),
            f"At {calls_per_hour:g} calls an hour no way of caching is cheaper than none.",
        )
    saved = 1 - best.cost / uncached
    return Advice(
        best,
        tuple(options),
        f"At {calls_per_hour:g} calls an hour, {best.name} saves {saved:.0%} of what the prefix"
        " costs.",
    )


def cost(
    calls_per_hour: float,
    hours: float,
    read: float,
    write: float,
    lifetime: float | None,
    *,
    renewals: float | None = None,
) -> float:
    """The expected cost of the prefix over *hours*, in units of sending it once; *lifetime* in
    hours, None for no cache.

    Calls at rate L for H hours. A call at time t finds the prefix if another came within the last
    min(t, T): the expected number of those that do not is (1 - exp(-L m)) + L (H - m) exp(-L T),
    with m = min(T, H). With *renewals*, in hours, the prefix is written once and then read by every
    call and at every renewal.
    """
    calls = calls_per_hour * hours
    if lifetime is None:
        return calls
    if renewals is not None:
        return write + calls * read + (hours // renewals) * read
    early = min(lifetime, hours)
    misses = (
        1
        - exp(-calls_per_hour * early)
        + calls_per_hour * (hours - early) * exp(-calls_per_hour * lifetime)
    )
    return misses * write + (calls - misses) * read


def _pays_from(hours: float, read: float, write: float, lifetime: float) -> float | None:
    """The calls an hour from which on a lifetime that use renews is cheaper than no cache, found by
    bisection."""
    if read >= 1:
        return None
    if write <= 1:
        return 0.0
    low, high = 0.0, write / ((1 - read) * hours) + log((write - read) / (1 - read)) / lifetime
    while cost(high, hours, read, write, lifetime) > high * hours:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if cost(middle, hours, read, write, lifetime) > middle * hours
            else (low, middle)
        )
    return high


class _Factors(NamedTuple):
    read: float
    write: dict[str, float]
    once_usd: float | None

    def usd(self, units: float) -> float | None:
        return None if self.once_usd is None else units * self.once_usd


def _factors(rules: Rules, model: str, tokens: int, price: pricing.Pricer) -> _Factors:
    """The prices of reading and writing relative to sending, from the price list or the rules."""

    def dollars(**cached: int) -> float | None:
        return price(model, Usage(tokens, 0, **cached))

    once, read = dollars(), dollars(cache_read_tokens=tokens)
    written: dict[str, Any] = {ttl: dollars(cache_write_tokens=tokens) for ttl in rules.lifetimes}
    if "1h" in written:
        written["1h"] = dollars(cache_write_tokens=tokens, cache_write_1h_tokens=tokens)
    if not once or read is None or None in written.values():
        return _Factors(rules.read_factor, dict(rules.write_factors), once or None)
    return _Factors(read / once, {ttl: usd / once for ttl, usd in written.items()}, once)
