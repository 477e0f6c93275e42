"""LLMCache as users call it: get, put, get_or_call, their async versions, and the settings that change
what they do."""

import asyncio
import copy
import hashlib
import json
import logging
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from threads import start, until

from llm_cache_mem import (
    CacheMissError,
    LLMCache,
    MemoryStore,
    RequestNotCacheable,
    StoreError,
    ValueNotCacheable,
    ignoring,
    last_turn,
    masking,
    options,
)

MESSAGES = [{"role": "user", "content": "hello"}]
ANSWER = {
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 10, "output_tokens": 5},
}


class Model:
    """A stand-in for an SDK's create method: counts its calls, and answers or raises as told."""

    def __init__(self, answer=ANSWER):
        self.answer = answer
        self.calls = []

    def __call__(self, messages, **params):
        self.calls.append((messages, params))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return copy.deepcopy(self.answer)

    async def acreate(self, messages, **params):
        await asyncio.sleep(0)
        return self(messages, **params)


@pytest.fixture(params=["memory", "sqlite"])
def cache(request, clock, tmp_path):
    backend = "memory" if request.param == "memory" else tmp_path / "cache.db"
    with LLMCache(max_size=3, ttl_seconds=60, backend=backend, clock=clock) as cache:
        yield cache


# -- get and put


def test_the_published_example_runs_unchanged():
    messages, model, result = MESSAGES, "gpt-5", ANSWER
    cache = LLMCache(max_size=500, ttl_seconds=3600)
    assert cache.get(messages, model=model) is None
    cache.put(messages, result, model=model)
    assert cache.get(messages, model=model) == result
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.hit_rate, stats.size) == (1, 1, 0.5, 1)


PUBLIC = [
    "get",
    "put",
    "get_or_call",
    "cached",
    "map",
    "batch",
    "delete",
    "clear",
    "purge",
    "invalidate",
    "stats",
    "totals",
    "key",
    "explain",
    "explain_misses",
    "open",
    "close",
    "aget",
    "aput",
    "aget_or_call",
    "amap",
    "adelete",
    "aclear",
    "ainvalidate",
    "astats",
    "aexplain",
    "aexplain_misses",
]


def test_the_facade_offers_these_names_and_its_engine():
    assert sorted(PUBLIC) == [name for name in dir(LLMCache) if not name.startswith("_")]
    assert {name for name in vars(LLMCache()) if not name.startswith("_")} == {"engine"}


def test_the_key_is_the_published_formula():
    formula = hashlib.sha256(
        json.dumps({"messages": MESSAGES, "model": "m", "n": 1}, sort_keys=True).encode()
    ).hexdigest()
    assert LLMCache().key(MESSAGES, model="m", n=1) == formula


def test_another_parameter_is_another_request(cache):
    cache.put(MESSAGES, "a", model="m", temperature=0)
    assert cache.get(MESSAGES, model="m", temperature=0.5) is None
    assert cache.get(MESSAGES, model="m") is None


def test_a_stored_none_is_told_from_a_miss_by_default(cache):
    assert cache.get(MESSAGES, default="nothing") == "nothing"
    cache.put(MESSAGES, None)
    assert cache.get(MESSAGES, default="nothing") is None


def test_a_hit_is_a_fresh_object(cache):
    mine = copy.deepcopy(ANSWER)
    cache.put(MESSAGES, mine)
    mine["content"].append("changed")
    for _ in range(4):
        hit = cache.get(MESSAGES)
        assert hit == ANSWER
        hit["content"][0]["text"] = "changed"


def test_an_entry_expires_after_its_ttl_despite_reads(cache, clock):
    cache.put(MESSAGES, "a")
    clock.advance(59)
    assert cache.get(MESSAGES) == "a"
    clock.advance(1)
    assert cache.get(MESSAGES) is None
    stats = cache.stats()
    assert (stats.expirations, stats.size) == (1, 0)


def test_a_put_over_an_entry_refreshes_it(cache, clock):
    cache.put(MESSAGES, "a")
    clock.advance(50)
    cache.put(MESSAGES, "b")
    clock.advance(50)
    assert cache.get(MESSAGES) == "b"


def test_the_least_recently_used_entry_goes_first(cache):
    for name in "abc":
        cache.put(name, name)
    cache.get("a")
    cache.put("d", "d")
    assert [cache.get(name) for name in "abcd"] == ["a", None, "c", "d"]
    assert cache.stats().evictions == 1


def test_the_stricter_of_the_entrys_and_the_readers_ttl_wins(clock, tmp_path):
    long = LLMCache(backend=tmp_path / "c.db", ttl_seconds=1000, clock=clock)
    short = LLMCache(backend=tmp_path / "c.db", ttl_seconds=10, clock=clock)
    long.put("a", 1)
    short.put("b", 2)
    clock.advance(10)
    assert (short.get("a"), short.get("b")) == (None, None)
    assert (long.get("a"), long.get("b")) == (1, None)
    long.close()
    short.close()


def test_an_entry_from_the_future_is_a_miss(cache, clock):
    clock.advance(1000)
    cache.put("a", 1)
    clock.advance(-1000)
    assert cache.get("a") is None


def test_no_ttl_means_any_age(clock):
    cache = LLMCache(ttl_seconds=None, clock=clock)
    cache.put("a", 1)
    clock.advance(1e9)
    assert cache.get("a") == 1


def test_max_bytes_bounds_the_store_and_rejects_larger_entries(clock):
    cache = LLMCache(max_size=None, max_bytes=4000, clock=clock)
    for number in range(20):
        cache.put(str(number), "x" * 500)
    assert 1 <= cache.stats().size <= 7
    cache.put("big", "x" * 5000)
    assert cache.get("big") is None
    assert cache.stats().skipped == {"too large": 1}


def test_delete_forgets_one_and_clear_forgets_all(cache):
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.delete("a") is True
    assert cache.delete("a") is False
    assert cache.clear() == 1
    assert cache.stats().size == 0


def test_purge_removes_expired_entries(cache, clock):
    cache.put("a", 1)
    clock.advance(100)
    cache.put("b", 2)
    cache.purge()
    assert cache.stats().size == 1
    assert cache.stats().expirations == 1


def test_a_request_without_a_wire_form_is_refused_by_name(cache):
    with pytest.raises(RequestNotCacheable, match=r"messages\[0\]\.content"):
        cache.get([{"role": "user", "content": object()}])
    with pytest.raises(RequestNotCacheable, match="temperature"):
        cache.put(MESSAGES, "a", temperature=float("nan"))


def test_a_value_that_cannot_round_trip_is_rejected(cache):
    cache.put(MESSAGES, "old")
    with pytest.raises(ValueNotCacheable, match="value"):
        cache.put(MESSAGES, {"a": [object()]})
    with pytest.raises(TypeError):
        cache.put(MESSAGES, ValueError("errors are never cached"))
    assert cache.get(MESSAGES) == "old"


# -- settings


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_size": 0}, ValueError),
        ({"max_size": -5}, ValueError),
        ({"max_size": 1.5}, TypeError),
        ({"max_size": True}, TypeError),
        ({"max_bytes": 0}, ValueError),
        ({"ttl_seconds": 0}, ValueError),
        ({"ttl_seconds": -1}, ValueError),
        ({"ttl_seconds": "60"}, ValueError),
        ({"mode": "onn"}, ValueError),
        ({"key_fn": "last_turn"}, TypeError),
        ({"ignore": "timeout"}, TypeError),
        ({"namespace": 5}, TypeError),
        ({"namespace": "\ud800"}, ValueError),
        ({"admit": "all"}, ValueError),
        ({"prices": 7}, (TypeError, ValueError)),
        ({"wait_seconds": 0}, ValueError),
        ({"on_event": "print"}, TypeError),
        ({"clock": 3}, TypeError),
        ({"strict": "no"}, TypeError),
        ({"keep_requests": "no"}, TypeError),
        ({"backend": "redsi://x"}, ValueError),
        ({"backend": MemoryStore(), "max_size": 5}, ValueError),
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused_at_once(arguments, error):
    with pytest.raises(error):
        LLMCache(**arguments)


def test_a_wrong_setting_makes_no_database(tmp_path):
    with pytest.raises(TypeError, match="namespace"):
        LLMCache(backend=tmp_path / "cache.db", namespace=5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("setting", ["ignore", "redact"])
def test_names_must_be_a_collection(setting):
    with pytest.raises(TypeError, match=f"{setting} must be a collection of names"):
        LLMCache(**{setting: 3})


def test_a_timedelta_is_a_ttl(clock):
    cache = LLMCache(ttl_seconds=timedelta(seconds=5), clock=clock)
    cache.put("a", 1)
    clock.advance(5)
    assert cache.get("a") is None


def test_transport_options_are_not_in_the_key(cache):
    cache.put(MESSAGES, "a", model="m", timeout=5, api_key="one")
    assert cache.get(MESSAGES, model="m", timeout=9, max_retries=2, api_key="two") == "a"


def test_ignore_replaces_the_names_that_are_left_out(clock):
    cache = LLMCache(ignore=["user"], clock=clock)
    cache.put(MESSAGES, "a", user="u1", timeout=5)
    assert cache.get(MESSAGES, user="u2", timeout=5) == "a"
    assert cache.get(MESSAGES, user="u2", timeout=9) is None


def test_namespaces_do_not_see_one_another(clock):
    store = MemoryStore(clock=clock)
    one, two = (LLMCache(backend=store, namespace=name, clock=clock) for name in ("one", "two"))
    one.put("a", 1)
    two.put("a", 2)
    with options(namespace="three"):
        assert one.get("a") is None
        one.put("a", 3)
    assert (one.get("a"), two.get("a"), one.stats().size, store.size()) == (1, 2, 1, 3)
    assert one.clear() == 1
    assert two.get("a") == 2


def test_the_namespace_is_not_in_the_digest():
    assert LLMCache(namespace="x").key(MESSAGES) == LLMCache().key(MESSAGES)


def test_key_functions_choose_the_compared_fields():
    history = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
    ]
    cache = LLMCache(key_fn=last_turn)
    cache.put([*history, *MESSAGES], "a", model="m")
    assert cache.get([history[0], *MESSAGES], model="m") == "a"
    assert cache.get([*history, *MESSAGES], model="other") is None

    cache = LLMCache(key_fn=ignoring("user"))
    cache.put(MESSAGES, "a", user="u1")
    assert cache.get(MESSAGES, user="u2") == "a"

    cache = LLMCache(key_fn=masking(r"\d{4}-\d\d-\d\d"))
    cache.put([{"role": "system", "content": "Today is 2026-01-01."}], "a")
    assert cache.get([{"role": "system", "content": "Today is 2026-01-02."}]) == "a"
    assert cache.get([{"role": "system", "content": "Now is 2026-01-02."}]) is None


def test_a_raising_key_fn_makes_the_request_uncacheable():
    def bad(messages, **params):
        raise ZeroDivisionError("with a secret")

    cache = LLMCache(key_fn=bad)
    with pytest.raises(RequestNotCacheable, match="key_fn: it raised ZeroDivisionError") as caught:
        cache.get(MESSAGES)
    assert "secret" not in str(caught.value)
    assert cache.get_or_call(MESSAGES, Model("a")) == "a"


def test_samples_are_separate_answers_to_one_request(cache):
    cache.put("a", 0)
    with options(sample=1):
        assert cache.get("a") is None
        cache.put("a", 1)
    with options(sample=0):
        assert cache.get("a") == 0
    with options(sample=1):
        assert cache.get("a") == 1


def test_options_set_the_ttl_of_a_write_and_the_age_of_a_read(cache, clock):
    with options(ttl_seconds=10):
        cache.put("a", 1)
    cache.put("b", 2)
    clock.advance(10)
    assert cache.get("a") is None
    with options(ttl_seconds=5):
        assert cache.get("b") is None
    assert cache.get("b") == 2


def test_mode_off_neither_reads_nor_stores_nor_counts(cache):
    cache.put("a", 1)
    with options(mode="off"):
        assert cache.get("a") is None
        cache.put("a", 2)
        assert cache.get_or_call("a", Model(3)) == 3
    assert cache.get("a") == 1
    assert cache.stats().misses == 0


def test_mode_refresh_stores_without_reading(cache):
    cache.put("a", 1)
    with options(mode="refresh"):
        assert cache.get_or_call("a", Model(2)) == 2
    assert cache.get("a") == 2


def test_mode_replay_ignores_age_and_raises_on_a_miss(cache, clock):
    model = Model()
    cache.put("a", 1)
    clock.advance(1e6)
    with options(mode="replay"):
        assert cache.get_or_call("a", model) == 1
        with pytest.raises(CacheMissError):
            cache.get_or_call("b", model)
        with pytest.raises(LookupError):
            cache.get("b")
        cache.put("a", 2)
        assert cache.get("a") == 1
    assert model.calls == []


def test_the_environment_sets_the_mode_unless_the_program_does(monkeypatch):
    monkeypatch.setenv("LLM_CACHE_MEM_MODE", "off")
    silent, spoken = LLMCache(), LLMCache(mode="on")
    for cache in (silent, spoken):
        cache.put("a", 1)
    assert (silent.get("a"), spoken.get("a")) == (None, 1)
    monkeypatch.setenv("LLM_CACHE_MEM_MODE", "of")
    with pytest.raises(ValueError, match="LLM_CACHE_MEM_MODE must be one of"):
        LLMCache()


# -- get_or_call


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """get_or_call and aget_or_call behind one face."""

    def sync(cache, messages, create, /, **params):
        return cache.get_or_call(messages, create, **params)

    def through_loop(cache, messages, create, /, **params):
        return asyncio.run(cache.aget_or_call(messages, create.acreate, **params))

    return sync if request.param == "sync" else through_loop


def test_the_model_is_called_once_with_exactly_the_request(cache, ask):
    model = Model()
    for _ in range(3):
        assert ask(cache, MESSAGES, model, model="m", max_tokens=9, timeout=3) == ANSWER
    assert model.calls == [(MESSAGES, {"model": "m", "max_tokens": 9, "timeout": 3})]
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.stored) == (2, 1, 1)


def test_changes_by_one_caller_do_not_reach_the_next(cache, ask):
    model = Model()
    ask(cache, MESSAGES, model)["content"].append("changed")
    assert ask(cache, MESSAGES, model) == ANSWER


def test_errors_reach_the_caller_and_are_never_stored(cache, ask):
    model = Model(ConnectionError("down"))
    for _ in range(2):
        with pytest.raises(ConnectionError, match="down"):
            ask(cache, MESSAGES, model)
    assert len(model.calls) == 2
    assert cache.stats().size == 0


def test_a_truncated_answer_is_returned_but_not_stored(cache, ask, caplog):
    model = Model({**ANSWER, "type": "message", "role": "assistant", "stop_reason": "max_tokens"})
    for _ in range(3):
        assert ask(cache, MESSAGES, model)["stop_reason"] == "max_tokens"
    assert len(model.calls) == 3
    assert cache.stats().skipped == {"truncated": 3}
    hints = [
        record.getMessage() for record in caplog.records if "admit='any'" in record.getMessage()
    ]
    assert len(hints) == 1


def test_admit_any_and_a_function_of_ones_own(ask):
    truncated = {**ANSWER, "type": "message", "role": "assistant", "stop_reason": "max_tokens"}
    model = Model(truncated)
    cache = LLMCache(admit="any")
    ask(cache, MESSAGES, model)
    ask(cache, MESSAGES, model)
    assert len(model.calls) == 1
    cache = LLMCache(admit=lambda response: response["stop_reason"] == "max_tokens")
    ask(cache, MESSAGES, Model(ANSWER))
    ask(cache, "other", Model(truncated))
    assert cache.stats().size == 1


def test_an_answer_that_cannot_be_stored_is_returned_and_counted(cache, ask):
    model = Model(len)  # a function: nothing that can come back equal
    assert ask(cache, MESSAGES, model) is len
    assert ask(cache, MESSAGES, model) is len
    assert cache.stats().skipped == {"value": 2}


def test_a_request_that_has_no_key_is_called_through_and_counted(cache, ask, caplog):
    model = Model()
    for _ in range(2):
        assert ask(cache, [object()], model) == ANSWER
    assert len(model.calls) == 2
    assert cache.stats().skipped == {"request": 2}
    assert len([r for r in caplog.records if "goes uncached" in r.getMessage()]) == 1


def test_savings_are_the_cost_of_the_stored_call(clock):
    def slow(messages, **params):
        clock.advance(2.5)
        return ANSWER

    cache = LLMCache(clock=clock, prices={"m": (1.0, 2.0)})
    for _ in range(3):
        cache.get_or_call(MESSAGES, slow, model="m")
    stats = cache.stats()
    assert stats.tokens_saved == 30
    assert stats.seconds_saved == 5.0
    assert stats.saved_usd == pytest.approx(2 * (10 * 1.0 + 5 * 2.0) / 1e6)
    assert list(stats.by_model) == ["m"]


def test_savings_do_not_depend_on_later_changes():
    cache = LLMCache(prices={"m": (1.0, 2.0)})
    answer = copy.deepcopy(ANSWER)
    cache.put(MESSAGES, answer, model="m")
    answer["usage"]["input_tokens"] = 10**6
    hits = [cache.get(MESSAGES, model="m") for _ in range(2)]
    hits[0]["usage"].clear()
    assert cache.get(MESSAGES, model="m") == ANSWER
    stats = cache.stats()
    assert (stats.tokens_saved, stats.unpriced_hits) == (3 * 15, 0)
    assert stats.saved_usd == pytest.approx(3 * (10 * 1.0 + 5 * 2.0) / 1e6)


def test_a_price_function_is_asked_when_a_value_is_put():
    asked = []
    cache = LLMCache(prices=lambda model, usage: asked.append(model) or 1.0)
    cache.put(MESSAGES, ANSWER, model="m")
    assert set(asked) >= {"m"}
    before = list(asked)
    cache.get(MESSAGES, model="m")
    assert (asked, cache.stats().saved_usd) == (before, 1.0)


def test_an_unknown_model_is_unpriced_and_not_free():
    cache = LLMCache(prices={})
    for _ in range(2):
        cache.get_or_call(MESSAGES, Model(), model="nobody-knows-it")
    assert (cache.stats().saved_usd, cache.stats().unpriced_hits) == (0.0, 1)


def test_concurrent_identical_calls_make_one(cache):
    gate, model = threading.Event(), Model()

    def slow(messages, **params):
        gate.wait(60)
        return model(messages, **params)

    calls = [start(lambda: cache.get_or_call(MESSAGES, slow)) for _ in range(8)]
    until(lambda: cache.stats().misses == 8)
    gate.set()
    answers = [call.result(60) for call in calls]
    assert len(model.calls) == 1
    assert answers == [ANSWER] * 8
    assert len({id(answer) for answer in answers}) == 8
    stats = cache.stats()
    assert stats.misses - stats.coalesced == 1
    assert stats.by_model[""].coalesced == 7


def test_concurrent_identical_coroutines_make_one_call(cache):
    model = Model()

    async def main():
        return await asyncio.gather(
            *(cache.aget_or_call(MESSAGES, model.acreate) for _ in range(20))
        )

    answers = asyncio.run(main())
    assert answers == [ANSWER] * 20
    assert len(model.calls) == 1


def test_coalesce_can_be_turned_off():
    cache, model = LLMCache(coalesce=False), Model()

    async def main():
        await asyncio.gather(*(cache.aget_or_call(MESSAGES, model.acreate) for _ in range(5)))

    asyncio.run(main())
    assert len(model.calls) == 5


def test_followers_of_an_uncopyable_answer_call_themselves():
    cache, model = LLMCache(), Model()

    async def uncopyable(messages, **params):
        await asyncio.sleep(0)
        model.calls.append(messages)
        return threading.Lock()

    async def main():
        return await asyncio.gather(*(cache.aget_or_call(MESSAGES, uncopyable) for _ in range(3)))

    assert len(set(map(id, asyncio.run(main())))) == 3
    assert len(model.calls) == 3


@pytest.mark.parametrize("forget", ["delete", "clear"])
def test_a_call_in_flight_does_not_restore_a_deleted_entry(cache, forget):
    def deletes_meanwhile(messages, **params):
        cache.clear() if forget == "clear" else cache.delete(messages)
        return "stale"

    assert cache.get_or_call(MESSAGES, deletes_meanwhile) == "stale"
    assert cache.get(MESSAGES) is None


# -- streams


def chunks(*texts, end=True):
    yield from [
        {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        for text in texts
    ]
    if end:
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


async def achunks(*texts, end=True):
    for chunk in chunks(*texts, end=end):
        yield chunk


def read(cache, source, kind="sync"):
    if kind == "sync":
        return list(cache.get_or_call(MESSAGES, lambda messages, stream: source(), stream=True))

    async def main():
        async def create(messages, stream):
            return source()

        return [chunk async for chunk in await cache.aget_or_call(MESSAGES, create, stream=True)]

    return asyncio.run(main())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_is_stored_at_its_end_and_replayed_as_a_stream(cache, kind):
    opened = []

    def source():
        opened.append(1)
        return chunks("a", "b") if kind == "sync" else achunks("a", "b")

    first = read(cache, source, kind)
    assert read(cache, source, kind) == first == list(chunks("a", "b"))
    assert len(opened) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_that_ends_without_its_final_chunk_is_not_stored(cache, kind):
    read(cache, lambda: (chunks if kind == "sync" else achunks)("a", end=False), kind)
    assert cache.stats().size == 0
    assert cache.stats().skipped == {"incomplete": 1}


def test_an_unfinished_stream_is_not_stored(cache):
    def failing():
        yield from chunks("a", end=False)
        raise ConnectionError

    def create(messages, stream):
        return chunks("a", "b")

    for _ in cache.get_or_call(MESSAGES, create, stream=True):
        break
    with pytest.raises(ConnectionError):
        list(cache.get_or_call(MESSAGES, lambda messages, stream: failing(), stream=True))
    with cache.get_or_call(MESSAGES, create, stream=True) as stream:
        next(stream)
    assert list(stream) == []
    assert cache.stats().size == 0


async def test_an_async_generator_function_streams(cache):
    made = []

    async def create(messages, stream):
        made.append(messages)
        for chunk in "abc":
            yield chunk

    for _ in range(2):
        assert [
            chunk async for chunk in await cache.aget_or_call(MESSAGES, create, stream=True)
        ] == ["a", "b", "c"]
    assert len(made) == 1


@pytest.mark.parametrize("params", [{}, {"stream": True}], ids=str)
async def test_a_function_that_is_not_async_is_told_to_use_get_or_call(cache, params):
    with pytest.raises(
        TypeError, match=r"returns an awaitable.*\(get_or_call: any other\), not dict"
    ):
        await cache.aget_or_call(MESSAGES, lambda **request: {"content": "x"}, **params)


def test_a_cancelled_async_stream_is_not_stored(cache):
    async def endless():
        while True:
            yield {"choices": []}
            await asyncio.sleep(0)

    async def consume():
        async def create(messages, stream):
            return endless()

        async for _ in await cache.aget_or_call(MESSAGES, create, stream=True):
            pass

    async def main():
        task = asyncio.create_task(consume())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert cache.stats().size == 0


def test_changing_a_chunk_does_not_change_the_stored_one(cache):
    for chunk in cache.get_or_call(MESSAGES, lambda messages, stream: chunks("a"), stream=True):
        chunk["choices"][0]["delta"]["content"] = "changed"
    assert read(cache, lambda: iter(())) == list(chunks("a"))


def test_a_delete_during_a_stream_prevents_storing_it(cache):
    stream = cache.get_or_call(MESSAGES, lambda messages, stream: chunks("a"), stream=True)
    next(stream)
    cache.delete(MESSAGES, stream=True)
    list(stream)
    assert cache.stats().size == 0


def test_the_sdks_own_attributes_of_a_live_stream_stay_reachable(cache):
    class SDKStream:
        response = "the response"

        def __iter__(self):
            return chunks("a")

    stream: object = cache.get_or_call(MESSAGES, lambda messages, stream: SDKStream(), stream=True)
    assert stream.response == "the response"
    with pytest.raises(AttributeError):
        _ = stream.nothing


# -- async versions, failures, life and death


def test_the_async_twins_do_what_the_others_do(cache):
    async def main():
        await cache.aput(MESSAGES, ANSWER, model="m")
        assert await cache.aget(MESSAGES, model="m") == ANSWER
        assert (await cache.astats()).hits == 1
        assert await cache.adelete(MESSAGES, model="m") is True
        await cache.aput(MESSAGES, ANSWER)
        assert await cache.aclear() == 1
        assert await cache.aget(MESSAGES, default=0) == 0

    asyncio.run(main())


class Broken(MemoryStore):
    blocking = True

    def get(self, key):
        raise OSError("disk on fire")

    def put(self, key, entry):
        raise OSError("disk on fire")


def test_a_broken_store_leaves_calls_as_if_there_were_no_cache(ask, caplog):
    cache, model = LLMCache(backend=Broken()), Model()
    for _ in range(5):
        assert ask(cache, MESSAGES, model) == ANSWER
    assert len(model.calls) == 5
    assert cache.stats().errors == 3  # then it is left alone for a while
    assert "hello" not in caplog.text


def test_strict_raises_store_errors(ask):
    with pytest.raises(StoreError, match="Broken: get failed"):
        ask(LLMCache(backend=Broken(), strict=True), MESSAGES, Model())


def test_an_unreadable_entry_is_a_miss_deleted_and_counted(clock):
    from llm_cache_mem.values.entry import Entry
    from llm_cache_mem.values.payload import Payload

    store = MemoryStore(clock=clock)
    cache = LLMCache(backend=store, clock=clock)
    key = cache.engine.keyer.request(MESSAGES, {}).key
    store.put(key, Entry(Payload.from_json(b'{"broken'), clock()))
    assert cache.get(MESSAGES) is None
    assert store.size() == 0
    assert cache.stats().errors == 1


def test_a_cache_that_was_closed_lets_calls_through(tmp_path, ask):
    cache, model = LLMCache(backend=tmp_path / "c.db"), Model()
    cache.close()
    cache.close()
    assert ask(cache, MESSAGES, model) == ANSWER
    assert ask(cache, MESSAGES, model) == ANSWER


def test_a_store_that_was_handed_in_stays_open(tmp_path):
    class Closable(MemoryStore):
        closed = False

        def close(self):
            self.closed = True

    store = Closable()
    LLMCache(backend=store).close()
    assert not store.closed


def test_a_persistent_cache_answers_after_a_restart(tmp_path, ask):
    model = Model()
    with LLMCache(backend=f"sqlite:///{tmp_path}/c.db", prices={"m": (1, 2)}) as cache:
        ask(cache, MESSAGES, model, model="m")
    with LLMCache(backend=f"sqlite:///{tmp_path}/c.db") as cache:
        assert ask(cache, MESSAGES, model, model="m") == ANSWER
        assert cache.stats().saved_usd > 0
    assert len(model.calls) == 1


def test_kinds_of_entries_never_answer_one_another(cache):
    cache.put(MESSAGES, "value")
    assert cache.engine.lookup(cache.engine.keyer.request(MESSAGES, {}, kind="other")) is None


def test_copies_share_the_cache_and_pickles_reopen_it(tmp_path):
    cache = LLMCache(max_size=7, backend=tmp_path / "c.db")
    cache.put("a", 1)
    assert copy.copy(cache) is cache
    assert copy.deepcopy([cache])[0] is cache
    again = pickle.loads(pickle.dumps(cache))
    assert again.get("a") == 1
    again.close()
    cache.close()


def test_repr_logs_and_events_show_no_prompt_or_answer(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    told = []
    cache = LLMCache(backend=tmp_path / "c.db", on_event=told.append)
    secret = [{"role": "user", "content": "CANARY"}]
    for answer in ({"text": "CANARY"}, len, ""):
        cache.get_or_call(secret, Model(answer), model="m")
        cache.get_or_call([object(), "CANARY"], Model(answer))
    hit = cache.engine.lookup(cache.engine.keyer.request(secret, {"model": "m"}))
    shown = [
        repr(cache),
        repr(hit),
        repr(cache.engine.keyer.request(secret, {})),
        caplog.text,
        repr(told),
        str(cache.stats()),
        cache._repr_html_(),
    ]
    assert not any("CANARY" in text for text in shown)
    cache.close()


def test_threads_share_a_cache_without_losing_count():
    cache = LLMCache(max_size=50)

    def work(seed):
        for number in range(300):
            key = f"{(number * seed) % 80}"
            if cache.get(key) is None:
                cache.put(key, key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    assert stats.hits + stats.misses == 2400
    assert stats.size == 50


# -- classes that a request names


def test_a_class_that_the_request_names_needs_no_registering(tmp_path, monkeypatch):
    from pydantic import create_model

    from llm_cache_mem.values import classes

    invoice = create_model("Invoice", total=(int, ...))
    model = Model(invoice(total=3))
    for _ in range(2):
        for table in ("_registered", "_names", "_refs", "_classes", "_complete"):
            empty = type(getattr(classes, table))()  # as in a new process
            monkeypatch.setattr(classes, table, empty)
        with LLMCache(backend=tmp_path / "c.db") as cache:
            assert cache.get_or_call(MESSAGES, model, response_format=invoice) == invoice(total=3)
    assert len(model.calls) == 1


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_hit_is_of_the_class_that_its_request_names(tmp_path, backend):
    from pydantic import create_model

    first, second = (create_model("Invoice", total=(int, ...)) for _ in range(2))
    model = Model(first(total=3))
    with LLMCache(backend=backend if backend == "memory" else tmp_path / "c.db") as cache:
        for named in (first, first, first, second, second, first, second):
            found = cache.get_or_call(MESSAGES, model, response_format=named)
            assert type(found) is named
            assert found == named(total=3)
    assert len(model.calls) == 1


def test_threads_that_name_classes_alike_each_get_their_own():
    from pydantic import create_model

    named = [create_model("Invoice", total=(int, ...)) for _ in range(4)]
    cache = LLMCache()
    cache.get_or_call(MESSAGES, Model(named[0](total=3)), response_format=named[0])

    def ask(cls):
        return {type(cache.get(MESSAGES, response_format=cls)) for _ in range(200)} == {cls}

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, named))


def test_a_class_outside_values_breaks_nothing(cache):
    assert cache.get_or_call(MESSAGES, Model(), response_format=dict) == ANSWER


def test_an_oversized_value_is_no_store_failure(tmp_path, monkeypatch):
    from llm_cache_mem.values import entry

    monkeypatch.setattr(entry, "MAX_BODY_BYTES", 100)
    cache = LLMCache(backend=tmp_path / "c.db")
    for _ in range(5):
        assert cache.get_or_call(MESSAGES, Model("x" * 200)) == "x" * 200
    with pytest.raises(ValueNotCacheable, match="more than 100 bytes"):
        cache.put(MESSAGES, "x" * 200)
    assert cache.stats().skipped == {"value": 5}
    assert cache.stats().errors == 0
    cache.close()


def test_a_stream_read_past_the_recorder_is_not_whole(cache):
    class SDKStream:
        def __init__(self):
            self.chunks = iter(["Hello ", "dear ", "world"])

        def __iter__(self):
            return self.chunks

        def read_rest(self):
            return list(self.chunks)

    stream = cache.get_or_call(MESSAGES, lambda messages, stream: SDKStream(), stream=True)
    assert [next(stream), stream.read_rest(), list(stream)] == ["Hello ", ["dear ", "world"], []]
    assert cache.stats().size == 0


def test_an_unstreamed_answer_to_a_stream_request_is_not_stored(cache):
    assert cache.get_or_call(MESSAGES, lambda messages, stream: ANSWER, stream=True) == ANSWER
    assert cache.stats().skipped == {"value": 1}


def test_followers_get_copies_of_their_own():
    cache, calls = LLMCache(), []

    class Unregistered:
        def __init__(self):
            self.parts = ["answer"]

    async def create(messages):
        await asyncio.sleep(0)
        calls.append(1)
        return Unregistered()

    async def ask():
        answer = await cache.aget_or_call(MESSAGES, create)
        seen = list(answer.parts)
        answer.parts.append("edited")
        return seen

    async def main():
        return await asyncio.gather(*(ask() for _ in range(5)))

    assert asyncio.run(main()) == [["answer"]] * 5


def test_a_put_during_a_call_is_newer_than_the_calls_answer(cache):
    def create(messages):
        cache.put(messages, "newer")
        return "older"

    assert cache.get_or_call(MESSAGES, create) == "older"
    assert cache.get(MESSAGES) == "newer"


def test_a_clock_that_goes_back_during_a_call_saves_no_negative_time(clock):
    def create(messages):
        clock.advance(-500)
        return ANSWER

    cache = LLMCache(clock=clock)
    cache.get_or_call(MESSAGES, create)
    cache.get_or_call(MESSAGES, create)
    assert cache.stats().seconds_saved == 0.0


def test_a_signal_handler_may_ask_in_the_middle_of_it():
    import signal

    cache = LLMCache()
    cache.put("a", 1)
    asked = []

    def handler(number, frame):
        asked.append(cache.stats().hits)
        cache.get("a")

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        while len(asked) < 200:
            cache.get("a")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_the_clock_is_looked_up_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As libraries that freeze time replace it, after the cache was made."""
    cache = LLMCache(ttl_seconds=60)
    cache.put("hi", "answer")
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert cache.get("hi") is None
    assert cache.stats().expirations == 1


async def test_open_makes_a_cache_without_blocking_the_event_loop(tmp_path: Path) -> None:
    thread = threading.get_ident()
    made_in: list[int] = []

    def clock() -> float:
        made_in.append(threading.get_ident())
        return 1000.0

    cache = await LLMCache.open(backend=tmp_path / "c.db", clock=clock)
    assert thread not in made_in
    await cache.aput("hi", "answer")
    assert await cache.aget("hi") == "answer"
    with pytest.raises(ValueError, match="max_size"):
        await LLMCache.open(0)
    cache.close()


def test_require_namespace_skips_calls_outside_of_any():
    cache = LLMCache(require_namespace=True)
    answers = iter("abcdef")
    assert [cache.get_or_call("x", lambda **_: next(answers)) for _ in range(2)] == ["a", "b"]
    cache.put("x", "stored")
    assert cache.get("x", default="none") == "none"
    assert dict(cache.stats().skipped) == {"namespace": 4}
    with options(namespace=""), pytest.raises(RequestNotCacheable, match="namespace"):
        cache.delete("x")
    with options(namespace="acme"):
        assert [cache.get_or_call("x", lambda **_: next(answers)) for _ in range(2)] == ["c", "c"]
    assert LLMCache(namespace="acme", require_namespace=True).get("x") is None
    with pytest.raises(RequestNotCacheable):
        LLMCache(require_namespace=True, mode="replay").get("x")


def test_a_cache_without_a_namespace_does_not_coalesce_calls():
    cache, calls = LLMCache(require_namespace=True), []
    everyone = threading.Barrier(4)

    def call(**_):
        everyone.wait(5)  # which coalesced calls would never reach together
        calls.append(1)

    for future in [start(lambda: cache.get_or_call("x", call)) for _ in range(4)]:
        future.result(10)
    assert len(calls) == 4


def test_a_pickled_cache_carries_its_options(tmp_path):
    cache = LLMCache(backend=tmp_path / "a.db")
    with options(namespace="acme", ttl_seconds=5, mode="refresh"):
        again = pickle.loads(pickle.dumps(cache))
    assert "ttl_seconds=5.0, mode='refresh'" in repr(again)
    again.put("x", "y")
    with options(namespace="acme"):
        assert cache.get("x") == "y"
    assert cache.get("x") is None
    again.close()
    cache.close()


def test_a_backend_in_place_of_max_size_is_recognised():
    with pytest.raises(TypeError, match=r"did you mean LLMCache\(backend=...\)"):
        LLMCache("redis://localhost:6379/0")


def test_a_parameter_named_like_an_option_is_explained_once(caplog):
    cache = LLMCache()
    cache.put("q", "a", ttl_seconds=5)
    cache.put("q", "a", ttl_seconds=5)
    assert cache.get("q") is None
    assert cache.get("q", ttl_seconds=5) == "a"
    hints = [record.getMessage() for record in caplog.records if "with options" in record.message]
    assert len(hints) <= 1  # once in a process
    cache.get_or_call("q", lambda messages, sample: "a", sample=3)
    hints = [record.getMessage() for record in caplog.records]
    assert any("with options(sample=...)" in hint for hint in hints)


@pytest.mark.parametrize("factory", [ignoring, masking])
def test_a_key_function_that_was_not_called_is_an_error(factory):
    with pytest.raises(TypeError, match=f"call {factory.__name__} first"):
        LLMCache(key_fn=factory)
