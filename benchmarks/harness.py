"""How everything here is measured: CPU time of this thread, variants interleaved A B C C B A,
ratios taken round by round.

These machines are shared: absolute times drift by half within a run, ratios of neighbours do not.
"""

import gc
from collections.abc import Callable, Sequence
from statistics import median
from time import thread_time
from typing import NamedTuple

Work = Callable[[], object]


class Variant(NamedTuple):
    """One contestant. *prepare* makes, untimed, the batch that one round times; *each* of its works
    makes so many calls."""

    name: str
    prepare: Callable[[], Sequence[Work]]
    each: int = 1


class Result(NamedTuple):
    """*micros*: the 10th percentile of the rounds, in microseconds a call; *ratio*: the median
    ratio to the first variant."""

    name: str
    micros: float
    ratio: float


def compare(
    variants: Sequence[Variant], rounds: int = 15, timer: Callable[[], float] = thread_time
) -> list[Result]:
    """Time *variants* against the first of them, in one interleaved run, by *timer*: CPU time, or
    perf_counter for what waits."""
    times: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for number in range(rounds):
        order = variants if number % 2 == 0 else list(reversed(variants))
        for variant in order:
            times[variant.name].append(_time(variant.prepare(), timer) / variant.each)
    base = times[variants[0].name]
    return [
        Result(
            name,
            sorted(taken)[len(taken) // 10],
            median(a / b for a, b in zip(taken, base, strict=True)),
        )
        for name, taken in times.items()
    ]


def _time(calls: Sequence[Work], timer: Callable[[], float]) -> float:
    gc.collect()
    began = timer()
    for call in calls:
        call()
    return (timer() - began) / len(calls) * 1e6


def show(
    title: str, results: Sequence[Result], limit: float | None = None, ours: str = "llm-cache-mem"
) -> None:
    """Print a table of *results*; with *limit*, whether ours keeps to it."""
    print(f"\n{title}")
    width = max(len(result.name) for result in results)
    for result in results:
        verdict = ""
        if limit is not None and result.name == ours:
            verdict = f"   (must be <= {limit}: {'ok' if result.ratio <= limit else 'NO'})"
        print(f"  {result.name:<{width}}  {result.ratio:8.3f}   {result.micros:10.1f} us{verdict}")
