"""Verified hits: asked again in the background, compared, counted, and never waited for."""

import asyncio
import gc
import itertools
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from layers import LAYERS, Provider, layer
from stores.processes import in_child

from llm_cache_mem import LLMCache, MemoryStore, options
from llm_cache_mem.accounting.verified import VerifiedStats
from llm_cache_mem.engine.verification import Verifier
from llm_cache_mem.http import CacheTransport
from llm_cache_mem.responses.agreement import comparison, merged
from llm_cache_mem.tools import ToolCache

HI = [{"role": "user", "content": "hi"}]
AT_ZERO: dict[str, Any] = {"model": "m", "temperature": 0}
PRICES = {"m": (1e6, 1e6)}  # a dollar a token


def cache_of(rate: float = 1.0, **settings: Any) -> LLMCache:
    return LLMCache(max_size=None, verify_rate=rate, **settings)


def settle(cache: LLMCache) -> None:
    """Wait until nothing is being verified."""
    verifier: Any = cache.engine.verifier
    done = threading.Event()
    while verifier is not None and verifier._pending:
        done.wait(0.001)


def verified(cache: LLMCache) -> VerifiedStats:
    settle(cache)
    return cache.stats().verified.get("m value", VerifiedStats())


def answers(*texts: str) -> Callable[..., Any]:
    """A model that gives these answers in turn, the last for ever."""
    left = list(texts)

    def model(**request: Any) -> Any:
        text = left.pop(0) if len(left) > 1 else left[0]
        usage = {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": os.urandom(4).hex(), "model": "m", "choices": [choice], "usage": usage}

    return model


def ask(cache: LLMCache, model: Any, times: int = 2, **params: Any) -> Any:
    found = None
    for _ in range(times):
        found = cache.get_or_call(HI, model, **{**AT_ZERO, **params})
        settle(cache)
    return found


@pytest.mark.parametrize(
    ("how", "stored", "fresh", "agree"),
    [
        (None, "yes", "yes", True),
        (None, "yes", "Yes", False),
        ("exact", "yes", "yes.", False),
        ("normalized", "Yes, it  is.", "yes, it is", True),
        ("normalized", "yes", "no", False),
        ("structure", '{"a": 1, "b": [1, 2]}', '{"b": [3], "a": 7}', True),
        ("structure", '{"a": 1}', '{"a": "x"}', False),
        ("structure", "one", "two", True),
        (lambda stored, fresh: stored[0] == fresh[0], "yes", "yep", True),
        (lambda stored, fresh: stored[0] == fresh[0], "yes", "no", False),
    ],
)
def test_answers_are_compared_as_asked(how: Any, stored: str, fresh: str, agree: bool) -> None:
    cache = cache_of(verify_with=how)
    assert ask(cache, answers(stored, fresh))["choices"][0]["message"]["content"] == stored
    found = verified(cache)
    assert (found.checked, found.agreed) == (1, int(agree))


def test_a_disagreement_is_reported_with_its_time(
    caplog: pytest.LogCaptureFixture, clock: Any
) -> None:
    cache = cache_of(clock=clock)
    with caplog.at_level(logging.WARNING):
        ask(cache, answers("secret one", "secret two"), times=4)
    found = verified(cache)
    assert (found.checked, found.drifted, found.drift_since) == (3, 3, clock.now)
    assert caplog.text.count("drifted") == 1
    assert "secret" not in caplog.text
    assert "0 of 3 agree" in str(cache.stats())
    assert cache.stats().as_dict()["verified"]["m value"]["drifted"] == 3


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_no_other_call_is_made_where_none_is_asked_for(rate: float) -> None:
    calls: list[Any] = []

    def model(**request: Any) -> str:
        calls.append(request)
        return "yes"

    cache = cache_of(rate)
    ask(cache, model, times=3, temperature=0.5)
    cache.get_or_call("no temperature", model, model="m")
    cache.get_or_call("no temperature", model, model="m")
    with options(mode="replay"):
        ask(cache, model, temperature=0.5)
    tools = ToolCache(cache)
    cached = cache.cached(lambda temperature: calls.append(temperature) or "x")
    for _ in range(2):
        tools.get_or_call("tool", {"temperature": 0}, lambda: calls.append("tool"))
        cached(0)
    settle(cache)
    assert len(calls) == 4


def test_a_judge_verifies_at_any_temperature() -> None:
    cache = cache_of(verify_with=lambda stored, fresh: True)
    ask(cache, answers("a", "b"), temperature=0.7)
    assert verified(cache).agreed == 1


def test_a_judge_that_returns_a_text_is_no_judge(caplog: pytest.LogCaptureFixture) -> None:
    cache = cache_of(verify_with=lambda stored, fresh: "no")
    ask(cache, answers("a", "b"), times=4)
    assert verified(cache) == VerifiedStats(failed=3)
    assert [record.message for record in caplog.records] == [
        "a hit could not be verified: verify_with must return a bool, not str"
    ]


def test_a_judge_that_blocks_holds_up_no_event_loop() -> None:
    threads = set()
    cache = cache_of(verify_with=lambda *_: threads.add(threading.get_ident()) or True)

    async def model(**request: Any) -> str:
        return "a"

    async def run() -> None:
        for _ in range(2):
            await cache.aget_or_call(HI, model, **AT_ZERO)
        verifier: Any = cache.engine.verifier
        while verifier._pending:
            await asyncio.sleep(0.001)

    asyncio.run(run())
    assert verified(cache).agreed == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "LangChain, LLMCacheMem"])
def test_layers_that_make_the_call_verify(name: str) -> None:
    cache, provider = cache_of(), Provider()
    with layer(name, cache, provider) as call:
        for _ in range(2):
            call(HI, {}, model="m", temperature=0)
            settle(cache)
    (found,) = cache.stats().verified.values()
    assert (found.checked, found.drifted, provider.calls) == (1, 1, 2)


@pytest.mark.parametrize("how", ["call", "http"])
def test_async_calls_are_verified(how: str) -> None:
    provider, cache = Provider(), cache_of()

    async def model(**request: Any) -> str:
        return provider.text()

    async def run() -> None:
        from llm_cache_mem.http import AsyncCacheTransport

        transport = AsyncCacheTransport(cache, httpx2.MockTransport(provider.respond))
        async with httpx2.AsyncClient(transport=transport, base_url="https://x.test/v1") as client:
            for _ in range(2):
                if how == "call":
                    await cache.aget_or_call(HI, model, **AT_ZERO)
                else:
                    await client.post("chat/completions", json={**AT_ZERO, "messages": HI})
                verifier: Any = cache.engine.verifier
                while verifier._pending:
                    await asyncio.sleep(0)

    asyncio.run(run())
    (found,) = cache.stats().verified.values()
    assert (found.checked, found.drifted, found.failed) == (1, 1, 0)


def _events(*pieces: str) -> str:
    chunks = [
        f'data: {{"id":"{os.urandom(3).hex()}","object":"chat.completion.chunk","model":"m",'
        f'"choices":[{{"index":0,"delta":{{"content":"{piece}"}}}}]}}\n\n'
        for piece in pieces
    ]
    end = '"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
    return "".join((*chunks, f'data: {{"id":"1","model":"m",{end}\n\ndata: [DONE]\n\n'))


@pytest.mark.parametrize(("fresh", "agree"), [(("yes", " it is"), True), (("no",), False)])
def test_streams_agree_wherever_they_are_cut(fresh: tuple[str, ...], agree: bool) -> None:
    bodies = [_events("ye", "s it", " is"), _events(*fresh)]

    def respond(request: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, text=bodies.pop(0))

    cache = cache_of()
    transport = CacheTransport(cache, httpx2.MockTransport(respond))
    with httpx2.Client(transport=transport, base_url="https://x.test/v1") as client:
        for _ in range(2):
            body = {**AT_ZERO, "messages": HI, "stream": True}
            assert "it" in client.post("chat/completions", json=body).text
            settle(cache)
    (found,) = cache.stats().verified.values()
    assert (found.checked, found.agreed) == (1, int(agree))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_streams_of_the_core_are_verified(asynchronous: bool) -> None:
    texts, cache = [["ye", "s"], ["y", "es"], ["no"]], cache_of()

    def model(**request: Any) -> Any:
        return iter(texts.pop(0))

    async def amodel(**request: Any) -> Any:
        for piece in texts.pop(0):
            yield piece

    async def run() -> None:
        found: Any = await cache.aget_or_call(HI, amodel, **AT_ZERO, stream=True)
        assert "".join([piece async for piece in found]) == "yes"
        verifier: Any = cache.engine.verifier
        while verifier._pending:
            await asyncio.sleep(0)

    for _ in range(3):
        if asynchronous:
            asyncio.run(run())
        else:
            assert "".join(cache.get_or_call(HI, model, **AT_ZERO, stream=True)) == "yes"
            settle(cache)
    (found,) = cache.stats().verified.values()
    assert (found.checked, found.agreed, found.failed) == (2, 1, 0)


def test_replace_stores_the_fresh_answer() -> None:
    cache = cache_of(on_drift="replace")
    ask(cache, answers("old", "new"))
    assert verified(cache).replaced == 1
    assert ask(cache, answers("new"), 1)["choices"][0]["message"]["content"] == "new"


@pytest.mark.parametrize("what", ["deleted", "invalidated", "replaced"])
def test_replace_brings_nothing_back(what: str) -> None:
    cache = cache_of(on_drift="replace")
    texts = ["old", "new"]

    def model(**request: Any) -> Any:
        text = texts.pop(0)
        if text == "new" and what == "deleted":
            cache.delete(HI, **AT_ZERO)
        elif text == "new" and what == "invalidated":
            cache.invalidate("doc:1")
        elif text == "new":
            cache.put(HI, "other", **AT_ZERO)
        return text

    with options(depends_on=["doc:1"]):
        ask(cache, model)
    found = verified(cache)
    assert (found.drifted, found.replaced) == (1, 0)
    assert cache.get(HI, **AT_ZERO) == ("other" if what == "replaced" else None)


def test_replace_does_not_undo_a_delete_at_the_last_moment() -> None:
    class Store(MemoryStore):
        after_get: Callable[[], object] | None = None

        def get(self, key: str) -> Any:
            found = super().get(key)
            if self.after_get is not None and threading.current_thread() is not main:
                then, self.after_get = self.after_get, None
                then()
            return found

    main, store = threading.current_thread(), Store(max_size=None)
    cache = LLMCache(backend=store, verify_rate=1.0, on_drift="replace")
    model = answers("old", "new")
    ask(cache, model, 1)
    store.after_get = lambda: cache.delete(HI, **AT_ZERO)
    ask(cache, model, 1)
    assert store.after_get is None
    assert cache.get(HI, **AT_ZERO) is None


def test_invalidate_model_deletes_its_answers_alone() -> None:
    cache = cache_of(on_drift="invalidate_model")
    cache.put("a", "x", **AT_ZERO)
    cache.put("a", "x", model="other")
    ask(cache, answers("old", "new"))
    assert verified(cache).drifted == 1
    assert cache.get("a", **AT_ZERO) is None
    assert cache.get("a", model="other") == "x"


def test_a_failing_provider_is_counted_and_hits_go_on() -> None:
    texts = ["yes"]

    def model(**request: Any) -> str:
        return texts.pop(0)

    cache = cache_of()
    assert ask(cache, model, times=3) == "yes"
    found = verified(cache)
    assert (found.checked, found.failed) == (0, 2)


def test_a_call_that_exits_ends_no_worker() -> None:
    cache, made = cache_of(), list[int]()

    def model(**request: Any) -> str:
        made.append(1)
        if len(made) > 1:
            raise SystemExit
        return "a"

    ask(cache, model, times=12)
    assert verified(cache).failed == 11


def test_a_closed_cache_makes_no_call() -> None:
    cache, began, go_on, calls = cache_of(), threading.Event(), threading.Event(), list[int]()

    def model(**request: Any) -> str:
        calls.append(1)
        if len(calls) > 1:
            began.set()
            assert go_on.wait(60)
        return "a"

    for _ in range(8):
        cache.get_or_call(HI, model, **AT_ZERO)
    assert began.wait(60)
    cache.close()
    go_on.set()
    settle(cache)
    assert len(calls) <= 3


def test_an_incomplete_answer_is_no_drift() -> None:
    def truncated(**request: Any) -> Any:
        answer = answers("ye")(**request)
        answer["choices"][0]["finish_reason"] = "length"
        return answer

    cache = cache_of()
    ask(cache, answers("yes"), times=1)
    ask(cache, truncated, times=1)
    found = verified(cache)
    assert (found.checked, found.failed) == (0, 1)


@pytest.mark.parametrize(("budget", "checked"), [(0, 0), (2.5, 2), (None, 5)])
def test_the_budget_bounds_what_calls_cost(budget: Any, checked: int) -> None:
    cache = cache_of(verify_budget_usd=budget, prices=PRICES)
    ask(cache, answers("yes"), times=6)
    found = verified(cache)
    assert (found.checked, found.spent_usd) == (checked, checked)


def test_hits_that_cannot_be_compared_leave_the_budget() -> None:
    cache = cache_of(verify_budget_usd=1.5, prices=PRICES)
    ask(cache, answers("yes"), times=4, temperature=1)
    ask(cache, answers("yes"), times=4)
    assert verified(cache).checked == 1


def test_messages_that_have_changed_since_are_not_compared() -> None:
    messages, go_on = [dict(HI[0])], threading.Event()
    calls: list[Any] = []

    def model(messages: Any, **request: Any) -> str:
        calls.append(1)
        if len(calls) > 1:
            assert go_on.wait(60)
        return messages[-1]["content"]  # type: ignore[no-any-return]

    cache = cache_of()
    for _ in range(2):
        cache.get_or_call(messages, model, **AT_ZERO)
    messages.append({"role": "user", "content": "more"})
    go_on.set()
    found = verified(cache)
    assert found.checked == 0


def test_callers_do_not_wait_and_work_is_bounded() -> None:
    go_on, calls = threading.Event(), list[Any]()

    def model(**request: Any) -> str:
        calls.append(1)
        if len(calls) > 1:
            assert go_on.wait(60)
        return "yes"

    cache = cache_of()
    for _ in range(100):
        assert cache.get_or_call(HI, model, **AT_ZERO) == "yes"
    assert len(calls) <= 3
    go_on.set()
    assert verified(cache).checked <= 8


def test_frequent_hits_are_verified_at_a_bounded_rate(clock: Any) -> None:
    cache = cache_of(clock=clock, ttl_seconds=None)
    for seconds, checked in [(0, 100), (0, 100), (10, 120), (1000, 220)]:
        clock.now += seconds
        ask(cache, answers("yes"), times=400)
        assert verified(cache).checked == checked


def test_a_forked_child_verifies_with_threads_of_its_own() -> None:
    cache = cache_of()
    ask(cache, answers("yes"))
    assert verified(cache).checked == 1

    def child() -> int:
        ask(cache, answers("yes"), times=1)
        return verified(cache).checked

    assert in_child(child) == 2


def test_a_process_ends_while_a_hit_is_verified() -> None:
    program = """
import threading
from llm_cache_mem import LLMCache
calls = []
def model(**request):
    calls.append(1)
    if len(calls) > 1:
        threading.Event().wait()
    return "yes"
cache = LLMCache(verify_rate=1.0)
for _ in range(2):
    cache.get_or_call("hi", model, model="m", temperature=0)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_threads_end_with_their_cache() -> None:
    before = set(threading.enumerate())
    cache = cache_of()
    ask(cache, answers("yes"))
    threads = set(threading.enumerate()) - before
    assert len(threads) == 2
    del cache
    gc.collect()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("seeds", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_drift_of_five_in_a_hundred_is_found_in_500_hits(seeds: int) -> None:
    found = 0
    for seed in range(seeds):
        rng, cache = random.Random(seed), cache_of(0.2)
        engine: Any = cache.engine
        engine.verifier = Verifier(
            engine,
            rate=0.2,
            verify_with=None,
            budget_usd=None,
            on_drift="report",
            random=random.Random(seed),
        )
        drifted = {n for n in range(500) if rng.random() < 0.05}
        for number in range(500):
            cache.put(f"{number}", "old", **AT_ZERO)

        def model(messages: str, drifted: Any = drifted, **request: Any) -> str:
            return "new" if int(messages) in drifted else "old"

        for number in range(500):
            cache.get_or_call(f"{number}", model, **AT_ZERO)
            settle(cache)
        found += verified(cache).drifted > 0
    print("found in", found, "of", seeds)
    assert found >= seeds - seeds // 20


@pytest.mark.parametrize("hits", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_deterministic_model_never_drifts(hits: int) -> None:
    cache = cache_of(clock=itertools.count().__next__, ttl_seconds=None)
    model = answers("yes")
    cache.get_or_call(HI, model, **AT_ZERO)
    for number in range(hits):
        cache.get_or_call(HI, model, **AT_ZERO)
        if number % 4 == 0:
            settle(cache)
    found = verified(cache)
    print(found)
    assert found.drifted == found.failed == 0
    assert found.checked > hits / 8


def test_the_interval_is_of_ninety_five_percent() -> None:
    low, high = VerifiedStats(checked=100, agreed=95).interval
    assert (round(low, 3), round(high, 3)) == (0.888, 0.978)
    assert VerifiedStats().interval == (0.0, 1.0)


def test_merged_texts_do_not_depend_on_the_pieces() -> None:
    one = [{"delta": {"text": "a"}}, {"delta": {"text": "bc"}, "id": "1"}]
    assert merged(one) == merged([{"delta": {"text": "abc"}, "type": "x"}]) == {"text": "abc"}
    assert comparison("exact")({"id": 1, "a": 1}, {"a": 1, "usage": 3})


@pytest.mark.parametrize(
    "wrong",
    [
        {"verify_rate": 2},
        {"verify_rate": True},
        {"verify_rate": None},
        {"verify_rate": 0.1, "verify_with": "close"},
        {"verify_with": 3},
        {"verify_budget_usd": -1},
        {"on_drift": "delete"},
    ],
    ids=str,
)
def test_wrong_settings(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        LLMCache(**wrong)


def test_a_judge_is_no_coroutine_function() -> None:
    with pytest.raises(TypeError, match="not a coroutine"):
        LLMCache(verify_with=asyncio.sleep)
