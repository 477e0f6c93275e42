"""The simulation against plain models of its parts, and many clients against each alone."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_cache_mem.bench.clients import CacheConfig
from llm_cache_mem.bench.prefix_tree import MINIMUM_TOKENS, PrefixTree
from llm_cache_mem.bench.simulation import Simulation, mark_overlaps
from llm_cache_mem.bench.trace import Call, runs_of

BLOCK = 512
PROMPT_TTLS = (5.0, 20.0)


@st.composite
def traces(draw: st.DrawFn) -> list[Call]:
    """Calls that often go on behind the same blocks, repeat one another, and overlap. Sums of such
    times are exact."""
    at, calls = 0.0, []
    for _ in range(draw(st.integers(1, 40))):
        at += draw(st.sampled_from((0.0, 0.5, 1.0, 7.0, 30.0)))
        ids = draw(
            st.sampled_from(
                ([], [1], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 9, 10], [1, 2, 9, 7, 8], [4, 5])
            )
        )
        tokens = max(0, len(ids) * BLOCK - draw(st.sampled_from((0, 100))))
        calls.append(
            Call(
                at,
                f"{ids} {tokens}",
                tokens,
                10,
                runs_of(ids, BLOCK),
                seconds=draw(st.sampled_from((0.0, 0.375, 1.0, 9.0))),
            )
        )
    return calls


@dataclass
class PlainPromptCache:
    """When each prefix was last sent."""

    used: dict[tuple[int, ...], float] = field(default_factory=dict)

    def send(self, call: Call, ttl: float) -> int:
        """The tokens that *call* reads."""
        if call.input_tokens < MINIMUM_TOKENS:
            return 0
        ids = [first + place for first, blocks, _ in call.runs for place in range(blocks)]
        prefixes = [tuple(ids[:end]) for end in range(1, len(ids) + 1)]
        there = [
            len(prefix) * BLOCK
            for prefix in prefixes
            if self.used.get(prefix, float("-inf")) >= call.at - ttl
        ]
        self.used.update(dict.fromkeys(prefixes, call.at))
        return min(max(there), call.input_tokens) if there and max(there) >= MINIMUM_TOKENS else 0


@settings(deadline=None, max_examples=60)
@given(traces(), st.data())
def test_prefix_tree_matches_a_plain_prompt_cache(calls: list[Call], data: st.DataObject) -> None:
    tree = PrefixTree(PROMPT_TTLS, 2)
    tree._prune_at = 1  # so that forgetting is tried too
    plain = {(place, ttl): PlainPromptCache() for place in (None, 0, 1) for ttl in PROMPT_TTLS}
    for call in calls:
        went = data.draw(st.sampled_from((None, [True, False], [False, True], [False, False])))
        alone, behind, _ = tree.send(call, went)
        assert alone == tuple(plain[None, ttl].send(call, ttl) for ttl in PROMPT_TTLS)
        for place in (0, 1):
            if went is None or went[place]:
                expected = tuple(plain[place, ttl].send(call, ttl) for ttl in PROMPT_TTLS)
                assert (alone if behind is None else behind[place]) == expected


@settings(deadline=None, max_examples=60)
@given(traces())
def test_overlap_is_a_call_for_the_same_key_before_the_answer(
    calls: list[Call],
) -> None:
    found = list(mark_overlaps(iter(calls)))
    assert [(call, took) for call, took, _ in found] == [(call, call.duration()) for call in calls]
    for place, (call, took, overlaps) in enumerate(found):
        following = [other.at for other in calls[place + 1 :] if other.key == call.key]
        assert overlaps == (bool(following) and following[0] < call.at + took)


def figures(configs: Iterable[CacheConfig], calls: list[Call]) -> list[object]:
    """All that a simulation says of each client."""
    simulation = Simulation(list(configs), PROMPT_TTLS).run(calls)
    return [
        (
            *(
                client.config,
                client.stats(),
                saved.hits,
                saved.coalesced,
                saved.input_tokens,
                saved.output_tokens,
                saved.seconds,
            ),
            [(bill.ttl, bill.hits, bill.read, bill.written) for bill in saved.prompt_cache_bills],
        )
        for client, saved in zip(simulation.clients, simulation.savings, strict=True)
    ]


@settings(deadline=None, max_examples=25)
@given(traces())
def test_clients_simulated_together_behave_as_if_alone(
    calls: list[Call],
) -> None:
    configs = [
        CacheConfig(2, 10.0),
        CacheConfig(2, 10.0, coalesce=False),
        CacheConfig(None, None, coalesce=False),
        CacheConfig(None, None),
        CacheConfig(1, 3.0, True, "sieve"),
    ]
    assert figures(configs, calls) == [figures([config], calls)[0] for config in configs]


@pytest.mark.parametrize("coalesce", [True, False])
def test_batches_of_calls_count_as_one_trace(coalesce: bool) -> None:
    calls = [Call(float(at), f"{at % 1100}", 2000, 10) for at in range(3300)]
    (client,) = Simulation([CacheConfig(None, None, coalesce)], ()).run(calls).clients
    assert (client.stats().hits, client.stats().misses) == (2200, 1100)
