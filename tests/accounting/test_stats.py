"""The ledger's counters, and how a snapshot of them reads."""

import json

import pytest
from conftest import Clock

from llm_cache_mem import LLMCache, options
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.accounting.render import dollars, saved
from llm_cache_mem.accounting.stats import CacheStats, Event
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload


def entry(model="m", usage=(100, 20, 0, 0, 0), cost=0.25, seconds=2.0):
    return Entry(Payload.of("answer"), 0.0, None, model, usage, cost, seconds)


def test_a_hit_saves_the_seconds_of_the_stored_call():
    ledger = Ledger(Clock(), None)
    ledger.hit("k", entry())
    ledger.hit("k", entry())
    ledger.miss("k", "m")
    stats = ledger.snapshot(size=1)
    assert (stats.hits, stats.misses, stats.size, stats.hit_rate) == (2, 1, 1, 2 / 3)
    assert (stats.tokens_saved, stats.seconds_saved, stats.saved_usd) == (240, 4.0, 0.5)
    assert stats.by_model["m"].input_tokens_saved == 200


def test_a_hit_of_unknown_price_is_not_counted_as_free():
    ledger = Ledger(Clock(), None)
    ledger.hit("k", entry(cost=None))
    stats = ledger.snapshot(0)
    assert (stats.saved_usd, stats.unpriced_hits) == (0.0, 1)


def test_a_coalesced_call_saves_like_a_hit_and_is_counted_apart():
    ledger = Ledger(Clock(), None)
    ledger.coalesced_with("k", entry(), "m", 0.0)
    ledger.coalesced_with("k", None, "m", 0.0)
    model = ledger.snapshot(0).by_model["m"]
    assert (model.hits, model.coalesced, model.saved_usd, model.unpriced_hits) == (0, 2, 0.25, 1)


def test_the_first_skip_for_a_reason_is_told_apart():
    ledger = Ledger(Clock(), None)
    assert ledger.skip("truncated") is True
    assert ledger.skip("truncated") is False
    assert ledger.skip("empty") is True
    assert ledger.snapshot(0).skipped == {"truncated": 2, "empty": 1}


def test_no_lookups_make_a_hit_rate_of_zero():
    assert Ledger(Clock(), None).snapshot(0).hit_rate == 0.0


def test_a_listeners_fault_does_not_reach_the_caller(caplog):
    told: list[Event] = []

    def listener(event: Event) -> None:
        told.append(event)
        raise ZeroDivisionError

    ledger = Ledger(Clock(7.0), listener)
    ledger.hit("k", entry())
    ledger.miss("k", "m")
    ledger.put("k", entry(), evicted=2, expired=1)
    ledger.skip("empty", "k", "m")
    ledger.coalesced_with("k", None, "m", 0.0)
    ledger.expired("k")
    ledger.error("get")
    names = [event.name for event in told]
    assert names == [
        "hit",
        "miss",
        "stored",
        "evicted",
        "expired",
        "skipped",
        "coalesced",
        "expired",
        "error",
    ]
    facts = {"usage": (100, 20, 0, 0, 0), "age": 7.0, "namespace": "", "layer": "core"}
    assert told[0] == Event("hit", 7.0, "k", "m", 2.0, 120, 0.25, **facts)
    assert "on_event raised" in caplog.text


def full_stats() -> CacheStats:
    ledger = Ledger(Clock(), None)
    ledger.hit("k", entry("<b>model</b>"))
    ledger.miss("k", "m")
    ledger.skip("truncated")
    return ledger.snapshot(3)


def test_stats_read_as_aligned_text_in_a_terminal():
    text = str(full_stats())
    assert text.startswith("1 of 2 calls avoided (50%)\n\nhit rate")
    assert "hit rate       50%" in text
    assert "truncated 1" in text
    assert "$0.2500" in text
    assert "coalesced" not in text  # it is zero
    lines = text.split("\n\n")[2].splitlines()
    assert len({len(line) for line in lines}) == 1


def test_coalesced_calls_count_as_avoided():
    ledger = Ledger(Clock(), None)
    ledger.miss("k", "m")
    for _ in range(19):
        ledger.miss("k", "m")
        ledger.coalesced_with("k", entry(), "m", 0.0)
    stats = ledger.snapshot(1)
    assert stats.avoided == 19
    assert str(stats).startswith("19 of 20 calls avoided (95%)")


def test_an_unknown_price_is_a_dash_and_a_known_part_says_how_many_are_missing():
    assert saved(0.0, unpriced=2, calls=2) == "—"
    assert saved(0.25, unpriced=1, calls=2) == "$0.2500 (+ 1 unpriced)"
    assert saved(0.0, unpriced=0, calls=2) == "$0.00"


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "$0.00"),
        (12345.678, "$12,345.68"),
        (0.25, "$0.2500"),
        (-0.03, "-$0.0300"),
        (0.0000084, "$0.000008"),
    ],
)
def test_dollars_have_more_digits_the_fewer_they_are(amount: float, shown: str):
    assert dollars(amount) == shown


def test_stats_are_a_table_in_a_notebook_with_names_escaped():
    html = full_stats()._repr_html_()
    assert html.count("<table>") == 2
    assert "&lt;b&gt;model" in html
    assert "<b>model" not in html


def test_stats_are_plain_json_for_machines():
    plain = json.loads(json.dumps(full_stats().as_dict()))
    assert plain["hits"] == 1
    assert plain["hit_rate"] == 0.5
    assert plain["by_model"]["<b>model</b>"]["tokens_saved"] == 120


def unread(read: list[object]) -> Entry:
    """An entry whose account is read when it is wanted; *read* grows each time."""

    def account(payload, asked):
        read.append(payload)
        return asked, (100, 20, 0, 0, 0), 0.25

    return Entry(Payload.of("answer"), 0.0, None, "m", seconds=2.0, account=account)


def test_hit_accounting_is_read_on_demand():
    ledger, read = Ledger(Clock(), None), []
    ledger.hit("k", first := unread(read), ("team=a",))
    ledger.hit("k", first)
    ledger.hit("other", unread(read))
    assert not read
    for _ in range(2):
        stats = ledger.snapshot(0)
        assert (stats.hits, stats.tokens_saved, stats.saved_usd) == (3, 360, 0.75)
        assert stats.by_tag["team=a"].saved_usd == 0.25
        assert len(read) == 2


def test_unread_accounting_is_bounded():
    ledger, read = Ledger(Clock(), None), []
    for _ in range(5_000):
        ledger.hit("k", unread(read))
    assert 0 < len(ledger._backlog) < 1024
    assert len(read) + len(ledger._backlog) == 5_000


def test_an_interrupt_amid_accounts_loses_no_hit():
    ledger, interrupts = Ledger(Clock(), None), [KeyboardInterrupt()]

    def account(payload, asked):
        if interrupts:
            raise interrupts.pop()
        return "m", (100, 20), 0.25

    entry = Entry(Payload.of("answer"), 0.0, None, "m", account=account)
    ledger.hit("k", entry, ("team=a",))
    with pytest.raises(KeyboardInterrupt):
        ledger.snapshot(0)
    stats = ledger.snapshot(0)
    assert stats.by_model["m"].hits == stats.by_tag["team=a"].hits == 1


def test_a_price_function_may_ask_for_the_stats():
    ledger, asked = Ledger(Clock(), None), []

    def account(payload, model):
        if not asked:
            asked.append(model)
            ledger.snapshot(0)
        return "m", (100, 20), 0.25

    ledger.hit("k", Entry(Payload.of("answer"), 0.0, None, "m", account=account))
    assert ledger.snapshot(0).by_model["m"].hits == 1


def test_a_listener_is_told_the_account_of_a_hit_at_once():
    told: list[Event] = []
    ledger = Ledger(Clock(), told.append)
    ledger.hit("k", unread([]))
    assert (told[0].tokens, told[0].usd) == (120, 0.25)
    assert ledger.snapshot(0).saved_usd == 0.25


def test_the_account_is_of_the_answer_as_it_was_put():
    answer = {"model": "gpt-x", "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    cache = LLMCache(prices={"gpt-x": (1e6, 1e6)})
    cache.put("q", answer)
    answer["usage"]["prompt_tokens"] = 10**6
    cache.get("q")["usage"]["prompt_tokens"] = 10**6
    assert cache.stats().by_model["gpt-x"].saved_usd == 10.0


def test_entries_of_a_namespace_are_not_shown_as_those_of_the_store(tmp_path):
    cache = LLMCache(backend=str(tmp_path / "cache.db"), namespace="team")
    cache.put("q", "a")
    assert "entries  1\n" in f"{cache.stats()}\n"
    with options(namespace="other"):
        cache.put("q", "a")
    stats = cache.stats()
    assert (stats.size, stats.total_size) == (1, 2)
    assert "1 in this namespace, 2 in all" in str(stats)
