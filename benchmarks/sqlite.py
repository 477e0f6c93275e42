"""Hits on a SQLite file against diskcache and LangChain's SQLiteCache, and how a get grows with the
number of entries."""

import contextlib
import random
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Variant, compare, show
from benchmarks.peers.contestant import Contestant, Place, opened
from benchmarks.peers.langchain_caches import OnSQLite
from benchmarks.peers.on_disk import DiskCache, OursOnSQLite
from benchmarks.workload import VALUE, fresh, request
from llm_cache_mem import LLMCache

__all__ = ["growth", "hits"]


def hits() -> None:
    """A hit on M among 1,000 entries: key, read, and a value that is the caller's own, for
    everyone."""
    stored = [request("M", number) for number in range(1000)]
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(action="ignore"),
        contextlib.ExitStack() as stack,
    ):
        contestants, absent = opened(
            (OursOnSQLite, DiskCache, OnSQLite), Place(10_000, Path(folder))
        )
        for contestant in contestants:
            stack.callback(contestant.close)
            for plain in stored:
                contestant.put(contestant.asked(plain), contestant.answered(VALUE))
        for name, reason in absent:
            print(f"  {name}: {reason}")
        ours, *others = [
            Variant(contestant.name, _hits(contestant, stored[7])) for contestant in contestants
        ]
        for base in others:
            show(
                f"hit on SQLite, M, against {base.name}",
                compare([base, ours]),
                0.5 if base.name == DiskCache.name else 0.05,
            )


def _hits(
    contestant: Contestant, plain: dict[str, Any]
) -> Callable[[], list[Callable[[], object]]]:
    return lambda: [lambda q=contestant.asked(q): contestant.get(q) for q in fresh(plain, 60)]


def growth() -> None:
    """A get of a known request among a thousand entries and among a million."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("memory", "sqlite"):
            variants = []
            for size in (1_000, 1_000_000):
                backend = "memory" if name == "memory" else Path(folder, f"{size}.db")
                cache = LLMCache(max_size=None, ttl_seconds=None, backend=backend)
                for number in range(size):
                    cache.put(str(number), number)
                variants.append(
                    Variant(
                        "llm-cache-mem" if size > 1000 else "among 1,000", _random_gets(cache, size)
                    )
                )
            show(
                f"get among a million entries against a thousand, {name}",
                compare(variants, rounds=11),
                3.0,
            )


def _random_gets(cache: LLMCache, size: int) -> Callable[[], list[Callable[[], object]]]:
    rng = random.Random(7)
    return lambda: [lambda q=str(rng.randrange(size)): cache.get(q) for _ in range(500)]
