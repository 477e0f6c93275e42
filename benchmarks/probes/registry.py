"""The list of probes: each a function of a Bench that returns None where the cache is right, or
what was wrong in a few words."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.probes.contestant import Bench

__all__ = ["GROUPS", "PROBES", "Probe", "probe"]

GROUPS = ("The key", "The answer", "Time and room", "Many at once", "The store")


class Probe(NamedTuple):
    """*title*: what is right. *source*: where the defect was seen, an issue or a CVE, or by
    whom."""

    name: str
    group: str
    title: str
    source: str
    ask: Callable[[Bench], str | None]
    seconds: float


PROBES: dict[str, Probe] = {}


def probe(
    group: str, title: str, source: str, *, seconds: float = 60.0
) -> Callable[[Callable[[Bench], str | None]], Callable[[Bench], str | None]]:
    """Register a function as the probe of its name; it gets *seconds* before it counts as
    hanging."""

    def register(function: Callable[[Bench], str | None]) -> Callable[[Bench], str | None]:
        name = function.__name__.replace("_", "-")
        assert group in GROUPS
        assert name not in PROBES
        PROBES[name] = Probe(name, group, title, source, function, seconds)
        return function

    return register
