"""The results of a simulation as one plain document: the JSON output, and the source of text, HTML
and charts."""

from collections.abc import Sequence
from typing import Any

from llm_cache_mem.accounting.pricing import Price
from llm_cache_mem.bench.bill import Costs, PromptCacheBill, cost
from llm_cache_mem.bench.clients import ClientCache
from llm_cache_mem.bench.eviction import DEFAULT_SIZES, compare
from llm_cache_mem.bench.reader import Trace
from llm_cache_mem.bench.simulation import Savings, Simulation
from llm_cache_mem.bench.trace import TraceSummary

__all__ = ["Document", "build"]

Document = dict[str, Any]


def build(
    trace: Trace, simulation: Simulation, price: Price, policy_sizes: Sequence[int] = DEFAULT_SIZES
) -> Document:
    """Return the report. Shares are from 0 to 1, of all calls, tokens, dollars or seconds; dollars
    saved can be negative."""
    summary = simulation.trace.summary()
    uncached = cost(price, summary.input_tokens, summary.output_tokens)
    return {
        "trace": {
            "name": trace.name,
            "format": trace.format,
            "key": trace.key,
            "bad_lines": trace.bad_lines,
            **_trace(summary),
        },
        "price": price._asdict(),
        "uncached": {"usd": uncached, "seconds": simulation.seconds},
        "client": [
            _client(client, savings, summary, simulation, price, uncached)
            for client, savings in zip(simulation.clients, simulation.savings, strict=True)
        ],
        "provider": [
            _provider(bill, summary, price, uncached) for bill in simulation.prompt_cache_bills
        ],
        "policies": []
        if simulation.trace.keys is None
        else compare(simulation.trace.keys, policy_sizes),
    }


def _trace(summary: TraceSummary) -> Document:
    gaps = (
        None
        if summary.gap_seconds is None
        else dict(zip(("p10", "p50", "p90"), summary.gap_seconds, strict=True))
    )
    return {
        **summary._asdict(),
        "repeat_rate": _share(summary.repeats, summary.calls),
        "largest_groups": list(summary.largest_groups),
        "gap_seconds": gaps,
    }


def _client(
    client: ClientCache,
    savings: Savings,
    summary: TraceSummary,
    simulation: Simulation,
    price: Price,
    uncached: float,
) -> Document:
    stats = client.stats()
    usd = cost(price, savings.input_tokens, savings.output_tokens)
    input_tokens, output_tokens = (
        summary.input_tokens - savings.input_tokens,
        summary.output_tokens - savings.output_tokens,
    )
    return {
        **client.config._asdict(),
        "hits": stats.hits,
        "hit_rate": _share(stats.hits, summary.calls),
        "coalesced": stats.coalesced,
        "coalesced_rate": _share(stats.coalesced, summary.calls),
        "evictions": stats.evictions,
        "expirations": stats.expirations,
        "input_tokens_saved": savings.input_tokens,
        "output_tokens_saved": savings.output_tokens,
        "seconds_saved": savings.seconds,
        "seconds_saved_share": _share(savings.seconds, simulation.seconds),
        "saved_usd": usd,
        "saved_share": _share(usd, uncached),
        "with_provider": [
            _both(bill, bill.costs(price, input_tokens, output_tokens), uncached)
            for bill in savings.prompt_cache_bills
        ],
    }


def _both(bill: PromptCacheBill, costs: Costs, uncached: float) -> Document:
    return {"ttl_seconds": bill.ttl, "tokens_read": bill.read} | _saved(
        costs, uncached, ("write_all", "free_writes")
    )


def _provider(
    bill: PromptCacheBill, summary: TraceSummary, price: Price, uncached: float
) -> Document:
    costs = bill.costs(price, summary.input_tokens, summary.output_tokens)
    return {
        "ttl_seconds": bill.ttl,
        "hits": bill.hits,
        "hit_rate": _share(bill.hits, summary.calls),
        "tokens_read": bill.read,
        "token_hit_rate": _share(bill.read, summary.input_tokens),
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
