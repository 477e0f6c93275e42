"""Savings by the providers' own prompt caches: the discount on reads less the premium on writes."""

from collections.abc import Mapping
from math import sqrt
from typing import Any, NamedTuple

from llm_cache_mem.accounting.bounded import slot
from llm_cache_mem.accounting.sums import Sums

__all__ = ["PaidCall", "ProviderCacheStats", "ProviderLedger", "ProviderSums", "total"]

_REMEMBERED_IDS = 1024


class PaidCall(NamedTuple):
    """One call that a provider answered. *usage* is as in Entry; dollars are None if the price is
    unknown.

    *read_usd*: how much less the call cost because part of its input was read from the provider's
    cache; *premium_usd*: how much more because part of it was written there. *identity* is the
    provider's id of the answer.
    """

    model: str | None
    usage: tuple[int, ...] | None
    seconds: float | None = None
    read_usd: float | None = None
    premium_usd: float | None = None
    identity: str | None = None


class ProviderCacheStats(NamedTuple):
    """What the providers' prompt caches did for the calls that were made.

    *calls* are those whose usage is known, *cached_calls* those of them that read something.
    *read_usd* was saved by reading, *premium_usd* paid extra for writing; *unpriced_calls* used the
    cache at an unknown price. *seconds_saved* is an estimate: the read tokens at the speed at which
    this model processes fresh ones; 0.0 while that cannot be told from noise.
    """

    calls: int = 0
    cached_calls: int = 0
    input_tokens: int = 0
    read_tokens: int = 0
    write_tokens: int = 0
    read_usd: float = 0.0
    premium_usd: float = 0.0
    unpriced_calls: int = 0
    seconds_saved: float = 0.0

    @property
    def share(self) -> float:
        """Read tokens over input tokens, from 0 to 1; 0.0 before the first call."""
        return self.read_tokens / self.input_tokens if self.input_tokens else 0.0

    @property
    def saved_usd(self) -> float:
        """Dollars saved by reading less the premium for writing; negative if writes did not pay."""
        return self.read_usd - self.premium_usd

    def as_dict(self) -> dict[str, Any]:
        """Everything above as plain JSON."""
        return {**self._asdict(), "share": self.share, "saved_usd": self.saved_usd}


class ProviderSums(Sums):
    """Running sums of calls by what a provider's prompt cache did; *cost_usd* is what reading
    saved."""

    def __init__(self) -> None:
        super().__init__()
        self.cached_calls = self.read_tokens = self.write_tokens = 0
        self.premium_usd = 0.0
        self._pace = _Pace()

    def add_call(self, call: PaidCall) -> None:
        """Add *call*, if its usage is known."""
        if call.usage is None:
            return
        entered, output, read, write = call.usage[:4]
        saved: float | None = 0.0
        if read or write:
            self.cached_calls += read > 0
            self.read_tokens += read
            self.write_tokens += write
            saved = None if call.premium_usd is None else call.read_usd
            if saved is not None and call.premium_usd is not None:
                self.premium_usd += call.premium_usd
        self.add(call.usage, call.seconds, saved)
        if call.seconds is not None:
            self._pace.add(entered - read, output, call.seconds)

    def stats(self) -> ProviderCacheStats:
        seconds = self.read_tokens * self._pace.seconds_a_token() if self.read_tokens else 0.0
        return ProviderCacheStats(
            self.calls,
            self.cached_calls,
            self.input_tokens,
            self.read_tokens,
            self.write_tokens,
            self.cost_usd,
            self.premium_usd,
            self.unpriced,
            seconds,
        )


class _Pace:
    """The seconds that a model takes for one fresh input token, by least squares over all calls so
    far of ``seconds = a + b * fresh + c * output``."""

    __slots__ = ("_means", "_moments", "_number")

    _FEWEST = 6
    _CERTAIN = 2.0  # how many standard errors from 0 the pace must be

    def __init__(self) -> None:
        self._number = 0
        self._means = [0.0, 0.0, 0.0]
        self._moments = [
            0.0
        ] * 6  # of fresh, output and seconds about their means: ff, fo, fs, oo, os, ss

    def add(self, fresh: int, output: int, seconds: float) -> None:
        self._number += 1
        means, moments = self._means, self._moments
        before = (fresh - means[0], output - means[1], seconds - means[2])
        for i, delta in enumerate(before):
            means[i] += delta / self._number
        after = (fresh - means[0], output - means[1], seconds - means[2])
        slot = 0
        for i in range(3):
            for j in range(i, 3):
                moments[slot] += before[i] * after[j]
                slot += 1

    def seconds_a_token(self) -> float:
        """Seconds for one fresh input token; 0.0 while there are too few calls, or too much noise,
        to tell."""
        ff, fo, fs, oo, os, ss = self._moments
        if self._number < self._FEWEST or ff <= 0:
            return 0.0
        if oo <= 1e-9 * self._number:  # every answer was as long as the others
            fo = os = 0.0
            oo = 1.0
        spread = ff * oo - fo * fo
        if spread <= 1e-9 * ff * oo:  # the two always grew together
            return 0.0
        pace = (fs * oo - os * fo) / spread
        by_output = (os * ff - fs * fo) / spread
        noise = max(0.0, ss - pace * fs - by_output * os) / (self._number - 3)
        return pace if pace > self._CERTAIN * sqrt(noise * oo / spread) else 0.0


class ProviderLedger:
    """ProviderSums by model. Not thread-safe."""

    def __init__(self) -> None:
        self._models: dict[str, ProviderSums] = {}
        self._unmatched: dict[tuple[str, bool], None] | None = None

    def watch(self) -> None:
        """Expect calls from both the cache and a tracker from now on: a call that both report
        counts once, by the id of its answer."""
        if self._unmatched is None:
            self._unmatched = {}

    def add(self, call: PaidCall, *, observed: bool = False) -> bool:
        """Count *call*; whether it was new. *observed*: reported by a tracker, otherwise by the
        cache."""
        if call.usage is None or (
            self._unmatched is not None and self._already(self._unmatched, call.identity, observed)
        ):
            return False
        slot(self._models, call.model or "", ProviderSums).add_call(call)
        return True

    @staticmethod
    def _already(
        unmatched: dict[tuple[str, bool], None], identity: str | None, observed: bool
    ) -> bool:
        """Whether the other one has reported this call. Ids are matched in pairs, because test
        servers use one id for all answers."""
        if identity is None:
            return False
        if (identity, not observed) in unmatched:
            del unmatched[identity, not observed]
            return True
        unmatched[identity, observed] = None
        if len(unmatched) > _REMEMBERED_IDS:
            del unmatched[next(iter(unmatched))]
        return False

    def by_model(self) -> dict[str, ProviderCacheStats]:
        return {name: sums.stats() for name, sums in self._models.items()}


def total(models: Mapping[str, ProviderCacheStats]) -> ProviderCacheStats:
    """The sum over all models."""
    return (
        ProviderCacheStats(*map(sum, zip(*models.values(), strict=True)))
        if models
        else ProviderCacheStats()
    )
