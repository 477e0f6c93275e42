"""What is asked and answered in the benchmarks: three sizes of request, one value, and the
published algorithm to compare with."""

import copy
import hashlib
import json
import random
import threading
import time
from collections import OrderedDict
from typing import Any

PARAMS = {"model": "claude-sonnet-4-5", "max_tokens": 1024, "temperature": 0.2, "top_p": 0.9}
SIZES = ("S", "M", "L")
BATCH = {"S": 300, "M": 100, "L": 12}
"""How many requests of each size one round is made of."""


def request(size: str, number: int = 0) -> dict[str, Any]:
    """Request *number* of a *size*: S 0.3 KB (one message), M 8.7 KB (a system prompt and ten
    turns), L 206 KB (100 turns)."""
    tail = f"{number:012d}"
    if size == "S":
        messages = [{"role": "user", "content": "What is it? ".ljust(188, "x") + tail}]
    elif size == "M":
        turns = [
            {"role": "assistant" if n % 2 else "user", "content": f"turn {n} ".ljust(400, "y")}
            for n in range(9)
        ]
        messages = [
            {"role": "system", "content": "You are careful. ".ljust(4096, "z")},
            *turns,
            {"role": "user", "content": tail.rjust(400, "y")},
        ]
    else:
        turns = [
            {"role": "assistant" if n % 2 else "user", "content": f"été {n} ".ljust(2000, "w")}
            for n in range(99)
        ]
        messages = [*turns, {"role": "user", "content": tail.rjust(2000, "w")}]
    return {"messages": messages, **PARAMS}


def with_tools(number: int) -> dict[str, Any]:
    """A request of size S with twenty tools, 12 KB of schemas."""
    return {**request("S", number), "tools": TOOLS}


def with_parts(number: int) -> dict[str, Any]:
    """A request of size M whose messages are lists of parts; the keys of each part come in one of
    two orders, whichever call it is."""
    asked = request("M", number)
    for message in asked["messages"]:
        said = [("type", "text"), ("text", message["content"])]
        message["content"] = [dict(random.sample(said, 2)), dict(random.sample(said, 2))]
    return asked


def conversation(number: int, steps: int) -> dict[str, Any]:
    """An agent's whole conversation: a question, then for each of *steps* a call of a tool and its
    result, 2 KB."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You are careful. ".ljust(4096, "z")},
        {"role": "user", "content": f"Task {number:012d}"},
    ]
    for step in range(steps):
        call = f"call_{number}_{step}"
        function = {
            "name": f"tool_{step % 20}",
            "arguments": json.dumps({"query": f"{step} ".ljust(100, "q")}),
        }
        messages += [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": call, "type": "function", "function": function}],
            },
            {
                "role": "tool",
                "tool_call_id": call,
                "content": f"result {step} of {number}\n".ljust(2000, "r"),
            },
        ]
    return {"messages": messages, **PARAMS, "tools": TOOLS}


def _tool(number: int) -> dict[str, Any]:
    properties = {
        f"argument_{n}": {
            "type": "string",
            "description": f"What argument {n} of the tool is for. ".ljust(60, "."),
        }
        for n in range(4)
    }
    return {
        "type": "function",
        "function": {
            "name": f"tool_{number}",
            "description": f"Look up what number {number} says. ".ljust(80, "-"),
            "parameters": {"type": "object", "properties": properties, "required": ["argument_0"]},
        },
    }


TOOLS: list[dict[str, Any]] = [_tool(number) for number in range(20)]


def fresh(request: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """*count* equal requests that share no object, as a program builds them anew."""
    text = json.dumps(request)
    return [json.loads(text) for _ in range(count)]


VALUE: dict[str, Any] = {
    "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [
        {"type": "text", "text": "a" * 800},
        {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {"query": "b" * 250}},
    ],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 2095,
        "output_tokens": 503,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0},
    },
}


def key_of(request: dict[str, Any]) -> str:
    """The published formula."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class Published:
    """The published algorithm: that key, an OrderedDict under a lock, TTL on read, LRU on write. It
    hands out the stored object."""

    def __init__(
        self, max_size: int = 500, ttl_seconds: float = 3600, *, copies: bool = False
    ) -> None:
        self._entries: OrderedDict[str, tuple[Any, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._max_size, self._ttl = max_size, ttl_seconds
        self._copies = copies
        self.hits = self.misses = 0

    def get(self, messages: Any, **params: Any) -> Any:
        key = key_of({"messages": messages, **params})
        with self._lock:
            found = self._entries.get(key)
            if found is None or time.time() - found[1] > self._ttl:
                self.misses += 1
                return None
            self._entries.move_to_end(key)
            self.hits += 1
        return copy.deepcopy(found[0]) if self._copies else found[0]

    def put(self, messages: Any, value: Any, **params: Any) -> None:
        key = key_of({"messages": messages, **params})
        with self._lock:
            self._entries[key] = (value, time.time())
            self._entries.move_to_end(key)
            while len(self._entries) > self._max_size:
                self._entries.popitem(last=False)
