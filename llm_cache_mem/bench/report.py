"""What a simulation found, as one plain document: the JSON for machines, and what text, pages and
pictures are made of."""

from collections.abc import Sequence
from typing import Any

from llm_cache_mem.accounting.pricing import Price
from llm_cache_mem.bench.bill import Costs, PromptCacheBill, cost
from llm_cache_mem.bench.clients import Client
from llm_cache_mem.bench.eviction import DEFAULT_SIZES, compare
from llm_cache_mem.bench.reader import Trace
from llm_cache_mem.bench.simulation import Saved, Simulation
from llm_cache_mem.bench.trace import Facts

__all__ = ["Document", "build"]

Document = dict[str, Any]


def build(
    trace: Trace, simulation: Simulation, price: Price, policy_sizes: Sequence[int] = DEFAULT_SIZES
) -> Document:
    """Shares are from 0 to 1 of all calls, tokens, dollars or seconds; dollars saved can be less
    than 0."""
    facts = simulation.census.facts()
    uncached = cost(price, facts.input_tokens, facts.output_tokens)
    return {
        "trace": {
            "name": trace.name,
            "format": trace.format,
            "key": trace.key,
            "bad_lines": trace.bad_lines,
            **_facts(facts),
        },
        "price": price._asdict(),
        "uncached": {"usd": uncached, "seconds": simulation.seconds},
        "client": [
            _client(client, saved, facts, simulation, price, uncached)
            for client, saved in zip(simulation.clients, simulation.saved, strict=True)
        ],
        "provider": [_provider(bill, facts, price, uncached) for bill in simulation.alone],
        "policies": []
        if simulation.census.keys is None
        else compare(simulation.census.keys, policy_sizes),
    }


def _facts(facts: Facts) -> Document:
    gaps = (
        None
        if facts.gap_seconds is None
        else dict(zip(("p10", "p50", "p90"), facts.gap_seconds, strict=True))
    )
    return {
        **facts._asdict(),
        "repeat_rate": _share(facts.repeats, facts.calls),
        "largest_groups": list(facts.largest_groups),
        "gap_seconds": gaps,
    }


def _client(
    client: Client,
    saved: Saved,
    facts: Facts,
    simulation: Simulation,
    price: Price,
    uncached: float,
) -> Document:
    stats = client.stats()
    usd = cost(price, saved.input_tokens, saved.output_tokens)
    input_tokens, output_tokens = (
        facts.input_tokens - saved.input_tokens,
        facts.output_tokens - saved.output_tokens,
    )
    return {
        **client.rule._asdict(),
        "hits": stats.hits,
        "hit_rate": _share(stats.hits, facts.calls),
        "coalesced": stats.coalesced,
        "coalesced_rate": _share(stats.coalesced, facts.calls),
        "evictions": stats.evictions,
        "expirations": stats.expirations,
        "input_tokens_saved": saved.input_tokens,
        "output_tokens_saved": saved.output_tokens,
        "seconds_saved": saved.seconds,
        "seconds_saved_share": _share(saved.seconds, simulation.seconds),
        "saved_usd": usd,
        "saved_share": _share(usd, uncached),
        "with_provider": [
            _both(bill, bill.costs(price, input_tokens, output_tokens), uncached)
            for bill in saved.behind
        ],
    }


def _both(bill: PromptCacheBill, costs: Costs, uncached: float) -> Document:
    return {"ttl_seconds": bill.lifetime, "tokens_read": bill.read} | _saved(
        costs, uncached, ("write_all", "free_writes")
    )


def _provider(bill: PromptCacheBill, facts: Facts, price: Price, uncached: float) -> Document:
    costs = bill.costs(price, facts.input_tokens, facts.output_tokens)
    return {
        "ttl_seconds": bill.lifetime,
        "hits": bill.hits,
        "hit_rate": _share(bill.hits, facts.calls),
        "tokens_read": bill.read,
        "token_hit_rate": _share(bill.read, facts.input_tokens),
        "tokens_written": bill.written,
    } | _saved(costs, uncached, Costs._fields)


def _saved(costs: Costs, uncached: float, ways: tuple[str, ...]) -> Document:
    dollars = {way: uncached - getattr(costs, way) for way in ways}
    return {
        way: {"saved_usd": usd, "saved_share": _share(usd, uncached)}
        for way, usd in dollars.items()
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
