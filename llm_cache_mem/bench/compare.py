"""Eviction policies side by side on one trace, without a time to live: hits by size, and how many
there could be at the most."""

from collections.abc import Sequence
from typing import Any, Final

from llm_cache_mem.bench.eviction import POLICIES, best, hits_of

__all__ = ["DEFAULT_SIZES", "compare"]

DEFAULT_SIZES: Final = (64, 256, 1000, 4000)


def compare(requests: Sequence[int], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """For each size the hits of the best possible eviction and of each policy, on *requests* as
    ``policies.numbered`` gives them."""
    return [
        {
            "max_size": size,
            "best": best(size, requests),
            "hits": {name: hits_of(policy(size), requests) for name, policy in POLICIES.items()},
        }
        for size in sizes
    ]
