"""Dollars, worked out by hand, by table, by function and by genai-prices."""

import logging
import math
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace

import pytest

from llm_cache_mem.accounting import pricing
from llm_cache_mem.accounting.pricing import Price, resolve
from llm_cache_mem.responses.usage import Usage

MILLION = Usage(1_000_000, 1_000_000)
CACHED = Usage(1_000_000, 1_000_000, 200_000, 100_000)
CACHED_HOUR = Usage(1_000_000, 1_000_000, 200_000, 100_000, 60_000)
SONNET = Price(3, 15, 0.30, 3.75, 6)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Each test finds genai-prices not yet looked for, and nothing priced."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    pricing._library.cache_clear()
    pricing._library_price.cache_clear()
    pricing._warned_failures.clear()


# A price


@pytest.mark.parametrize(
    ("price", "usage", "dollars"),
    [
        (SONNET, MILLION, 18.0),
        (SONNET, CACHED, 17.535),  # .7 * 3 + .2 * .30 + .1 * 3.75 + 15
        (SONNET, CACHED_HOUR, 17.67),  # .7 * 3 + .2 * .30 + .04 * 3.75 + .06 * 6 + 15
        (SONNET, Usage(1000, 20), 0.0033),
        (SONNET, Usage(0, 0), 0.0),
        (Price(3, 15), CACHED_HOUR, 18.0),  # cached tokens cost what others do
        (Price(3, 15, 0.30), CACHED_HOUR, 17.46),
        (Price(3, 15, cache_write=3.75), CACHED_HOUR, 18.075),  # an hour costs what five minutes do
        (Price(2.5, 10, 1.25), Usage(2_000_000, 0, 500_000), 4.375),
        (Price(0.02, 0), Usage(500_000, 0), 0.01),
    ],
)
def test_a_price_per_million_tokens(price: Price, usage: Usage, dollars: float) -> None:
    assert price.cost(usage) == pytest.approx(dollars)


# A table


@pytest.mark.parametrize(
    "given",
    [
        SONNET,
        (3, 15, 0.30, 3.75, 6),
        [3, 15, 0.30, 3.75, 6],
        {"input": 3, "output": 15, "cache_read": 0.30, "cache_write": 3.75, "cache_write_1h": 6},
        (Decimal(3), Decimal(15), Decimal("0.30"), Decimal("3.75"), Decimal(6)),
    ],
)
def test_a_table_takes_prices_in_every_form(given: object) -> None:
    assert resolve({"sonnet": given})("sonnet", CACHED_HOUR) == pytest.approx(17.67)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "model",
    [
        "gpt-4o",
        "GPT-4o",
        "gpt-4o-2024-08-06",
        "gpt-4o-20240806",
        "openai/gpt-4o",
        "openrouter/openai/gpt-4o-2024-08-06",
        "models/gpt-4o",
        "openai.gpt-4o-v1:0",
        "us.openai.gpt-4o-20240806-v1:0",
        "global.openai.gpt-4o-20240806-v1%3A0",
        "arn:aws:bedrock:us-east-1::foundation-model/openai.gpt-4o-v1:0",
        "publishers/openai/models/gpt-4o@2024",
    ],
)
def test_a_name_stands_for_its_prefixed_dated_and_regional_forms(model: str) -> None:
    assert resolve({"GPT-4o": (2.5, 10)})(model, MILLION) == 12.5


def test_the_exact_name_comes_first() -> None:
    price = resolve(
        {
            "gpt-4o": (2.5, 10),
            "gpt-4o-2024-05-13": (5, 15),
            "azure/gpt-4o": (1, 1),
            "llama3.2:1b": (0.1, 0.1),
        }
    )
    assert price("gpt-4o-2024-05-13", MILLION) == 20
    assert price("openai/gpt-4o-2024-05-13", MILLION) == 20
    assert price("azure/gpt-4o", MILLION) == 2
    assert price("llama3.2:1b", MILLION) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "model", ["gpt-4o-mini", "gpt-4", "claude-sonnet-4-6", "", "/", ":", "gpt-4o/", "x" * 10_000]
)
def test_a_model_that_is_not_in_the_table_has_no_price(model: str) -> None:
    assert resolve({"gpt-4o": (2.5, 10)})(model, MILLION) is None
    assert resolve({})(model, MILLION) is None


@pytest.mark.parametrize(
    ("prices", "error", "text"),
    [
        (3, TypeError, "prices must be a mapping of models to prices, a function or None, not int"),
        ("gpt-4o", TypeError, "not str"),
        ([("gpt-4o", 1, 2)], TypeError, "not list"),
        ({3: (1, 2)}, TypeError, "a model name must be a string, not int"),
        (
            {"m": 3},
            TypeError,
            r"prices\['m'\] must be a Price, \(input, output\) or a mapping of input, output",
        ),
        ({"m": (3,)}, TypeError, "must be a Price"),
        ({"m": (1, 2, 3, 4, 5, 6)}, TypeError, "must be a Price"),
        ({"m": {"input": 1}}, TypeError, "must be a Price"),
        ({"m": {"input": 1, "output": 2, "cached": 3}}, TypeError, "must be a Price"),
        ({"m": None}, TypeError, "must be a Price"),
        ({"m": ("1", "2")}, TypeError, "input must be dollars per million tokens, not str"),
        ({"m": (1, None)}, TypeError, "output must be dollars per million tokens, not NoneType"),
        ({"m": (True, 2)}, TypeError, "input must be dollars per million tokens, not bool"),
        ({"m": (1, -2)}, ValueError, "output must be dollars per million tokens, not -2"),
        (
            {"m": (1, 2, math.nan)},
            ValueError,
            "cache_read must be dollars per million tokens, not nan",
        ),
        ({"m": (math.inf, 2)}, ValueError, "input must be dollars per million tokens, not inf"),
    ],
)
def test_prices_that_are_none_are_refused_at_once(
    prices: object, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        resolve(prices)  # type: ignore[arg-type]


# A function


def test_a_function_is_asked_with_model_and_usage() -> None:
    asked = []

    def price(model: str, usage: Usage) -> float | None:
        asked.append((model, usage))
        return 0.25

    assert resolve(price)("m", CACHED) == 0.25
    assert asked == [("m", CACHED)]


def test_a_function_may_not_know() -> None:
    assert resolve(lambda model, usage: None)("m", MILLION) is None


def test_a_function_may_say_free_and_may_count_in_decimals() -> None:
    assert resolve(lambda model, usage: 0)("m", MILLION) == 0.0
    assert resolve(lambda model, usage: Decimal("0.125"))("m", MILLION) == 0.125  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    "given", [-1, math.nan, math.inf, "many", [1], object(), pytest.param(10**400, id="huge")]
)
def test_a_function_that_returns_no_dollars_leaves_the_call_unpriced(
    given: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert resolve(lambda model, usage: given)("m", MILLION) is None  # type: ignore[arg-type,return-value]
    assert len(caplog.records) == 1


def test_a_raising_function_is_logged_once_without_its_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def price(model: str, usage: Usage) -> float:
        raise KeyError("a secret")

    pricer = resolve(price)
    assert [pricer("m", MILLION) for _ in range(3)] == [None] * 3
    assert caplog.messages == [
        "prices: the function failed with KeyError for model 'm'; counted as unpriced"
    ]


def test_an_interrupt_is_not_swallowed() -> None:
    def price(model: str, usage: Usage) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve(price)("m", MILLION)


# genai-prices


@pytest.fixture
def library() -> None:
    pytest.importorskip("genai_prices")


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("model", "usage", "dollars"),
    [
        ("claude-sonnet-4-6", MILLION, 18.0),
        ("claude-sonnet-4-6", CACHED, 17.535),
        ("claude-sonnet-4-6", CACHED_HOUR, 17.67),
        ("anthropic/claude-sonnet-4.6", CACHED, 17.535),
        ("anthropic:claude-sonnet-4-6", CACHED, 17.535),
        ("openrouter/anthropic/claude-sonnet-4.6", MILLION, 18.0),
        ("global.anthropic.claude-sonnet-4-6-v1:0", MILLION, 18.0),
        ("us.anthropic.claude-sonnet-4-6-v1%3A0", MILLION, 19.8),  # one region costs a tenth more
        (
            "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-3-5-sonnet-20240620-v1:0",
            MILLION,
            18.0,
        ),
        ("claude-sonnet-4-6@20260217", MILLION, 18.0),
        ("gpt-4o", Usage(1_000_000, 1_000_000, 200_000), 12.25),  # .8 * 2.5 + .2 * 1.25 + 10
        ("gpt-4o-2024-08-06", MILLION, 12.5),
        ("gpt-4o-2099-01-01", MILLION, 12.5),
        ("openai/gpt-5", MILLION, 11.25),
        ("gpt-4o-mini", Usage(2_000, 500), 0.0006),
        ("text-embedding-3-small", Usage(1_000_000, 0), 0.02),
        ("gemini-2.5-flash", MILLION, 2.8),
        ("models/gemini-2.5-flash", MILLION, 2.8),
        ("publishers/google/models/gemini-2.5-flash", MILLION, 2.8),
        ("groq/llama-3.3-70b-versatile", MILLION, 1.38),
        ("bedrock/amazon.nova-micro-v1:0", MILLION, 0.175),
    ],
)
def test_the_package_prices(model: str, usage: Usage, dollars: float) -> None:
    assert resolve(None)(model, usage) == pytest.approx(dollars)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "model",
    [
        "no-such-model",
        "claude",
        "",
        "/",
        "openai/",
        "ft:gpt-4o-mini-2024-07-18:org::id",  # a fine-tuned model has its own price
        "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc",
    ],
)
def test_an_unknown_model_has_no_price(model: str, caplog: pytest.LogCaptureFixture) -> None:
    assert resolve(None)(model, MILLION) is None
    assert not caplog.records


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "model",
    [
        "llama3",
        "llama3.2:1b",
        "gpt-oss:20b",
        "gpt-oss-20b",
        "openai/gpt-oss-20b",
        "deepseek-r1",
        "deepseek-r1:1.5b",
        "deepseek-r1-distill-llama-70b",
        "gemma3:1b",
        "qwen3.6:latest",
        "ollama/llama3",
        "meta-llama/Llama-3.2-1B-Instruct",
        "deepseek-ai/DeepSeek-R1",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "/models/mistral-7b.gguf",
    ],
)
def test_a_self_hosted_model_has_no_price(
    model: str,
) -> None:
    assert resolve(None)(model, MILLION) is None


@pytest.mark.usefixtures("library")
def test_a_known_model_whose_price_is_not_known_is_not_free() -> None:
    assert resolve(None)("google/gemma-3", MILLION) is None


@pytest.mark.usefixtures("library")
def test_a_pricing_failure_leaves_the_call_unpriced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    impossible = Usage(10, 0, cache_read_tokens=20)
    assert resolve(None)("gpt-4o", impossible) is None
    assert resolve(None)("gpt-4o-mini", impossible) is None
    assert caplog.messages == [
        "genai-prices failed with ValueError for model 'gpt-4o'; counted as unpriced"
    ]


def test_a_changed_package_leaves_calls_unpriced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(
        sys.modules, "genai_prices", SimpleNamespace(calc_price=lambda: None, Usage=dict)
    )
    assert resolve(None)("gpt-4o", MILLION) is None
    assert resolve(None)("gpt-4o", CACHED) is None
    monkeypatch.setitem(sys.modules, "genai_prices", SimpleNamespace())
    pricing._library.cache_clear()
    assert resolve(None)("gpt-5", MILLION) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


def test_without_the_package_nothing_is_priced_or_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    pricer = resolve(None)
    assert pricer("gpt-4o", MILLION) is None
    assert pricing.loaded(pricer)
    assert not caplog.records


def test_a_package_that_does_not_import_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "genai_prices":
                raise ModuleNotFoundError("No module named 'pydantic'", name="pydantic")

    monkeypatch.delitem(sys.modules, "genai_prices", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert resolve(None)("gpt-4o", MILLION) is None
    assert resolve(None)("gpt-4o-mini", MILLION) is None
    assert caplog.messages == [
        "genai-prices does not import (pydantic is missing): nothing is priced"
    ]


@pytest.mark.usefixtures("library")
def test_the_package_is_imported_with_the_first_price() -> None:
    pricer = resolve(None)
    assert not pricing.loaded(pricer)
    pricing.load(pricer)
    assert pricing.loaded(pricer)
    code = (
        "import sys; from llm_cache_mem.accounting import pricing; p = pricing.resolve(None);"
        " pricing.resolve({'m': (1, 2)})\nassert 'genai_prices' not in sys.modules; assert not"
        " pricing.loaded(p); pricing.load(p); assert 'genai_prices' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_table_and_a_function_have_nothing_to_load() -> None:
    for pricer in (resolve({}), resolve(lambda model, usage: None)):
        assert pricing.loaded(pricer)
        pricing.load(pricer)
    assert pricing._library.cache_info().currsize == 0


@pytest.mark.usefixtures("library")
def test_the_memo_is_bounded() -> None:
    pricer = resolve(None)
    for tokens in range(1, 1200):
        pricer("no-such-model", Usage(tokens, 1))
    info = pricing._library_price.cache_info()
    assert info.currsize == info.maxsize == 1024


@pytest.mark.usefixtures("library")
def test_only_so_many_names_of_models_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "_MOST_MODELS", 3)
    monkeypatch.setattr(pricing, "_models", {"one", "two"})
    pricer = resolve(None)
    for number in range(100):
        pricer(f"no-such-model-{number}", MILLION)
    assert len(pricing._models) == 3
