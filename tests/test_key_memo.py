"""The memo in front of the canonical form stays within its bounds and keeps nothing of the caller's."""

import gc
import random
import weakref
from typing import Any

from llm_cache_mem.key_memo import KeyMemo, slot_of


def put(memo: KeyMemo, messages: Any, *, length: int = 10, digest: str = "d") -> None:
    slot = slot_of(messages, {})
    assert slot is not None
    memo.put(slot, messages, digest, exact=True, length=length)


def get(memo: KeyMemo, messages: Any) -> str | None:
    slot = slot_of(messages, {})
    assert slot is not None
    return memo.get(slot, messages)


def test_bounded_in_entries() -> None:
    memo = KeyMemo(entries=100)
    for i in range(1000):
        put(memo, [str(i)])
    assert len(memo) <= 100


def test_bounded_in_bytes() -> None:
    memo = KeyMemo(entries=10**6, size=100_000)
    for i in range(1000):
        put(memo, [str(i)], length=1000)
    assert len(memo) <= 50


def test_one_huge_request_does_not_push_out_the_rest() -> None:
    memo = KeyMemo(size=100_000)
    put(memo, ["small"])
    put(memo, ["huge"], length=20_000)
    assert get(memo, ["huge"]) is None
    assert get(memo, ["small"]) == "d"


def test_what_is_asked_for_stays() -> None:
    memo = KeyMemo(entries=100)
    put(memo, ["wanted"])
    for i in range(1000):
        put(memo, [str(i)])
        assert get(memo, ["wanted"]) == "d"


def test_the_same_slot_with_another_history_is_a_miss() -> None:
    memo = KeyMemo()
    for head in ([{"c": "b"}], [{"c": 1.5}], [{"c": ["x", {"y": None}]}]):
        messages = [{"role": "system", "content": "a"}, *head, {"role": "user"}]
        slot = slot_of(messages, {})
        assert slot is not None
        memo.put(slot, messages, "d", exact=head != [{"c": 1.5}], length=10)
        assert get(memo, [{"role": "system", "content": "a"}, *head, {"role": "user"}]) == "d"
        assert get(memo, [{"role": "system", "content": "a"}, {"c": "a"}, {"role": "user"}]) is None


def test_a_slot_is_exact_about_types_and_refuses_objects() -> None:
    slots = [slot_of([{"c": value}], {}) for value in (1, 1.0, True, "1", b"1", None, -0.0, 0.0, 0, False)]
    assert len(set(slots)) == len(slots)
    assert slot_of([{"c": object()}], {}) is None
    assert slot_of([type("Sub", (dict,), {})()], {}) is None


def test_a_slot_is_the_same_for_equal_requests_whatever_objects_they_are_made_of() -> None:
    rnd = random.Random(3)
    for _ in range(200):
        text = "".join(rnd.choices("abc", k=5))
        one = [{"role": "user", "content": text}, {"a": text, "b": text}]
        other = [{"role": "user", "content": "".join(list(text))}, {"a": "".join(list(text)), "b": "".join(list(text))}]
        assert slot_of(one, {"k": text}) == slot_of(other, {"k": "".join(list(text))})


def test_nothing_of_the_caller_is_kept() -> None:
    from llm_cache_mem.keys import digest

    class Sized(list):  # type: ignore[type-arg]
        """A list that can be watched."""

    watched = Sized([1])
    reference = weakref.ref(watched)
    messages: list[Any] = [{"role": "user", "content": ["kept?"]}, {"role": "user", "content": watched}]
    digest(messages, {})
    inner = messages[0]["content"]
    digest(messages[:1] * 2, {})
    del watched, messages
    gc.collect()
    assert reference() is None
    assert not [holder for holder in gc.get_referrers(inner) if isinstance(holder, dict) and holder.get("role") == "user"]
