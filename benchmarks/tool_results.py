"""Recorded tool calls of an agent, replayed through ToolCache: how many are answered, and what is
left of that when tools write.

The recording is a .jsonl or .jsonl.gz of calls in their order, with task, trial, tool, arguments
(the JSON text that the model wrote) and result: tau-bench's airline tasks, whose database begins
anew with each conversation. A hit that differs from the recorded result is stale.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_cache_mem import options
from llm_cache_mem.tools import ToolCache

__all__ = ["POLICIES", "SCOPES", "replay", "tools"]

RECORDING = (
    Path(__file__).resolve().parents[2]
    / "shared"
    / "data"
    / "tools"
    / "tau_bench_airline_gpt4o_tool_calls.jsonl.gz"
)

READS = (
    "get_reservation_details",
    "get_user_details",
    "search_direct_flight",
    "search_onestop_flight",
    "list_all_airports",
    "calculate",
)
OF_RESERVATIONS = (
    "cancel_reservation",
    "update_reservation_flights",
    "update_reservation_baggages",
    "update_reservation_passengers",
)
OF_USERS = ("book_reservation", "send_certificate")
HARMLESS = ("think", "transfer_to_human_agents")


def _keep(tools: ToolCache) -> None:
    for name in READS:
        tools.allow(name)


def _everything(tools: ToolCache, *, harmless: tuple[str, ...] = ()) -> None:
    _keep(tools)
    for name in (*OF_RESERVATIONS, *OF_USERS, *harmless):
        tools.writes(name, tools=READS)


def _by_tool(tools: ToolCache) -> None:
    _keep(tools)
    for name in OF_RESERVATIONS:
        tools.writes(name, tools=["get_reservation_details", "get_user_details"])
    for name in OF_USERS:
        tools.writes(name, tools=["get_user_details"])


def _by_entity(tools: ToolCache) -> None:
    _keep(tools)
    tools.allow("get_reservation_details", depends_on="reservation:{reservation_id}")
    tools.allow("get_user_details", depends_on="user:{user_id}")
    for name in OF_RESERVATIONS:
        tools.writes(name, entities=_reservation_and_user)
    for name in OF_USERS:
        tools.writes(name, entities="user:{user_id}")


def _reservation_and_user(args: Mapping[str, Any], result: str) -> list[str]:
    """A change of a reservation is paid by its user, whom the result names; an error changed
    nothing."""
    return (
        []
        if result.startswith("Error")
        else [f"reservation:{args['reservation_id']}", f"user:{json.loads(result)['user_id']}"]
    )


POLICIES: dict[str, Callable[[ToolCache], None]] = {
    "nothing": _keep,
    "all, by what does not read": lambda tools: _everything(tools, harmless=HARMLESS),
    "all, by what writes": _everything,
    "by tool": _by_tool,
    "by entity": _by_entity,
}
SCOPES: dict[str, Callable[[Any], str]] = {
    "conversation": lambda call: f"{call['trial']}.{call['task']}",
    "trial": lambda call: f"{call['trial']}",
    "all trials": lambda call: "all",
}


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The recorded calls of *path*."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        yield from map(json.loads, lines)


def replay(
    calls: list[dict[str, Any]], policy: Callable[[ToolCache], None], scope: Callable[[Any], str]
) -> tuple[float, int, int]:
    """Hits per read, their number, and how many of them were stale, with a cache for each
    *scope*."""
    tools, stale, reads = ToolCache(max_size=None, ttl_seconds=None), 0, 0
    policy(tools)
    for call in calls:
        rule = tools.rule(call["tool"])
        with options(namespace=scope(call)):
            found = tools.call(
                call["tool"],
                json.loads(call["arguments"]),
                lambda call=call: call["result"],
                rule=rule,
            )  # type: ignore[misc]
        if call["tool"] in READS:
            reads += 1
            stale += found != call["result"]
    hits = tools.stats().total.hits
    return hits / reads, hits, stale


def tools(path: str = "") -> None:
    """Hit rates of read-only tools, by what becomes invalid by the calls of others and by how far
    the cache reaches."""
    calls = list(read(Path(path) if path else RECORDING))
    reads = sum(call["tool"] in READS for call in calls)
    print(
        f"\n{len(calls):,} recorded calls of tools, {reads:,} of them of tools that only read; hits"
        " of those (and stale ones), cache per:"
    )
    print(f"{'is invalid':28}" + "".join(f"{scope:>22}" for scope in SCOPES))
    for name, policy in POLICIES.items():
        cells = [replay(calls, policy, scope) for scope in SCOPES.values()]
        print(
            f"{name:28}"
            + "".join(f"{f'{rate:.1%} ({stale} stale)':>22}" for rate, _, stale in cells)
        )
