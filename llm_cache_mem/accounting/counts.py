"""What one process has counted and not yet added to the totals that its store keeps.

Sums are whole numbers, seconds in millionths and dollars in billionths, so that those of many
processes add up exactly in whatever order they come.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from llm_cache_mem.accounting.bounded import LONGEST_NAME, MOST_NAMES, OTHER
from llm_cache_mem.accounting.sums import Sums

__all__ = ["HIDDEN_MODEL", "NAMES", "Batch", "Counts", "EntryHits", "Pending", "Place"]

Place = tuple[str, str]
"""A namespace and a model; empty where there is none."""

HIDDEN_MODEL: Final = "*"
"""In place of all models in a store that encrypts entries."""
_MANY_KEYS = 65_536  # entries whose hits wait to be told, after which that should not wait longer
_MOST_KEYS = 2 * _MANY_KEYS
_SLICE = 4096  # entries whose hits are told at once, while other writers wait
_PLACES_SLICE = 256  # places whose sums are
_MICRO, _NANO = 1e6, 1e9
_LARGEST = 2.0**53


NAMES: Final = (
    "hits",
    "misses",
    "coalesced",
    "stored",
    "skipped",
    "input_tokens",
    "output_tokens",
    "micros",
    "nanos",
    "unpriced",
    "calls",
    "paid_nanos",
    "unpriced_calls",
)
"""The names of the sums, in a store too."""


class Counts:
    """Sums of one namespace and model; those that are not given are 0."""

    __slots__ = NAMES

    hits: int
    misses: int
    """Those that were then coalesced are among them."""
    coalesced: int
    stored: int
    skipped: int
    input_tokens: int
    """Saved by hits and coalesced calls, as are *output_tokens*, *micros* and *nanos*."""
    output_tokens: int
    micros: int
    nanos: int
    unpriced: int
    """Hits and coalesced calls of unknown price."""
    calls: int
    """Calls that were made, and answered."""
    paid_nanos: int
    unpriced_calls: int

    def __init__(self, **amounts: int) -> None:
        for name in NAMES:
            setattr(self, name, amounts.get(name, 0))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counts) and dict(self.amounts()) == dict(other.amounts())

    def save(self, sums: Sums) -> None:
        """Add what the calls in *sums* saved."""
        self.input_tokens += sums.input_tokens
        self.output_tokens += sums.output_tokens
        self.micros += _whole(sums.seconds, _MICRO)
        self.nanos += _whole(sums.cost_usd, _NANO)
        self.unpriced += sums.unpriced

    def pay(self, usd: float | None) -> None:
        """Add a call that was made at the price of *usd*; None is unknown."""
        self.calls += 1
        if usd is None:
            self.unpriced_calls += 1
        else:
            self.paid_nanos += _whole(usd, _NANO)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in NAMES})

    def amounts(self) -> Iterator[tuple[str, int]]:
        """The sums that are not zero, by their names."""
        for name in NAMES:
            if amount := getattr(self, name):
                yield name, amount

    @property
    def asked(self) -> int:
        """How many calls were asked for."""
        return self.hits + self.misses

    @property
    def avoided(self) -> int:
        """Calls that were not made: hits and coalesced calls."""
        return self.hits + self.coalesced

    @property
    def tokens_saved(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def seconds_saved(self) -> float:
        return self.micros / _MICRO

    @property
    def saved_usd(self) -> float:
        return self.nanos / _NANO

    @property
    def paid_usd(self) -> float:
        return self.paid_nanos / _NANO

    def as_dict(self) -> dict[str, int | float]:
        """The counts, and the sums in seconds and dollars, by the names that CacheStats has."""
        return {
            "avoided": self.avoided,
            "hits": self.hits,
            "misses": self.misses,
            "coalesced": self.coalesced,
            "stored": self.stored,
            "skipped": self.skipped,
            "input_tokens_saved": self.input_tokens,
            "output_tokens_saved": self.output_tokens,
            "seconds_saved": self.seconds_saved,
            "saved_usd": self.saved_usd,
            "unpriced_hits": self.unpriced,
            "calls": self.calls,
            "paid_usd": self.paid_usd,
            "unpriced_calls": self.unpriced_calls,
        }


class EntryHits(NamedTuple):
    """How often an entry has answered a call, coalesced ones included, and when the store learnt of
    the *last* one, in Unix seconds."""

    hits: int
    last: float


class Batch(NamedTuple):
    """What is to be added to the totals of a store at *now*, in Unix seconds. *number* is another
    one for each batch: one that a store has added already is not added again."""

    number: str
    now: float
    counts: Mapping[Place, Counts]
    hits: Mapping[str, int]
    """By the key of the entry."""

    def without_models(self) -> "Batch":
        """The same for a store that must not tell the names of models."""
        sums: dict[Place, Counts] = {}
        for (namespace, _), counts in self.counts.items():
            place = namespace, HIDDEN_MODEL
            sums[place] = sums.get(place, Counts()) + counts
        return self._replace(counts=sums)


class Pending:
    """What was counted since the store was told last. Not thread-safe."""

    def __init__(self) -> None:
        self.counts: dict[Place, Counts] = {}
        self.hits: dict[str, int] = {}

    def of(self, namespace: str, model: str | None) -> Counts:
        """The sums of a namespace and model, or of OTHER where there are too many of them."""
        place = namespace, model or ""
        found = self.counts.get(place)
        if found is None:
            if len(self.counts) >= MOST_NAMES or max(map(len, place)) > LONGEST_NAME:
                place = OTHER, OTHER
            found = self.counts.setdefault(place, Counts())
        return found

    def hit(self, key: str) -> None:
        """Count a call that the entry under *key* has answered."""
        self.hits[key] = self.hits.get(key, 0) + 1

    def add_hits(self, namespace: str, model: str | None, sums: Sums) -> None:
        """Add the *sums* of calls that entries have answered."""
        counts = self.of(namespace, model)
        counts.hits += sums.calls
        counts.save(sums)
        if len(self.hits) > _MOST_KEYS:  # the store has taken none for long
            self.hits.clear()

    def batches(self, number: str, now: float) -> Iterator[Batch]:
        """The same as batches for the store, none so large that other writers wait for long."""
        places, entries = iter(self.counts.items()), iter(self.hits.items())
        for part in itertools.count():
            counts = dict(itertools.islice(places, _PLACES_SLICE))
            hits = dict(itertools.islice(entries, _SLICE))
            if not counts and not hits:
                return
            yield Batch(f"{number}.{part}", now, counts, hits)

    @property
    def is_full(self) -> bool:
        """Whether the store should be told at once."""
        return len(self.hits) >= _MANY_KEYS


def _whole(number: float, parts: float) -> int:
    """*number* in whole *parts*; 0 where it is too large for that."""
    return round(number * parts) if -_LARGEST < number * parts < _LARGEST else 0
