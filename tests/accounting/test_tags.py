"""Tags: requests are counted by team or feature, and the sums are those of the ledger."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Clock

from llm_cache_mem import LLMCache, MemoryStore, Price, options
from llm_cache_mem.accounting.bounded import LONGEST_NAME, MOST_NAMES, OTHER
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.stores.jsonl.lines import from_line, to_line
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

PRICES = {"m": Price(input=10.0, output=20.0)}
MESSAGES = [{"role": "user", "content": "hello"}]


def answer(messages, model):
    return {
        "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50},
    }


def test_requests_are_counted_by_each_of_their_tags():
    cache = LLMCache(prices=PRICES)
    with options(tags={"team": "search"}):
        cache.get_or_call(MESSAGES, answer, model="m")
        with options(tags={"feature": "summaries"}):
            cache.get_or_call(MESSAGES, answer, model="m")
    cache.get_or_call(MESSAGES, answer, model="m")
    by_tag = cache.stats().by_tag
    assert set(by_tag) == {"team=search", "feature=summaries"}
    team = by_tag["team=search"]
    assert (team.hits, team.misses, team.calls, team.tokens_saved) == (1, 1, 1, 150)
    assert team.paid_usd == team.saved_usd == pytest.approx(0.002)
    assert by_tag["feature=summaries"].calls == 0
    assert "team=search" in str(cache.stats())
    assert cache.stats().as_dict()["by_tag"]["team=search"]["hits"] == 1


def test_inner_tags_replace_outer_ones_of_the_same_name():
    cache = LLMCache()
    with (
        options(tags={"team": "search", "env": "test"}),
        options(tags={"team": "ads"}),
        options(mode="on"),
    ):
        cache.get(MESSAGES)
    assert set(cache.stats().by_tag) == {"team=ads", "env=test"}


def test_tags_are_not_part_of_the_key():
    cache = LLMCache()
    with options(tags={"team": "search"}):
        tagged = cache.key(MESSAGES, model="m")
        cache.put(MESSAGES, "answer", model="m")
    assert tagged == cache.key(MESSAGES, model="m")
    assert cache.get(MESSAGES, model="m") == "answer"


def test_events_and_entries_carry_tags():
    told = []
    cache = LLMCache(on_event=told.append, namespace="eu/a")
    with options(tags={"team": "search"}):
        cache.get_or_call(MESSAGES, answer, model="m")
    cache.get_or_call(MESSAGES, answer, model="m")
    events = {event.name: event for event in told}
    assert events["miss"].tags == events["called"].tags == events["stored"].tags
    assert events["stored"].tags == {"team": "search"}
    assert events["hit"].tags == {}
    assert (events["hit"].namespace, events["hit"].layer) == ("eu/a", "core")
    assert events["hit"].age >= 0
    assert events["stored"].store_seconds >= 0
    ((_, entry),) = cache.engine.entries()
    assert entry.tags == ("team=search",)


def test_skipped_requests_count_for_their_tags():
    cache = LLMCache()
    with options(tags={"team": "search"}):
        cache.get_or_call([{"role": "user", "content": {1, 2}}], lambda **_: "x", model="m")
    assert cache.stats().by_tag["team=search"].skipped == 1


@pytest.mark.parametrize(
    "tags",
    [
        {"": "x"},
        {"a=b": "x"},
        {"a" * 65: "x"},
        {"a": "x" * 129},
        {"a": "two\nlines"},
        {str(number): "x" for number in range(17)},
    ],
)
def test_tags_are_bounded_in_size(tags):
    with pytest.raises(ValueError, match="tag"):
        options(tags=tags)


@pytest.mark.parametrize("tags", [["a"], "a", {"a": 1}, {1: "a"}, None])
def test_tags_must_be_text_by_name(tags):
    with pytest.raises(TypeError, match="tags"):
        options(tags=tags)


def entry(**changes):
    return Entry(Payload.of("answer"), 1.0, None, "m", (1, 2, 0, 0, 0), **changes)


def test_tags_survive_the_envelope_and_recordings():
    tagged = entry(tags=("env=", "team=sëarch"))
    assert Entry.unpack("k", tagged.pack("k")).tags == tagged.tags
    assert Entry.unpack("k", entry().pack("k")).tags == ()
    cache = LLMCache(keep_requests=True, backend=MemoryStore())
    with options(tags={"team": "search"}):
        cache.put(MESSAGES, "answer", model="m")
    ((key, stored),) = cache.engine.entries()
    _, read = from_line(to_line(key, stored, cache.engine.settings.redaction))
    assert read.tags == stored.tags == ("team=search",)


def test_an_envelope_whose_tags_are_cut_off_is_unreadable():
    tagged, plain = entry(tags=("a=b",)).to_bytes(), entry().to_bytes()
    for damaged in (tagged[:-3], plain + b"a=b"):
        with pytest.raises(EntryUnreadable):
            Entry.from_bytes(damaged)


def test_names_beyond_the_bound_are_summed_as_other():
    ledger = Ledger(Clock(), None)
    for number in range(3 * MOST_NAMES):
        ledger.hit("k", Entry(Payload.of("a"), 0.0, None, f"m{number}"), (f"t={number}",))
        ledger.skip(f"reason {number}")
    ledger.hit("k", Entry(Payload.of("a"), 0.0, None, "m" * (LONGEST_NAME + 1)))
    stats = ledger.snapshot(0)
    assert len(stats.by_model) == len(stats.by_tag) == len(stats.skipped) == MOST_NAMES + 1
    assert stats.by_model[OTHER].hits == 2 * MOST_NAMES + 1
    assert stats.by_tag[OTHER].hits == stats.skipped[OTHER] == 2 * MOST_NAMES
    assert sum(model.hits for model in stats.by_model.values()) == stats.hits


def check_sums(cache: LLMCache, truth: dict[str, list[int]]) -> None:
    """The sums over all teams are the totals, and each team's requests are those it made."""
    stats = cache.stats()
    teams = stats.by_tag.values()
    for name in ("hits", "misses", "coalesced", "tokens_saved"):
        assert sum(getattr(team, name) for team in teams) == getattr(stats, name), name
    assert sum(team.saved_usd for team in teams) == pytest.approx(stats.saved_usd)
    calls = stats.provider.calls
    assert sum(team.calls for team in teams) == calls
    assert sum(team.paid_usd for team in teams) == pytest.approx(0.002 * calls)
    for name, requests in truth.items():
        team = stats.by_tag[f"team={name}"]
        assert team.hits + team.misses == len(requests)
        assert team.calls == team.misses - team.coalesced


def test_sums_over_tags_are_the_totals_under_64_threads():
    cache, seed = LLMCache(prices=PRICES), random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    work = {f"t{team}": [rng.randrange(40) for _ in range(100)] for team in range(64)}

    def run(team: str) -> None:
        with options(tags={"team": team}):
            for number in work[team]:
                cache.get_or_call(f"question {number}", answer, model="m")

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(run, work))
    check_sums(cache, work)


async def test_sums_over_tags_are_the_totals_under_10_000_tasks():
    cache, seed = LLMCache(prices=PRICES), random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    work: dict[str, list[int]] = {f"t{team}": [] for team in range(10)}

    async def aanswer(messages, model):
        await asyncio.sleep(0)
        return answer(messages, model)

    async def run(team: str, number: int) -> None:
        with options(tags={"team": team}):
            await cache.aget_or_call(f"question {number}", aanswer, model="m")

    tasks = []
    for _ in range(10_000):
        team, number = rng.choice(list(work)), rng.randrange(500)
        work[team].append(number)
        tasks.append(run(team, number))
    await asyncio.gather(*tasks)
    check_sums(cache, work)
