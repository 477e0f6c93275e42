"""Values as a provider would send them, spoilt here and there."""

from random import Random
from typing import Any

__all__ = ["spoilt"]


def spoilt(value: object, junk: list[Any], rng: Random) -> object:
    """A copy of *value* in which one part in twelve is a piece of *junk*."""
    if rng.random() < 0.08:
        return rng.choice(junk)
    if isinstance(value, dict):
        return {name: spoilt(inner, junk, rng) for name, inner in value.items()}
    return [spoilt(inner, junk, rng) for inner in value] if isinstance(value, list) else value
