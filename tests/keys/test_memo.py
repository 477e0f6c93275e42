"""What keys remember stays within its bounds, keeps no container of the caller's, and never makes a
key that the formula does not."""

import contextlib
import gc
import hashlib
import json
import os
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from llm_cache_mem._util.compiled import speedups
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys import canonical
from llm_cache_mem.keys import digest as keys
from llm_cache_mem.keys.memo import Memo, size_of_texts


def formula(messages: Any, params: dict[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps({"messages": messages, **params}, sort_keys=True).encode()
    ).hexdigest()


def text(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def shout(word: str) -> str:
    return word.upper()


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    keys.forget()
    yield
    keys.forget()


# -- Keys with a memo behind them


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
        None,
    ],
)
def test_an_equal_request_is_remembered_once(messages: Any) -> None:
    params = {"model": "m", "temperature": 0.5, "tools": [{"strict": True}], "system": "x" * 70_000}
    sizes = set()
    for _ in range(3):
        again = json.loads(json.dumps(messages)), json.loads(json.dumps(params))
        assert keys.digest(*again) == formula(messages, params)
        sizes.add((len(keys._requests), len(canonical.escaped)))
    assert len(sizes) == 1
    assert (len(keys._requests) == 1) == (speedups is not None)
    assert (len(canonical.escaped) > 0) == (speedups is None)


def test_the_same_end_after_another_history_is_another_request() -> None:
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
        assert keys.digest(messages, {}) == formula(messages, {})


def test_a_change_in_place_is_seen() -> None:
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
            assert keys.digest(messages, params) == formula(messages, params)


def test_requests_with_one_print_have_keys_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if speedups is None:
        pytest.skip("needs the compiled part")
    monkeypatch.setattr(
        "llm_cache_mem.keys.digest.speedups",
        type("S", (), {**vars(speedups), "text_or_print": staticmethod(lambda request: 7)}),
    )
    for _ in range(2):
        for content in ("a", "b", 1, 1.0, True):
            messages = [content, "long " * 20_000]
            assert keys.digest(messages, {}) == formula(messages, {})
    assert len(keys._requests) == 1


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
def test_non_plain_json_is_not_memoised(value: Any) -> None:
    for messages, params in (([{"c": value}], {}), (text("a"), {"p": value})):
        with contextlib.suppress(RequestNotCacheable):
            keys.digest(messages, params)
    assert len(keys._requests) == 0


def test_non_string_keys_sort_as_their_strings() -> None:
    odd, plain = {2: "a", 10: "b"}, {"2": "a", "10": "b"}
    for _ in range(2):
        assert keys.digest([{"c": odd}], {}) == formula([{"c": plain}], {})
        assert keys.digest([odd], {}) == formula([plain], {})
        assert keys.digest(text("a"), {"p": odd}) == formula(text("a"), {"p": plain})


def test_text_beyond_ascii_is_remembered() -> None:
    for content in ("한국어 \ud7ff", "日本語", "\U0001f600", "é", "\x7f"):
        for messages in (text(content), text(content) * 2):
            assert keys.digest(messages, {}) == formula(messages, {}) == keys.digest(messages, {})


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
            with pytest.raises(RequestNotCacheable, match="inside itself"):
                keys.digest(messages, params)


def test_no_container_of_the_caller_is_retained() -> None:
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
    keys.digest(messages, params)
    assert [sys.getrefcount(container) for container in containers] == before


def test_the_dict_of_an_object_is_looked_into() -> None:
    """Python 3.13 keeps what such a dict holds elsewhere."""

    class Message:
        def __init__(self, store: Any) -> None:
            self.role, self.content, self.store = "user", "hi", store

    for store in (1, True, 1.0, 1):
        for messages in ([Message(store).__dict__], [Message(store).__dict__, *text("hi")]):
            assert keys.digest(messages, {}) == formula(messages, {})


def test_the_key_memo_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for memo in (keys._requests, canonical.escaped):
        monkeypatch.setattr(memo, "_half_bytes", 1 << 20)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(100):
            keys.digest(text(f"{i}" + "x" * 70_000) + text("é" * 3000) + text("end"), {})
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        keys.forget()
    assert held < 1.25 * (2 << 20)


# -- The memo itself


def test_a_value_is_made_once() -> None:
    made: list[str] = []
    memo = Memo(lambda word: made.append(word) or shout(word), size_of_texts)
    assert [memo.get(word) for word in ("a", "b", "a", "b")] == ["A", "B", "A", "B"]
    assert made == ["a", "b"]


def test_an_unbuildable_class_can_be_stored() -> None:
    memo = Memo(lambda number: None, lambda number, value: 10)
    assert memo.get(1) is None
    memo.keep(1, "one")
    memo.keep(1, "another")
    assert memo.get(1) == "one"


def test_bounded_in_bytes() -> None:
    memo = Memo(shout, size_of_texts, 1 << 20)
    for number in range(50_000):
        memo.get(f"word {number}")
    assert 0.3 * (1 << 20) < len(memo) * (2 * 60 + 120) < 1.2 * (1 << 20)


def test_one_huge_value_does_not_push_out_the_rest() -> None:
    memo = Memo(shout, size_of_texts, 100_000)
    memo.get("small")
    memo.get("x" * 20_000)
    assert len(memo) == 1


def test_a_requested_option_stays() -> None:
    made: list[str] = []
    memo = Memo(lambda word: made.append(word) or shout(word), size_of_texts, 20_000)
    for number in range(1000):
        memo.get("wanted")
        memo.get(str(number))
    assert len(made) == 1001
    assert len(memo) < 100


def test_threads_share_it_and_it_stays_bounded() -> None:
    memo, wrong = Memo(shout, size_of_texts, 100_000), []

    def ask(first: int) -> None:
        for number in range(first, first + 5_000):
            word = f"word {number % 700}"
            if memo.get(word) != word.upper():
                wrong.append(word)

    threads = [threading.Thread(target=ask, args=(n * 100,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert memo._used <= memo._half_bytes
    assert memo._used == sum(size_of_texts(*pair) + 120 for pair in memo._young.items())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_child_forked_in_the_middle_of_an_addition_can_add() -> None:
    memo = Memo(shout, size_of_texts)
    with memo._lock:
        child = os.fork()
        if child == 0:
            memo.get("a")
            os._exit(0 if len(memo) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_interrupted_addition_does_not_wait_for_itself() -> None:
    memo = Memo(shout, size_of_texts)
    with memo._lock:  # as a signal handler finds it
        assert memo.get("a") == "A"
    assert len(memo) == 0
