"""One ledger: hits, coalesced calls and the provider's prompt cache side by side, each counted
once."""

import random
import threading
from time import monotonic

import pytest
from conftest import Clock

from llm_cache_mem import LLMCache
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.accounting.pricing import Bill, bill, resolve
from llm_cache_mem.accounting.provider import PaidCall, ProviderCacheStats
from llm_cache_mem.responses.usage import Usage, read_id

PRICES = {"m": (3.0, 15.0, 0.30, 3.75, 6.0)}
MESSAGES = [{"role": "user", "content": "Question"}]


def answer(fresh=100, read=0, write=0, write_1h=0, output=10, identity="msg_1"):
    usage = {
        "input_tokens": fresh,
        "output_tokens": output,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": write,
    }
    usage |= {
        "cache_creation": {
            "ephemeral_5m_input_tokens": write - write_1h,
            "ephemeral_1h_input_tokens": write_1h,
        }
    }
    content = [{"type": "text", "text": "Answer"}]
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": content,
        "stop_reason": "end_turn",
        "usage": usage,
    }


def seen(usage: Usage, seconds=None, identity=None) -> PaidCall:
    cost = bill(resolve(PRICES), ["m"], usage)
    return PaidCall("m", usage, seconds, cost.read_usd, cost.premium_usd, identity)


# -- What a bill says of the provider's cache


def test_reading_saves_and_writing_costs_extra():
    million = 1_000_000
    price = resolve(PRICES)
    assert bill(price, ["m"], Usage(million, 0)) == Bill(3.0, 0.0, 0.0)
    assert bill(price, ["m"], Usage(million, 0, cache_read_tokens=million)) == pytest.approx(
        Bill(0.30, 2.70, 0.0)
    )
    assert bill(price, ["m"], Usage(million, 0, cache_write_tokens=million)) == pytest.approx(
        Bill(3.75, 0.0, 0.75)
    )
    both = Usage(2 * million, 0, million, million, million)
    assert bill(price, ["m"], both) == pytest.approx(Bill(6.30, 2.70, 3.0))


def test_an_unknown_model_has_no_bill_and_the_first_known_name_counts():
    assert bill(resolve(PRICES), ["nobody", None], Usage(5, 5)) == Bill(None, None, None)
    assert bill(resolve(PRICES), [None, "nobody", "m"], Usage(1_000_000, 0)).usd == 3.0


# -- The cache counts what it pays for


def test_the_cache_counts_provider_cache_usage():
    cache = LLMCache(prices=PRICES)
    answers = iter([answer(write=10_000), answer(read=10_000), answer(read=10_000)])
    for question in ("a", "b", "c"):
        for _ in range(2):  # the second is a hit, which no provider is paid for
            cache.get_or_call(question, lambda messages, **params: next(answers), model="m")
    provider = cache.stats().provider
    assert (provider.calls, provider.cached_calls, provider.read_tokens, provider.write_tokens) == (
        3,
        2,
        20_000,
        10_000,
    )
    assert provider.read_usd == pytest.approx(20_000 * 2.70 / 1e6)
    assert provider.premium_usd == pytest.approx(10_000 * 0.75 / 1e6)
    assert provider.saved_usd == pytest.approx((54_000 - 7_500) / 1e6)
    assert provider.share == pytest.approx(20_000 / 30_300)


def test_writes_never_read_are_a_loss():
    cache = LLMCache(prices=PRICES)
    cache.get_or_call(
        "a", lambda messages, **params: answer(write=10_000, write_1h=10_000), model="m"
    )
    assert cache.stats().provider.saved_usd == pytest.approx(-10_000 * 3.0 / 1e6)
    assert "-$0.0300" in str(cache.stats())


def test_an_answer_that_is_not_stored_was_paid_for_all_the_same():
    cache = LLMCache(prices=PRICES)
    cut = answer(read=5_000) | {"stop_reason": "max_tokens"}
    cache.get_or_call("a", lambda messages, **params: cut, model="m")
    assert cache.stats().stored == 0
    assert cache.stats().provider.read_tokens == 5_000


def test_a_put_is_no_call():
    cache = LLMCache(prices=PRICES)
    cache.put("a", answer(read=5_000), model="m")
    assert cache.stats().provider == ProviderCacheStats()


async def test_async_calls_and_streams_count_too():
    cache = LLMCache(prices=PRICES)

    async def create(messages, **params):
        return answer(read=5_000)

    def stream(messages, **params):
        yield {"type": "message_start", "message": answer(read=7_000)}
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 9},
        }
        yield {"type": "message_stop"}

    await cache.aget_or_call("a", create, model="m")
    list(cache.get_or_call("b", stream, model="m", stream=True))
    assert cache.stats().provider.read_tokens == 12_000


def test_cached_calls_of_unknown_price_are_counted_as_that():
    cache = LLMCache(prices={})
    cache.get_or_call("a", lambda messages, **params: answer(read=5_000), model="m")
    provider = cache.stats().provider
    assert (provider.saved_usd, provider.unpriced_calls) == (0.0, 1)


# -- Two who tell of one call


def test_a_call_seen_by_cache_and_tracker_counts_once():
    for first in (True, False):
        ledger = Ledger(Clock(), None)
        ledger.watch()
        for number in range(3):
            for observed in (first, not first):
                ledger.paid(seen(Usage(10, 1, 5), identity=f"msg_{number}"), observed=observed)
        assert ledger.snapshot(0).provider.calls == 3


def test_a_server_that_gives_every_answer_the_same_id_loses_no_calls():
    ledger = Ledger(Clock(), None)
    ledger.watch()
    for _ in range(4):
        ledger.paid(seen(Usage(10, 1, 5), identity="same"))
    assert ledger.snapshot(0).provider.calls == 4


def test_ids_are_not_remembered_without_end():
    ledger = Ledger(Clock(), None)
    ledger.watch()
    for number in range(5_000):
        ledger.paid(seen(Usage(10, 1), identity=str(number)), observed=True)
    unmatched = ledger._provider._unmatched
    assert unmatched is not None
    assert len(unmatched) == 1024


@pytest.mark.parametrize(
    ("response", "identity"),
    [
        ({"id": "msg_1", "usage": {}}, "msg_1"),
        (
            [{"type": "message_start", "message": {"id": "msg_2"}}, {"type": "message_stop"}],
            "msg_2",
        ),
        ({"type": "response.completed", "response": {"id": "resp_3"}}, "resp_3"),
        ({"id": "lc_run--1", "response_metadata": {"id": "msg_4"}}, "msg_4"),
        ({"id": "lc_run--1"}, None),
        ("text", None),
        (None, None),
        ({"id": 7}, None),
    ],
)
def test_the_id_of_an_answer_is_the_providers_own(response, identity):
    assert read_id(response) == identity


# -- Seconds


def test_seconds_saved_are_estimated_from_the_models_pace():
    seed = 20261123
    draw = random.Random(seed)
    ledger = Ledger(Clock(), None)
    for _ in range(200):
        fresh, read, output = (
            draw.randrange(100, 5_000),
            draw.choice([0, 4_000]),
            draw.randrange(1, 300),
        )
        seconds = 0.4 + fresh * 0.001 + output * 0.02 + draw.gauss(0, 0.05)
        ledger.paid(seen(Usage(fresh + read, output, read), seconds))
    provider = ledger.snapshot(0).provider
    assert provider.seconds_saved == pytest.approx(provider.read_tokens * 0.001, rel=0.05), seed


def test_noise_is_not_sold_as_seconds_saved():
    seed = 7
    draw = random.Random(seed)
    ledger = Ledger(Clock(), None)
    for _ in range(100):
        ledger.paid(
            seen(
                Usage(draw.randrange(5_000, 9_000), draw.randrange(1, 300), 4_000),
                draw.expovariate(1),
            )
        )
    assert ledger.snapshot(0).provider.seconds_saved == 0.0, seed


@pytest.mark.parametrize(
    "calls",
    [[], [(100, 10, 1.0)] * 5, [(100, 10, 1.0)] * 50, [(n, n, float(n)) for n in range(1, 40)]],
)
def test_calls_that_cannot_tell_the_pace_claim_no_seconds(calls):
    ledger = Ledger(Clock(), None)
    for fresh, output, seconds in calls:
        ledger.paid(seen(Usage(fresh + 4_000, output, 4_000), seconds))
    assert ledger.snapshot(0).provider.seconds_saved == 0.0


def test_a_coalesced_call_saves_the_time_it_did_not_wait(clock):
    cache = LLMCache(clock=clock, prices=PRICES)
    begun, joined, go_on = threading.Event(), threading.Event(), threading.Event()

    def create(messages, **params):
        begun.set()
        assert joined.wait(60)
        clock.advance(3.0)  # of which the other waits all, after it began 2 s later
        go_on.set()
        return answer()

    leader = threading.Thread(target=lambda: cache.get_or_call("a", create, model="m"))
    leader.start()
    assert begun.wait(60)
    clock.advance(2.0)
    follower = threading.Thread(target=lambda: cache.get_or_call("a", create, model="m"))
    follower.start()
    deadline = monotonic() + 60
    while not any(flight.waiters for flight in cache.engine.flights._table._listed.values()):
        assert monotonic() < deadline, "the second caller never joined"
    joined.set()
    leader.join(60)
    follower.join(60)
    hits, coalesced, _ = cache.stats().savings()
    assert (hits.seconds, coalesced.seconds) == (0.0, 2.0)
    assert (coalesced.calls, coalesced.tokens) == (1, 110)
    assert coalesced.usd == pytest.approx((100 * 3 + 10 * 15) / 1e6)


# -- The picture


def test_the_three_ways_of_saving_stand_side_by_side():
    cache = LLMCache(prices=PRICES)
    cache.get_or_call("a", lambda messages, **params: answer(read=10_000), model="m")
    cache.get_or_call("a", lambda messages, **params: answer(), model="m")
    stats = cache.stats()
    assert [saving.source for saving in stats.savings()] == [
        "hits",
        "coalesced",
        "provider's cache",
    ]
    assert sum(saving.usd for saving in stats.savings()) == pytest.approx(
        stats.saved_usd + stats.provider.saved_usd
    )
    assert "provider's cache" in str(stats)
    assert "provider&#x27;s cache" in stats._repr_html_()
    plain = stats.as_dict()
    assert plain["provider"]["read_tokens"] == 10_000
    assert plain["provider_by_model"]["m"]["share"] == pytest.approx(10_000 / 10_100)
