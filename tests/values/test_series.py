"""Values that grow are stored as what changes, and come back exactly."""

import json
import random
from typing import Any

import pytest

from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.values.series import Sum, change, changed

WORDS = ["", "a", "ab", "b", "$dict", "é"]
SCALARS = [None, True, False, 0, 1, -1, 0.0, -0.0, 1.0, *WORDS]


def some(chance: random.Random, depth: int = 3) -> Any:
    kind = chance.randrange(3 if depth else 1)
    if kind == 0:
        return chance.choice(SCALARS)
    if kind == 1:
        return [some(chance, depth - 1) for _ in range(chance.randrange(4))]
    return {chance.choice(WORDS): some(chance, depth - 1) for _ in range(chance.randrange(4))}


def like(value: Any, chance: random.Random) -> Any:
    """*value* with a few changes."""
    if chance.random() < 0.2:
        return some(chance)
    if isinstance(value, str):
        return value + chance.choice(WORDS)
    if isinstance(value, list):
        return [like(item, chance) for item in value] + [some(chance)] * chance.randrange(2)
    if isinstance(value, dict):
        return {name: like(item, chance) for name, item in value.items()}
    return value


@pytest.mark.parametrize("seed", range(300))
def test_a_change_makes_the_new_value_of_the_old_one(seed: int) -> None:
    chance = random.Random(seed)
    old = some(chance)
    for _ in range(5):
        new = like(old, chance)
        before = json.dumps(old)
        made = json.loads(json.dumps(change(old, new)))
        assert json.dumps(changed(old, made)) == json.dumps(new), f"seed {seed}"
        assert json.dumps(old) == before
        old = new


def test_unchanged_fields_take_no_room() -> None:
    raw = {"id": "chatcmpl-1", "model": "m", "choices": [{"delta": {"content": "x"}}]}
    first = {"text": "one", "raw": raw}
    second = {"text": "one two", "raw": raw}
    assert change(first, first) is None
    assert change(first, second) == {"text": " two"}


@pytest.mark.parametrize(
    ("first", "then", "times"),
    [(["x" * 1_000_000], "y", 1_000), ([[]], [{}, [[{"a": []}] * 100]], 10_000)],
    ids=["text", "parts"],
)
def test_values_that_are_too_large_together_are_refused(first: Any, then: Any, times: int) -> None:
    def add_all() -> None:
        together = Sum()
        together.add(first)
        for _ in range(times):
            together.add(then)

    with pytest.raises(EntryUnreadable):
        add_all()
