"""advise: what pays, by a formula that agrees with calls drawn one by one."""

import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_cache_mem.prompt_cache import advise
from llm_cache_mem.prompt_cache.advise import cost
from llm_cache_mem.prompt_cache.rules import provider_of

CLAUDE = "claude-sonnet-5"
PRICES = {
    CLAUDE: (3.0, 15.0, 0.30, 3.75, 6.0),
    "gpt-4o": (2.5, 10.0, 1.25),
    "gpt-5.6": (2.0, 8.0, 0.2, 2.5),
}


def simulated(draw, rate, hours, read, write, lifetime, renewals=None):
    """One draw of the calls of *hours*, each paid by what the provider would find there."""
    now, last, spent = 0.0, -1e9, 0.0
    renewed = int(hours // renewals) if renewals else 0
    if renewals:
        spent += write + renewed * read
    while True:
        now += draw.expovariate(rate)
        if now > hours:
            return spent
        spent += read if renewals or now - last < lifetime else write
        last = now


@pytest.mark.parametrize("rate", [0.2, 0.9, 3.0, 12.0, 60.0])
@pytest.mark.parametrize(
    ("write", "lifetime", "renewals"),
    [(1.25, 1 / 12, None), (2.0, 1.0, None), (1.25, 1 / 12, 0.8 / 12), (2.0, 1.0, 0.8)],
)
def test_the_formula_is_what_drawing_calls_comes_to(rate, write, lifetime, renewals):
    seed = 11
    draw = random.Random(seed)
    costs = [simulated(draw, rate, 8.0, 0.1, write, lifetime, renewals) for _ in range(4000)]
    expected = cost(rate, 8.0, 0.1, write, lifetime, renewals=renewals)
    assert mean(costs) == pytest.approx(expected, rel=0.05), seed


@pytest.mark.parametrize(
    ("rate", "best"),
    [
        (0.05, "nothing"),
        (0.9, "1h, keep-alive"),
        (3.5, "1h, keep-alive"),
        (5.0, "1h"),
        (60, "1h"),
        (100, "5m"),
        (600, "5m"),
    ],
)
def test_caching_pays_for_claude(rate, best):
    assert advise(rate, 10_000, model=CLAUDE, prices=PRICES).best.name == best


@given(st.floats(0.01, 500), st.floats(0.5, 48))
def test_the_best_is_the_cheapest_and_nothing_costs_one_a_call(rate, hours):
    advice = advise(rate, 5_000, model=CLAUDE, prices=PRICES, hours=hours)
    assert advice.best.cost == min(option.cost for option in advice.options)
    assert advice.options[0].cost == pytest.approx(rate * hours)


@pytest.mark.parametrize("name", ["5m", "1h", "5m, keep-alive", "1h, keep-alive"])
@pytest.mark.parametrize("hours", [0.05, 1, 8, 100_000])
def test_a_way_pays_from_its_break_even_on(name, hours):
    def asked(rate):
        return {
            option.name: option
            for option in advise(rate, 5_000, model=CLAUDE, prices=PRICES, hours=hours).options
        }

    def spent(rate):
        return asked(rate)[name].cost - asked(rate)["nothing"].cost

    start = asked(1)[name].break_even
    assert start is not None
    assert spent(start * 1.02) < 0 < spent(start * 0.98)


def test_the_break_evens_of_the_documented_prices():
    options = {
        option.name: option.break_even
        for option in advise(1, 5_000, model=CLAUDE, prices=PRICES, hours=100_000).options
    }
    assert options["5m"] == pytest.approx(2.94, abs=0.01)  # calls an hour
    assert options["1h"] == pytest.approx(0.747, abs=0.001)
    assert options["5m, keep-alive"] == pytest.approx(1.667, abs=0.001)


def test_a_prefix_too_short_to_cache_is_reported():
    advice = advise(1000, 1_000, model="claude-haiku-4-5", prices={})
    assert advice.best.name == "nothing"
    assert "from 4,096 tokens on" in advice.reason


def test_dollars_are_those_of_the_price_list_and_unknown_without():
    option = advise(10, 10_000, model=CLAUDE, prices=PRICES, hours=1).options[0]
    assert option.usd == pytest.approx(10 * 10_000 * 3.0 / 1e6)
    unpriced = advise(10, 10_000, model=CLAUDE, prices={})
    assert {option.usd for option in unpriced.options} == {None}
    assert unpriced.best.name == advise(10, 10_000, model=CLAUDE, prices=PRICES).best.name


def test_where_writing_is_free_caching_always_pays():
    advice = advise(0.1, 5_000, model="gpt-4o", prices=PRICES)
    assert advice.best.name != "nothing"
    assert advice.options[1].break_even == 0.0


def test_it_reads_as_a_table():
    text = str(advise(10, 10_000, model=CLAUDE, prices=PRICES))
    assert "pays from 2.96 calls/hour on" in text
    assert text.count(">") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"calls_per_hour": -1},
        {"prefix_tokens": 0},
        {"hours": 0},
        {"margin": 1},
        *({name: float(bad)} for name in ("calls_per_hour", "hours") for bad in ("nan", "inf")),
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        advise(**{"calls_per_hour": 1, "prefix_tokens": 5_000, "model": CLAUDE, **wrong})


def test_a_non_number_is_rejected_by_name():
    with pytest.raises(TypeError, match="calls_per_hour must be a number, not str"):
        advise("5", 5_000, model=CLAUDE)


def test_a_model_that_does_not_tell_its_provider_needs_one():
    with pytest.raises(ValueError, match="provider of 'nope' is unknown"):
        advise(10, 5_000, model="nope")
    assert [
        option.ttl
        for option in advise(10, 5_000, model="nope", provider="anthropic", prices={}).options
    ] == [option.ttl for option in advise(10, 5_000, model=CLAUDE, prices={}).options]


@pytest.mark.parametrize(
    "model",
    ["gpt-4o", "openai/gpt-5.6", "o3-mini", "chatgpt-4o-latest", "ft:gpt-4o:org", "azure/o1"],
)
def test_models_of_openai_are_known_by_their_names(model):
    assert provider_of(model) == "openai"
