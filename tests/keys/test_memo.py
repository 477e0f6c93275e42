"""The memo in front of the canonical form stays within its bounds and keeps nothing of the
caller's."""

import gc
import hashlib
import json
import sys
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest

from llm_cache_mem.keys import canonical
from llm_cache_mem.keys.memo import KeyMemo


def formula(messages: Any, params: dict[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps({"messages": messages, **params}, sort_keys=True).encode()
    ).hexdigest()


def text(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


@pytest.fixture
def worked_out(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every request that was written out rather than remembered."""
    calls: list[str] = []
    pieces = canonical.pieces

    def counting(tree: Any) -> Iterable[str]:
        text = "".join(pieces(tree))
        if type(tree) is not dict:  # which the params are
            calls.append(text)
        return (text,)

    monkeypatch.setattr("llm_cache_mem.keys.memo.pieces", counting)
    return calls


@pytest.mark.parametrize(
    "messages",
    [
        text("one"),
        text("one") + text("two"),
        [{"role": "user", "content": [{"type": "text", "text": "é"}, None, 1]}, *text("two")],
        [{"role": "user", "content": [{"score": 1.5, "ok": True}]}, *text("two")],
        ["plain", "strings"],
        "a string",
        [],
    ],
)
def test_an_equal_request_is_written_out_once(messages: Any, worked_out: list[str]) -> None:
    memo = KeyMemo()
    params = {"model": "m", "temperature": 0.5, "tools": [{"strict": True}]}
    for _ in range(3):
        assert memo.digest(
            json.loads(json.dumps(messages)), json.loads(json.dumps(params))
        ) == formula(messages, params)
    assert len(worked_out) == 1


def test_the_same_end_after_another_history_is_another_request() -> None:
    memo = KeyMemo()
    for middle in (
        "a",
        "b",
        1,
        1.0,
        True,
        None,
        ["a"],
        {"x": 0.0},
        {"x": -0.0},
        {"x": False},
        1,
        "a",
    ):
        messages = [*text("same"), {"role": "assistant", "content": middle}, *text("same")]
        assert memo.digest(messages, {}) == formula(messages, {})


def test_a_change_in_place_is_seen() -> None:
    memo = KeyMemo()
    messages: list[Any] = [
        {"role": "user", "content": [{"text": "a"}]},
        {"role": "user", "content": [{"text": "a"}]},
    ]
    params: dict[str, Any] = {"tools": [{"name": "a"}]}
    for name in "abcab":
        for place, field in (
            (messages[0]["content"][0], "text"),
            (messages[1]["content"][0], "text"),
            (params["tools"][0], "name"),
        ):
            place[field] = name
            assert memo.digest(messages, params) == formula(messages, params)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        (1, 2),
        b"x",
        {1, 2},
        "\ud83d\ude00",
        "\udcff",
        10**5000,
        object(),
        type("D", (dict,), {})(),
    ],
    ids=[
        "nan",
        "tuple",
        "bytes",
        "set",
        "surrogates",
        "surrogate",
        "huge int",
        "object",
        "subclass",
    ],
)
def test_what_is_not_plain_json_is_left_to_others(value: Any) -> None:
    memo = KeyMemo()
    assert memo.digest([{"c": value}], {}) is None
    assert memo.digest(text("a"), {"p": value}) is None
    assert memo.digest(text("a"), {"messages": 1}) is None
    assert len(memo) == 0


def test_keys_that_are_no_strings_sort_as_the_strings_they_become() -> None:
    odd, plain = {2: "a", 10: "b"}, {"2": "a", "10": "b"}
    for _ in range(2):
        assert KeyMemo().digest([{"c": odd}], {}) in (None, formula([{"c": plain}], {}))
        assert KeyMemo().digest([odd], {}) in (None, formula([plain], {}))
        assert KeyMemo().digest(text("a"), {"p": odd}) in (None, formula(text("a"), {"p": plain}))


def test_text_beyond_ascii_is_remembered(worked_out: list[str]) -> None:
    memo = KeyMemo()
    for content in ("한국어 \ud7ff", "日本語", "\U0001f600", "é", "\x7f"):
        for messages in (text(content), text(content) * 2):
            assert memo.digest(messages, {}) == formula(messages, {}) == memo.digest(messages, {})
    assert len(worked_out) == 10


def test_bounded_in_entries() -> None:
    memo = KeyMemo(entries=100)
    for i in range(1000):
        memo.digest(text(str(i)), {})
    assert 50 <= len(memo) <= 100


def test_bounded_in_bytes() -> None:
    memo = KeyMemo(entries=10**6, size=1 << 20)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(500):
            memo.digest(text(f"{i}" + "x" * 5000) + text("é" * 3000) + text("end"), {})
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < 1.5 * (1 << 20)


def test_one_huge_request_does_not_push_out_the_rest(worked_out: list[str]) -> None:
    memo = KeyMemo(size=100_000)
    memo.digest(text("small"), {})
    memo.digest(text("x" * 20_000), {})
    assert len(memo) == 1
    memo.digest(text("small"), {})
    assert len(worked_out) == 2


def test_what_is_asked_for_stays(worked_out: list[str]) -> None:
    memo = KeyMemo(entries=100)
    for i in range(1000):
        memo.digest(text("wanted"), {})
        memo.digest(text(str(i)), {})
    assert len(worked_out) == 1001


def test_a_cycle_comes_to_an_end() -> None:
    cycle: list[Any] = []
    cycle.extend([cycle, cycle])
    loop: dict[str, Any] = {}
    loop.update(a=loop, b=loop)
    for value in (cycle, loop):
        for messages, params in (
            ([{"c": value}], {}),
            ([{"c": value}, *text("a")], {}),
            (text("a"), {"p": value}),
            (value, {}),
        ):
            assert KeyMemo().digest(messages, params) is None


def test_no_container_of_the_caller_is_kept() -> None:
    memo = KeyMemo()
    messages: list[Any] = [{"role": "user", "content": [{"deep": ["x"]}]}, *text("a"), *text("b")]
    params = {"tools": [{"name": "a"}]}
    containers = [
        messages,
        messages[0],
        messages[0]["content"],
        messages[0]["content"][0]["deep"],
        messages[1],
        params["tools"],
    ]
    gc.collect()
    before = [sys.getrefcount(container) for container in containers]
    memo.digest(messages, params)
    assert [sys.getrefcount(container) for container in containers] == before


def test_the_dict_of_an_object_is_looked_into() -> None:
    """In Python 3.13 the collector does not see what such a dict holds."""

    class Message:
        def __init__(self, store: Any) -> None:
            self.role, self.content, self.store = "user", "hi", store

    memo = KeyMemo()
    for store in (1, True, 1.0, 1):
        for messages in ([Message(store).__dict__], [Message(store).__dict__, *text("hi")]):
            assert memo.digest(messages, {}) == formula(messages, {})
