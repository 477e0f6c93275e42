"""Probes of time and room: how long answers live, and which goes when it is full."""

import sys
import threading
import time
from typing import Any

from benchmarks.probes.contestant import Bench, Cannot, Contestant
from benchmarks.probes.keys import request, text_of, user
from benchmarks.probes.provider import Reply
from benchmarks.probes.registry import probe

__all__: list[str] = []

GROUP = "Time and room"
TTL = 3.0
DAY = 86_400.0


def numbered(number: int) -> dict[str, Any]:
    return request(messages=[user(f"question {number}")])


def _expired(bench: Bench, step: float) -> str | None:
    for _ in range(5):  # a slow machine may let it expire before it is asked for
        asked = numbered(len(bench.opened))
        peer = bench.open(ttl=TTL)
        began = bench.clock()
        first = text_of(peer, asked)
        if text_of(peer, asked) == first:
            break
        if bench.clock() - began < TTL:
            raise Cannot("does not answer from its cache")
    bench.clock.shift += step
    bench.clock.sleep(TTL + 1.0)
    return (
        f"served {TTL + 1.0:g} s later with a time to live of {TTL:g} s"
        if text_of(peer, asked) == first
        else None
    )


@probe(GROUP, "an answer is not served past its time to live", "instructor AutoCache; peers, table")
def time_to_live(bench: Bench) -> str | None:
    return _expired(bench, 0.0)


@probe(GROUP, "nor when the wall clock was set back a day meanwhile", "reliability 3d")
def clock_set_back(bench: Bench) -> str | None:
    if bench.contestant.shared == "server":
        raise Cannot("goes by the server's clock")
    return _expired(bench, -DAY)


@probe(
    GROUP,
    "the least recently used goes first",
    "LangChain (first in, first out), LiteLLM; peers, findings 4 and 5",
)
def least_recently_used(bench: Bench) -> str | None:
    peer = bench.open(max_size=3)
    texts = [text_of(peer, numbered(number)) for number in range(3)]
    if text_of(peer, numbered(0)) != texts[0]:
        raise Cannot("does not answer from its cache")
    text_of(peer, numbered(3))
    return (
        None
        if text_of(peer, numbered(0)) == texts[0]
        else "of three, the one that was just asked for went to make room"
    )


@probe(
    GROUP,
    "storing over an entry of a full cache costs no other",
    "LangChain InMemoryCache; peers, finding 5",
)
def overwriting(bench: Bench) -> str | None:
    peer = bench.open(max_size=2)
    first = text_of(peer, numbered(0))
    second = text_of(peer, numbered(1))
    peer.replace(["newer"], **numbered(1))
    if text_of(peer, numbered(1)) == second:
        raise Cannot("does not take the newer answer")
    return None if text_of(peer, numbered(0)) == first else "the other entry is gone"


@probe(
    GROUP,
    "it can be bounded, and keeps to it",
    "LiteLLM #14864, LangChain SQLiteCache, inspect_ai; peers, table",
    seconds=120,
)
def growth(bench: Bench, count: int = 200) -> str | None:
    bench.provider.script = lambda number, body: Reply((f"{number} " + "x" * 4_000,))
    if bench.contestant.shared == "server":
        raise Cannot("is bounded by its server")
    peer, bound = _bounded(bench)
    texts = [text_of(peer, numbered(number)) for number in range(count)]
    peer.settle()
    kept = sum(
        text_of(peer, numbered(number)) == texts[number] for number in reversed(range(count))
    )
    return None if kept < count else f"all {count} answers are kept, {bound}"


def _bounded(bench: Bench) -> tuple[Contestant, str]:
    """The contestant with the bound that it takes, and which that is."""
    for settings in ({"max_size": 20}, {"max_bytes": 200_000}):
        try:
            return bench.open(**settings), f"with {settings}"
        except Cannot:
            continue
    return bench.open(), "and no bound can be given"


@probe(
    GROUP,
    "a small cache under many threads raises nothing",
    "LangChain, LiteLLM, GPTCache: KeyError; reliability 6",
    seconds=90,
)
def bounded_threads(bench: Bench, rounds: int = 3_000, seconds: float = 20.0) -> str | None:
    peer = bench.open(max_size=8)
    failures: list[str] = []
    start = threading.Barrier(8)

    def work(worker: int) -> None:
        start.wait()
        give_up_at = time.monotonic() + seconds
        for number in range(rounds):
            if time.monotonic() > give_up_at:
                return
            try:
                peer.replace([f"answer {worker}"], **numbered((number * 7 + worker) % 24))
            except Cannot as exc:
                failures.append(f"cannot: {exc}")
                return
            except Exception as exc:  # noqa: BLE001
                failures.append(type(exc).__name__)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if failures and failures[0].startswith("cannot: "):
        raise Cannot(failures[0].removeprefix("cannot: "))
    return f"{', '.join(sorted(set(failures)))} to who stores an answer" if failures else None
