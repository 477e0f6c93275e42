"""No two requests that differ on the wire share a key: one field changed at a time in real shapes,
and many random pairs."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys.digest import digest

ASK = {"role": "user", "content": "Weather in Paris?"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}},
    "required": ["city"],
}
SHAPES: dict[str, dict[str, Any]] = {
    "anthropic": {
        "messages": [ASK],
        "model": "claude",
        "max_tokens": 1024,
        "system": "Be brief.",
        "temperature": 0.0,
        "top_k": 5,
        "stream": False,
    },
    "anthropic tools": {
        "messages": [
            ASK,
            {
                "role": "assistant",
                "content": [
                    {
                        "type": "tool_use",
                        "id": "t1",
                        "name": "weather",
                        "input": {"city": "Paris", "days": 1},
                    }
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "18", "is_error": False}
                ],
            },
        ],
        "model": "claude",
        "tools": [{"name": "weather", "input_schema": SCHEMA}],
        "tool_choice": {"type": "auto"},
    },
    "anthropic thinking": {
        "messages": [ASK],
        "model": "claude",
        "thinking": {"type": "enabled", "budget_tokens": 2048},
        "service_tier": "auto",
    },
    "anthropic beta": {
        "messages": [ASK],
        "model": "claude",
        "extra_headers": {"anthropic-beta": "context-1m"},
        "extra_body": {"top_p": 0.5},
    },
    "anthropic image": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"},
                    }
                ],
            }
        ],
        "model": "claude",
    },
    "anthropic system blocks": {
        "messages": [ASK],
        "system": [
            {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
        ],
    },
    "openai chat": {
        "messages": [{"role": "system", "content": "Be brief."}, ASK],
        "model": "gpt",
        "seed": 7,
        "n": 1,
        "logprobs": True,
        "stop": ["a"],
    },
    "openai tools": {
        "messages": [
            ASK,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
            },
        ],
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}}
        ],
        "parallel_tool_calls": True,
    },
    "openai schema": {
        "messages": [ASK],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    },
    "openai responses": {
        "messages": "Weather?",
        "instructions": "Be brief.",
        "reasoning": {"effort": "low"},
        "previous_response_id": "r1",
        "store": False,
    },
    "azure": {
        "messages": [ASK],
        "base_url": "https://a.example/v1",
        "api_version": "2026-01-01",
        "extra_query": {"x": "1"},
        "logit_bias": {"50": -100},
    },
    "typed": {
        "messages": [{"role": "user", "content": [{"data": b"raw"}, {"pair": (1, 2)}]}],
        "model": "m",
        "limit": 10**20,
    },
}


def variants(value: Any) -> Iterator[Any]:
    """*value* with one thing changed, for every thing in it."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield {other: inner for other, inner in value.items() if other != name}
            yield {
                (f"{other}_" if other == name else other): inner for other, inner in value.items()
            }
            for changed in variants(item):
                yield {**value, name: changed}
        yield {**value, "added": None}
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield [*value[:index], *value[index + 1 :]]
            for changed in variants(item):
                yield [*value[:index], changed, *value[index + 1 :]]
        yield [*value, None]
        yield {"0": value}
        if len(value) > 1 and value[0] != value[1]:
            yield [value[1], value[0], *value[2:]]
    else:
        others = [
            None,
            True,
            False,
            0,
            1,
            1.0,
            -0.0,
            "",
            "0",
            "null",
            str(value),
            [value],
            {},
            b"",
            b"raw2",
        ]
        if isinstance(value, str):
            others += [
                value + " ",
                value.upper(),
                value + "\u200b",
                value.encode(),
                value + "e\u0301",
                value + "é",
                value[:-1],
            ]
        if isinstance(value, (int, float)):
            others += [value + 1, -value - 1, float(value), value + 0.5]
        yield from (
            other for other in others if (type(other), repr(other)) != (type(value), repr(value))
        )


def wire(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=lambda item: {"bytes!": item.hex()})


@pytest.mark.parametrize("shape", SHAPES)
def test_changing_one_thing_changes_the_key(shape: str) -> None:
    by_key: dict[str, str] = {}
    count = 0
    for request in (SHAPES[shape], *variants(SHAPES[shape])):
        params = copy.deepcopy(request)
        messages = params.pop("messages", None)
        on_the_wire = wire({"messages": messages, **params})
        assert by_key.setdefault(digest(messages, params), on_the_wire) == on_the_wire
        count += 1
    assert count > 60


def anything(rnd: random.Random, depth: int = 3) -> Any:
    pick = rnd.random()
    if depth == 0 or pick < 0.45:
        return rnd.choice(
            [
                0,
                1,
                1.0,
                True,
                False,
                None,
                "",
                "1",
                "1.0",
                "true",
                "null",
                "a",
                b"a",
                b"",
                "YQ==",
                -0.0,
                0.0,
                2,
                10,
                "\ud800",
                float("nan"),
                (),
                [],
            ]
        )
    size = rnd.randrange(3)
    if pick < 0.6:
        return [anything(rnd, depth - 1) for _ in range(size)]
    if pick < 0.7:
        return tuple(anything(rnd, depth - 1) for _ in range(size))
    names = ["a", "b", "1", 1, 2, 10, 1.5, True, None, "null", "$llm_cache_mem", "10"]
    return {rnd.choice(names): anything(rnd, depth - 1) for _ in range(size)}


def described(value: Any) -> Any:
    """The wire form by other means: nested tuples that say the type of everything."""
    if isinstance(value, dict):
        pairs = [
            (name if isinstance(name, str) else json.dumps(name), described(item))
            for name, item in value.items()
        ]
        return ("object", tuple(sorted(pairs, key=lambda pair: pair[0])))
    if isinstance(value, (list, tuple)):
        return ("array", tuple(described(item) for item in value))
    return (type(value).__name__, repr(value))


def test_random_requests_share_a_key_only_if_equal_on_the_wire() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rnd = random.Random(seed)
    by_key: dict[str, Any] = {}
    by_form: dict[Any, str] = {}
    refused = 0
    for _ in range(50_000):
        messages, params = [anything(rnd)], {"p": anything(rnd, 1)}
        try:
            key = digest(messages, params)
        except RequestNotCacheable:
            refused += 1
            continue
        form = described((messages, params))
        assert by_key.setdefault(key, form) == form, f"collision, seed {seed}"
        assert by_form.setdefault(form, key) == key, f"lost hit, seed {seed}"
    assert len(by_key) > 10_000
    assert refused < 40_000
