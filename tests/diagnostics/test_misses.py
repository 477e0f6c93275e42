"""The last misses explain themselves: what was stored then, what had been stored before, and what
is never kept."""

import threading
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import LLMCache, options

MESSAGES = [{"role": "user", "content": "Who wrote the Air?"}]


def answer(**request: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "Bach."}


def cut_off(**request: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Ba"}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
    }


def keeping(**settings: Any) -> LLMCache:
    return LLMCache(keep_requests=True, **settings)


def test_the_last_miss_is_compared_with_entries_of_that_time(clock: Any) -> None:
    cache = keeping(clock=clock)
    cache.get_or_call(MESSAGES, answer, model="m", temperature=0)
    clock.advance(1)
    cache.get_or_call(MESSAGES, answer, model="m", temperature=1)
    clock.advance(1)
    cache.put(MESSAGES, "later", model="m", temperature=1.0)
    (found,) = cache.explain_misses()
    assert [str(difference) for difference in found.differences] == ["temperature: 0 → 1"]
    assert found.state == "absent"


def test_the_latest_comes_first_and_hits_are_none_of_them(clock: Any) -> None:
    cache = keeping(clock=clock)
    for model in ("a", "b", "b", "c"):
        clock.advance(1)
        cache.get_or_call(MESSAGES, answer, model=model)
    assert [one.stored for one in cache.explain_misses(10)] == [2, 1, 0]
    assert cache.explain_misses(0) == cache.explain_misses(-1) == []


def test_without_stored_requests_it_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    cache = LLMCache()
    cache.get_or_call(MESSAGES, answer, model="m")
    assert cache.explain_misses() == cache.explain_misses() == []
    assert caplog.text.count("keep_requests=True") == 1


def test_a_plain_get_counts_as_well() -> None:
    cache = keeping()
    assert cache.get(MESSAGES, model="m") is None
    assert str(cache.explain_misses()[0]) == "nothing is stored in this namespace yet"
    assert cache.stats().misses == 1


def test_an_expired_entry(clock: Any) -> None:
    cache = keeping(clock=clock, ttl_seconds=10)
    cache.put(MESSAGES, "Bach")
    clock.advance(11)
    cache.get_or_call(MESSAGES, answer)
    assert cache.explain_misses()[0].state == "expired"


def test_an_evicted_entry() -> None:
    cache = keeping(max_size=1)
    for model in ("a", "b", "a"):
        cache.get_or_call(MESSAGES, answer, model=model)
    found = cache.explain_misses()[0]
    assert found.state == "gone"
    assert str(found).startswith("it was stored before, and is there no longer")


def test_a_refreshed_entry() -> None:
    cache = keeping()
    cache.put(MESSAGES, "Bach")
    with options(mode="refresh"):
        cache.get_or_call(MESSAGES, answer)
    assert cache.explain_misses()[0].state == "refreshed"


@pytest.mark.parametrize("times", [1, 2])
def test_one_whose_answer_is_not_stored(times: int) -> None:
    cache = keeping()
    for _ in range(times):
        cache.get_or_call(MESSAGES, cut_off, model="m")
    found = cache.explain_misses()[0]
    (reason,) = cache.stats().skipped
    assert (found.state, found.reason) == ("skipped", reason)
    assert f"not stored ({reason})" in str(found)


def test_a_stored_truncated_answer_still_explains_misses() -> None:
    cache = keeping()
    cache.get_or_call(MESSAGES, cut_off, model="m")
    cache.get_or_call(MESSAGES, answer, model="m")
    assert cache.explain_misses()[0].state == "absent"


def test_a_miss_in_another_namespace_is_compared_there() -> None:
    cache = keeping()
    cache.put(MESSAGES, "Bach", model="here")
    with options(namespace="acme"):
        cache.put(MESSAGES, "Bach", model="there")
        cache.get(MESSAGES, model="m")
    (found,) = cache.explain_misses()
    assert [str(difference) for difference in found.differences] == ['model: "there" → "m"']


def test_without_stored_requests_there_is_no_explanation() -> None:
    cache = LLMCache()
    cache.get(MESSAGES)
    cache.get_or_call(MESSAGES, answer)
    assert cache.explain_misses() == []


def test_no_more_than_twenty_are_held() -> None:
    cache = keeping()
    for number in range(50):
        cache.get(MESSAGES, model=str(number))
    assert len(cache.explain_misses(100)) == 20


def test_secrets_are_not_quoted() -> None:
    cache = keeping(redact=["user"])
    secret = "sk-proj-Zq81kPjV3mXw7TbN2cYe"
    cache.put(MESSAGES, "Bach", user="Ann")
    cache.get([{"role": "user", "content": f"Who wrote {secret}?"}], user="Bob")
    (found,) = cache.explain_misses()
    assert found.differences
    for shown in (str(found), found._repr_html_(), str(found.as_dict())):
        assert secret not in shown
        assert "Ann" not in shown
        assert "Bob" not in shown


async def test_they_can_be_awaited(tmp_path: Path) -> None:
    cache = keeping(backend=tmp_path / "cache.db")
    await cache.aget(MESSAGES)
    assert len(await cache.aexplain_misses()) == 1
    cache.close()


def test_threads_may_miss_during_accounting() -> None:
    cache = keeping(max_size=8)
    stop, failed = threading.Event(), []

    def miss(worker: int) -> None:
        for number in range(100):
            cache.get_or_call(
                MESSAGES, answer if number % 2 else cut_off, model=f"{worker} {number}"
            )

    def ask() -> None:
        try:
            while not stop.is_set():
                cache.explain_misses(3)
        except Exception as exc:
            failed.append(exc)

    asking = threading.Thread(target=ask)
    workers = [threading.Thread(target=miss, args=(worker,)) for worker in range(4)]
    for thread in (asking, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    asking.join()
    assert not failed
