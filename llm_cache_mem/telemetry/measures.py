"""What telemetry measures: the metrics, the labels of an event, and the state of a cache."""

import os
from collections.abc import Collection
from threading import Lock
from typing import Final, NamedTuple

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.accounting.bounded import OTHER
from llm_cache_mem.accounting.stats import Event
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores import MemoryStore, Store

__all__ = [
    "AGE_BUCKETS",
    "MOST_LABELS",
    "OUTCOMES",
    "SECONDS_BUCKETS",
    "STORE_BUCKETS",
    "LabelTable",
    "Labels",
    "entries_of",
    "is_bypassed",
    "stored_bytes",
    "waiters_of",
]

OUTCOMES: Final = frozenset({"hit", "miss", "coalesced", "skipped", "error"})
"""Names of the events that count as requests, each under its name as the outcome."""
MOST_LABELS: Final = 1000
"""Combinations of labels of one cache; what comes later is summed under ``other``."""
SECONDS_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
STORE_BUCKETS: Final = (0.00001, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
AGE_BUCKETS: Final = (1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 604800.0, 2592000.0)


class Labels(NamedTuple):
    """The labels of an event; *tags* are pairs of name and value."""

    model: str
    namespace: str
    layer: str
    reason: str
    tags: tuple[tuple[str, str], ...] = ()


class LabelTable:
    """The labels of events, at most MOST_LABELS combinations. Thread-safe.

    *tags* names those that count; None: all.
    """

    def __init__(self, tags: Collection[str] | None, most: int = MOST_LABELS) -> None:
        self._tags = None if tags is None else tuple(tags)
        self._most = most
        self._known: dict[Labels, Labels] = {}
        self._lock = Lock()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = Lock()

    def of(self, event: Event) -> Labels:
        """The labels of *event*; past the bound with OTHER in place of every name."""
        tags: tuple[tuple[str, str], ...] = ()
        if event.tags:
            wanted = self._tags
            tags = tuple(
                [pair for pair in event.tags.items() if wanted is None or pair[0] in wanted]
            )
        found = Labels(
            event.model or "", event.namespace or "", event.layer or "", event.reason or "", tags
        )
        known = self._known.get(found)
        return self._add(found) if known is None else known

    def _add(self, labels: Labels) -> Labels:
        with self._lock:
            if len(self._known) < self._most:
                return self._known.setdefault(labels, labels)
        tags = tuple((name, OTHER) for name in self._tags or ())
        return Labels(OTHER, OTHER, labels.layer, labels.reason and OTHER, tags)


def entries_of(cache: LLMCache) -> float | None:
    """The entries in the namespace of *cache*; None if its store cannot tell."""
    try:
        return cache.engine.backend.size(cache.engine.keyer.prefix())
    except StoreError:
        return None


def waiters_of(cache: LLMCache) -> float:
    """The callers that wait for the calls of others."""
    return cache.engine.flights.waiting


def is_bypassed(cache: LLMCache) -> float:
    """1 while the store fails so often that it is bypassed, else 0."""
    return float(cache.engine.backend.circuit_open)


def stored_bytes(cache: LLMCache) -> float | None:
    """The bytes that the entries of *cache* take in memory, or that its file takes on the disk;
    None where only a server knows."""
    store: Store = getattr(cache.engine.backend.inner, "back", cache.engine.backend.inner)
    if isinstance(store, MemoryStore):
        return sum(len(key) + entry.size for key, entry in store.entries())
    path = getattr(store, "path", None)
    try:
        return None if path is None else os.stat(path).st_size
    except (OSError, TypeError, ValueError):
        return None
