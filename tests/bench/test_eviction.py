"""Eviction policies on keys alone, against an exhaustive search for the best."""

from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_cache_mem.bench.clients import CacheConfig
from llm_cache_mem.bench.eviction import POLICIES, StorePolicy, best_hits, count_hits
from llm_cache_mem.bench.simulation import Simulation
from llm_cache_mem.bench.trace import Call, TraceStatistics

requests_of_keys = st.lists(st.integers(0, 5), max_size=12)


def tried_out(size: int, requests: tuple[int, ...]) -> int:
    """The most hits, by trying every decision."""

    @lru_cache(None)
    def most(place: int, held: frozenset[int]) -> int:
        if place == len(requests):
            return 0
        key = requests[place]
        if key in held:
            return 1 + most(place + 1, held)
        admitted = held | {key}
        choices = (
            [held, admitted]
            if len(admitted) <= size
            else [held, *(admitted - {victim} for victim in held)]
        )
        return max(most(place + 1, choice) for choice in choices)

    return most(0, frozenset())


@given(st.integers(1, 4), requests_of_keys)
def test_best_hits_equals_exhaustive_search(size: int, requests: list[int]) -> None:
    assert best_hits(size, requests) == tried_out(size, tuple(requests))


@pytest.mark.parametrize("name", POLICIES)
@given(size=st.integers(1, 30), requests=st.lists(st.integers(0, 40), max_size=300))
def test_no_policy_beats_the_best_or_exceeds_its_size(
    name: str, size: int, requests: list[int]
) -> None:
    policy = POLICIES[name](size)
    assert count_hits(policy, requests) <= best_hits(size, requests)
    held = [key for key in range(41) if _holds(policy, key)]
    assert len(held) <= size


def _holds(policy: Any, key: int) -> bool:
    if isinstance(policy, StorePolicy):
        return policy.store.get(str(key)) is not None
    parts = (
        ("_window", "_probation", "_protected")
        if hasattr(policy, "_window")
        else ("_keys", "_uses")
    )
    return any(key in getattr(policy, part, ()) for part in parts)


@pytest.mark.parametrize("name", POLICIES)
def test_nothing_is_evicted_while_there_is_room(name: str) -> None:
    many = (
        90 if name == "W-TinyLFU" else 100
    )  # its window and its protected segment are never both full
    requests = [*range(many), *range(many)]
    assert count_hits(POLICIES[name](100), requests) == len(requests) // 2


def test_keys_are_numbered_in_order_of_arrival() -> None:
    trace = TraceStatistics(keep_keys=True)
    trace.add(Call(float(at), key, 0, 0) for at, key in enumerate(["b", "a", "b", "c"]))
    assert trace.keys is not None
    assert list(trace.keys) == [0, 1, 0, 2]


async def test_simulation_runs_inside_a_running_event_loop() -> None:
    """As in a notebook."""
    calls = [Call(float(at), "k", 2000, 50) for at in (0, 1, 5)]
    simulation = Simulation([CacheConfig()]).run(calls)
    stats = simulation.clients[0].stats()
    assert (stats.hits, stats.coalesced) == (1, 1)
