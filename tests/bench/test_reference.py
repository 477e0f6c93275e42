"""The simulation against the results of an independent one on the same traces."""

import json
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem.bench.bill import DEFAULT_PRICE, cost
from llm_cache_mem.bench.clients import CacheConfig
from llm_cache_mem.bench.reader import open_trace
from llm_cache_mem.bench.simulation import Simulation
from llm_cache_mem.bench.trace import Call

SIZES = {256: "256", 1000: "1000", 10000: "10000", None: "inf"}
SPANS = {300.0: "300", 3600.0: "3600", None: "inf"}
GRID = [CacheConfig(size, ttl) for size, ttl in product(SIZES, SPANS)]
CORNERS = [CacheConfig(256, 300.0), CacheConfig(1000, None), CacheConfig(None, None)]

# How this project names a trace, and how the reference does; the last two take long.
TRACES = {
    ("mooncake_synthetic_trace.jsonl.gz", "whole"): "mooncake:mooncake_synthetic_trace.jsonl.gz",
    ("ragpulse", "whole"): "ragpulse:ragpulse",
    ("ragpulse", "question"): "ragpulse-question:ragpulse",
    ("ragpulse", "no-system"): "ragpulse-nosys:ragpulse",
    (
        "mooncake_conversation_trace.jsonl.gz",
        "whole",
    ): "mooncake:mooncake_conversation_trace.jsonl.gz",
    ("claude_code_traces_all.jsonl.gz", "whole"): "weka:claude_code_traces_all.jsonl.gz",
}
QUICK = [("mooncake_synthetic_trace.jsonl.gz", "whole"), ("ragpulse", "question")]
ALL = [*QUICK, *(name for name in TRACES if name not in QUICK)]


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> dict[str, Any]:
    rows = json.loads((shared_data / "traces" / "reference_results.json").read_text())
    return {row["trace"]: row for row in rows}


def without_model(calls: Iterable[Call]) -> Iterator[Call]:
    """The reference lets models read one another's prompt cache."""
    return (call._replace(model=None) for call in calls)


@cache
def simulated(folder: Path, name: str, key: str, *, whole_grid: bool) -> Simulation:
    with open_trace(str(folder / "traces" / name), key=key) as trace:
        return Simulation(GRID if whole_grid else CORNERS).run(without_model(trace))


def rounded(value: float, digits: int) -> float:
    return round(value, digits) + 0.0  # no -0.0


@pytest.fixture(
    scope="module",
    params=[
        *(pytest.param((*name, False), id=f"{name[0]}-{name[1]}") for name in QUICK),
        *(
            pytest.param((*name, True), id=f"{name[0]}-{name[1]}-all", marks=pytest.mark.slow)
            for name in ALL
        ),
    ],
)
def found(
    request: pytest.FixtureRequest, shared_data: Path, reference: dict[str, Any]
) -> tuple[Simulation, dict[str, Any]]:
    name, key, whole_grid = request.param
    return simulated(shared_data, name, key, whole_grid=whole_grid), reference[TRACES[name, key]]


def test_trace_statistics_match_the_reference(
    found: tuple[Simulation, dict[str, Any]],
) -> None:
    simulation, expected = found
    facts = simulation.trace.summary()
    assert (facts.calls, facts.unique, facts.repeats, facts.repeats_of_same_length) == (
        *(expected["rows"], expected["unique"]),
        *(expected["exact_repeat"], expected["exact_repeat_same_out_len"]),
    )
    assert (facts.input_tokens, facts.output_tokens, facts.scopes) == (
        expected["tok_in"],
        expected["tok_out"],
        expected["scopes"],
    )
    assert list(facts.largest_groups) == expected["largest_groups"]
    assert (
        rounded(cost(DEFAULT_PRICE, facts.input_tokens, facts.output_tokens), 2)
        == expected["cost_uncached_usd"]
    )
    assert expected["repeat_gap_s_p10_50_90"] == (
        facts.gap_seconds and [rounded(gap, 1) for gap in facts.gap_seconds]
    )


def test_hit_rates_match_the_reference(
    found: tuple[Simulation, dict[str, Any]],
) -> None:
    simulation, expected = found
    calls = simulation.trace.calls
    for client in simulation.clients:
        config, hits = client.config, client.stats().hits
        row = expected["exact"][f"lru={SIZES[config.max_size]},ttl={SPANS[config.ttl_seconds]}"]
        assert rounded(100 * hits / calls, 3) == row["hit_pct"], config


def test_dollars_saved_match_the_reference(
    found: tuple[Simulation, dict[str, Any]],
) -> None:
    simulation, expected = found
    saved, expected = simulation.savings[-1], expected["single_flight"]
    assert saved.coalesced == expected["dup_in_flight"]
    assert saved.coalesced == simulation.clients[-1].stats().coalesced
    assert (
        rounded(cost(DEFAULT_PRICE, saved.input_tokens, saved.output_tokens), 3)
        == expected["saved_usd"]
    )


def test_prompt_cache_savings_match_the_reference(
    found: tuple[Simulation, dict[str, Any]],
) -> None:
    """To the cent, but for RAGPulse: there the reference lets a block be read wherever it stands,
    here it must follow the same blocks."""
    simulation, expected = found
    facts = simulation.trace.summary()
    uncached = cost(DEFAULT_PRICE, facts.input_tokens, facts.output_tokens)
    chained = "ragpulse" not in expected["trace"]
    for bill in simulation.prompt_cache_bills:
        row = expected[f"prefix_ttl{bill.ttl:.0f}"]
        costs = bill.costs(DEFAULT_PRICE, facts.input_tokens, facts.output_tokens)
        ours = (
            *(100 * bill.hits / facts.calls, 100 * bill.read / facts.input_tokens),
            *(uncached - costs.write_all, uncached - costs.free_writes),
        )
        theirs = (
            row["req_hit_pct"],
            row["tok_hit_pct"],
            row["saved_write_all_usd"],
            row["saved_no_surcharge_usd"],
        )
        if chained:
            assert tuple(rounded(value, 2) for value in ours) == theirs
        else:
            assert rounded(ours[0], 2) == theirs[0]
            assert all(
                -0.2 < mine - other < 0 for mine, other in zip(ours[1:], theirs[1:], strict=True)
            )
        assert uncached - costs.oracle == pytest.approx(row["saved_oracle_usd"], rel=0.01)


def test_combined_savings_match_the_reference(
    found: tuple[Simulation, dict[str, Any]],
) -> None:
    """To the cent, but for RAGPulse, as above."""
    simulation, expected = found
    facts, saved, row = (
        simulation.trace.summary(),
        simulation.savings[-1],
        expected["exact_plus_prefix300"],
    )
    costs = saved.prompt_cache_bills[0].costs(
        DEFAULT_PRICE,
        facts.input_tokens - saved.input_tokens,
        facts.output_tokens - saved.output_tokens,
    )
    uncached = cost(DEFAULT_PRICE, facts.input_tokens, facts.output_tokens)
    less = [
        row["saved_write_all_usd"] - (uncached - costs.write_all),
        row["saved_no_surcharge_usd"] - (uncached - costs.free_writes),
    ]
    assert all(
        0.01 < lack < 0.06 if "ragpulse" in expected["trace"] else abs(lack) <= 0.005
        for lack in less
    )
