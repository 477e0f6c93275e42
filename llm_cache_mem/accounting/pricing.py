"""Prices: the cost of an answer in dollars, by the user's table or function or by genai-prices.

An unknown price is None, never 0: unknown savings must not look like none. Prices are those of the
standard tier; batches give their rate, priority and other tiers are unknown here.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias, cast

from llm_cache_mem._util.fork import finished_before_fork
from llm_cache_mem._util.in_thread import NoThread, run_in_thread
from llm_cache_mem.accounting.bounded import LONGEST_NAME
from llm_cache_mem.responses.usage import Usage

__all__ = [
    "Bill",
    "Price",
    "PriceTable",
    "Pricer",
    "Prices",
    "aload",
    "bill",
    "can_wait",
    "load",
    "loaded",
    "resolve",
]

_log = logging.getLogger(__name__)

_INFINITE: Final = float("inf")


class Price(NamedTuple):
    """Dollars per million tokens. For a cache price that is None, another applies as stated."""

    input: float
    output: float
    cache_read: float | None = None
    """Tokens read from the provider's prompt cache; None: at the price of input."""
    cache_write: float | None = None
    """Tokens written to it; None: at the price of input."""
    cache_write_1h: float | None = None
    """Tokens written for an hour; None: at the price of cache_write."""

    def cost(self, usage: Usage) -> float:
        """Dollars for *usage*."""
        read = self.input if self.cache_read is None else self.cache_read
        write = self.input if self.cache_write is None else self.cache_write
        hour = write if self.cache_write_1h is None else self.cache_write_1h
        fresh = max(0, usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens)
        dollars = (
            fresh * self.input + usage.output_tokens * self.output + usage.cache_read_tokens * read
        )
        dollars += (
            usage.cache_write_tokens - usage.cache_write_1h_tokens
        ) * write + usage.cache_write_1h_tokens * hour
        return dollars / 1_000_000


class Bill(NamedTuple):
    """The cost of one call in dollars; None if the price is unknown."""

    usd: float | None = None
    read_usd: float | None = None
    """How much less it was because part of the input was read from the provider's prompt cache."""
    premium_usd: float | None = None
    """How much more it was because part of the input was written there."""

    def at(self, rate: float) -> "Bill":
        """The same at *rate* of the price."""
        return Bill(*(None if usd is None else usd * rate for usd in self))


def bill(price: "Pricer", names: Iterable[str | None], usage: Usage) -> Bill:
    """The cost of *usage* by the first of the model *names* that has a price, and the effect of the
    provider's prompt cache on it."""
    for name in filter(None, names):
        usd = price(name, usage)
        if usd is None:
            continue
        if not usage.cache_read_tokens and not usage.cache_write_tokens:
            return Bill(usd, 0.0, 0.0)
        unwritten = (
            price(name, usage._replace(cache_write_tokens=0, cache_write_1h_tokens=0))
            if usage.cache_write_tokens
            else usd
        )
        unread = (
            price(name, Usage(usage.input_tokens, usage.output_tokens))
            if usage.cache_read_tokens
            else unwritten
        )
        if unwritten is None or unread is None:
            return Bill(usd)
        return Bill(usd, unread - unwritten, usd - unwritten)
    return Bill()


Pricer: TypeAlias = Callable[[str, Usage], float | None]
"""The cost of *usage* by *model* in dollars, or None without a price."""

PriceTable: TypeAlias = Mapping[str, "Price | tuple[float, ...] | Mapping[str, float | None]"]
Prices: TypeAlias = PriceTable | Pricer | None


def resolve(prices: Prices) -> Pricer:
    """A pricer that never raises, from what ``LLMCache(prices=)`` takes.

    None: the genai-prices package if it is installed (extra ``prices``), imported when the first
    price is needed. A mapping from model names to a ``Price``, to its fields in order or by name:
    those models and no others; a name also stands for its dated, prefixed and regional forms
    (``gpt-4o`` for ``openai/gpt-4o-2024-08-06``). A function ``(model, usage) -> dollars or None``:
    if it raises or returns no such number, the call counts as unpriced, and the first time is
    logged. Raises ValueError or TypeError for anything else.
    """
    if prices is None:
        return _library_price
    if isinstance(prices, Mapping):
        return _Table(prices)
    if callable(prices):
        return _Function(prices)
    raise TypeError(
        "prices must be a mapping of models to prices, a function or None, not"
        f" {type(prices).__name__}"
    )


def loaded(pricer: Pricer) -> bool:
    """Whether *pricer* answers without a slow import first."""
    return pricer is not _library_price or _library.cache_info().currsize > 0


def can_wait(pricer: Pricer) -> bool:
    """Whether *pricer* says the same later, and at once: no function of the user, no import."""
    return not isinstance(pricer, _Function) and loaded(pricer)


def load(pricer: Pricer) -> None:
    """Do the slow import of *pricer* now, if it has one; it can take a second."""
    if pricer is _library_price:
        _library()


async def aload(pricer: Pricer) -> None:
    """As ``load``, in a thread if there is something to do, and a thread for it."""
    if not loaded(pricer):
        with suppress(NoThread):
            await run_in_thread(lambda: load(pricer))


class _Table:
    """Prices by model name."""

    def __init__(self, prices: PriceTable) -> None:
        self._prices: dict[str, Price] = {}
        for model, price in prices.items():
            if not isinstance(model, str):
                raise TypeError(
                    f"prices: a model name must be a string, not {type(model).__name__}"
                )
            self._prices[model.lower()] = _price(model, price)

    def __call__(self, model: str, usage: Usage) -> float | None:
        price = next(
            (self._prices[name] for name in _spellings(model.lower()) if name in self._prices), None
        )
        return None if price is None else price.cost(usage)


def _price(model: str, given: Any) -> Price:
    """*given* as a Price. Raises TypeError or ValueError, naming *model*."""
    try:
        price = Price(**given) if isinstance(given, Mapping) else Price(*given)
    except TypeError:
        raise TypeError(
            f"prices[{model!r}] must be a Price, (input, output) or a mapping of"
            f" {', '.join(Price._fields)}"
        ) from None
    return Price(
        *(
            _dollars(model, name, dollars)
            for name, dollars in zip(Price._fields, price, strict=True)
        )
    )


def _dollars(model: str, name: str, given: Any) -> Any:
    """*given* as a float, or None where the field *name* may be None."""
    if given is None and name in Price._field_defaults:
        return None
    if isinstance(given, bool) or not hasattr(given, "__float__"):
        raise TypeError(
            f"prices[{model!r}]: {name} must be dollars per million tokens, not"
            f" {type(given).__name__}"
        )
    dollars = float(cast("float", given))  # by its __float__: a Decimal is welcome, a string is not
    if not 0 <= dollars < _INFINITE:
        raise ValueError(
            f"prices[{model!r}]: {name} must be dollars per million tokens, not {given!r}"
        )
    return dollars


class _Function:
    """A function of the user, whose failures must not break a call."""

    def __init__(self, function: Pricer) -> None:
        self._function = function
        self._warned = False

    def __call__(self, model: str, usage: Usage) -> float | None:
        try:
            dollars = self._function(model, usage)
            if dollars is None:
                return None
            dollars = float(dollars)
            if not 0 <= dollars < _INFINITE:
                raise ValueError("no amount of dollars")
        except Exception as exc:  # noqa: BLE001  # the call it prices is paid for and goes on
            if not self._warned:
                self._warned = True
                _log.warning(
                    "prices: the function failed with %s for model %r; counted as unpriced",
                    type(exc).__name__,
                    model,
                )
            return None
        return dollars


# Names of models; patterns are compiled when first used, not by everyone who imports the library

_PROVIDERS: Final = {
    "anthropic": "anthropic", "azure": "azure", "azure_ai": "azure", "azure_openai": "azure",
    "bedrock": "aws", "bedrock_converse": "aws",
    "cerebras": "cerebras", "cohere": "cohere", "deepseek": "deepseek", "fireworks": "fireworks",
    "fireworks_ai": "fireworks",
    "gemini": "google", "google": "google", "google-gla": "google", "google-vertex": "google",
    "google_genai": "google",
    "google_vertexai": "google", "groq": "groq", "mistral": "mistral", "mistralai": "mistral",
    "openai": "openai",
    "openai-responses": "openai", "openrouter": "openrouter", "perplexity": "perplexity",
    "together": "together",
    "together_ai": "together", "vertex_ai": "google", "voyage": "voyageai", "x-ai": "x-ai", "xai":
    "x-ai",
}  # fmt: skip
_ROUTE: Final = r"([a-z_-]+)[/:](.+)"
_RESOURCE: Final = r"^(?:projects/.+/)?(?:publishers/[^/]+/)?models/"  # Gemini and Vertex
_BEDROCK: Final = (
    r"^(?:(?:us|us-gov|eu|apac|au|ca|jp|sa|global)\.)?"
    r"(?:ai21|amazon|anthropic|cohere|deepseek|meta|mistral|openai|qwen|writer)\."
)
_BEDROCK_VERSION: Final = r"(?:-v\d+)?(?::\d+\w*)?$"
_DATE: Final = r"(?:@[\w.-]+|-\d{8}|-\d{4}-\d{2}-\d{2})$"
_OPEN_WEIGHTS: Final = r"deepseek-r1|gemma|gpt-oss|llama|phi|qwen"
_EMBEDDINGS: Final = r"text-embedding-(?:3|ada)-"


def _plain(model: str) -> str:
    """*model* in lower case without what a URL or a resource path puts around it."""
    return re.sub(_RESOURCE, "", model.strip().lower().replace("%3a", ":"))


def _spellings(model: str) -> Iterator[str]:
    """*model* in ever plainer forms: without path, without Bedrock's region and maker and version,
    without date."""
    yield model
    name = _plain(model)
    yield name
    name = name.rpartition("/")[2]
    yield name
    if match := re.match(_BEDROCK, name):
        yield (name := name[match.end() :])
        yield (name := re.sub(_BEDROCK_VERSION, "", name))
    yield re.sub(_DATE, "", name)


def _routes(model: str) -> Iterator[tuple[str | None, str]]:
    """Where genai-prices may know *model*, best first, as (provider, name).

    The name alone must tell who served it. A tag (``llama3.2:1b``), a hub name (``meta-llama/…``)
    or a bare name of open weights may be anybody's machine, so it has no price unless a known
    provider stands in front.
    """
    name = _plain(model)
    if name.startswith("arn:") or re.match(_BEDROCK, name):
        yield "aws", name
    elif (match := re.fullmatch(_ROUTE, name)) and match[1] in _PROVIDERS:
        provider, rest = _PROVIDERS[match[1]], match[2]
        if re.match(_OPEN_WEIGHTS, rest) and provider in {
            "openai",
            "deepseek",
        }:  # a maker's name in front, as hubs write it
            return
        yield provider, rest
        yield provider, re.sub(_DATE, "", rest)
        yield "openrouter", name
    elif "/" not in name and ":" not in name and not re.match(_OPEN_WEIGHTS, name):
        provider_or_any = "openai" if re.match(_EMBEDDINGS, name) else None
        yield provider_or_any, name
        yield provider_or_any, re.sub(_DATE, "", name)


# genai-prices, and nothing else of this library knows of it

_warned_failures: Final[set[str]] = set()


class _Library(NamedTuple):
    calc_price: Callable[..., Any]
    usage: Callable[..., Any]


@lru_cache(maxsize=1)
def _library() -> _Library | None:
    """The package, or None where it is not installed or does not import."""
    try:
        with finished_before_fork():
            import genai_prices

            library = _Library(genai_prices.calc_price, genai_prices.Usage)
            with suppress(Exception):  # the first price imports the rest
                library.calc_price(library.usage(input_tokens=1), "gpt-4o", provider_id="openai")
        return library
    except ModuleNotFoundError as exc:
        if exc.name == "genai_prices":
            return None
        _log.warning("genai-prices does not import (%s is missing): nothing is priced", exc.name)
    except Exception as exc:  # noqa: BLE001  # a broken extra must not break a call
        _log.warning("genai-prices does not import (%s): nothing is priced", type(exc).__name__)
    return None


_MOST_MODELS: Final = 10_000
"""How many names of models are looked up: the package remembers each of them for ever."""
_models: Final[set[str]] = set()


def _is_within_bounds(model: str) -> bool:
    if model in _models:
        return True
    if len(_models) >= _MOST_MODELS or len(model) > LONGEST_NAME:
        return False
    _models.add(model)
    return True


@lru_cache(maxsize=1024)
def _library_price(model: str, usage: Usage) -> float | None:
    library = _library()
    if library is None or not _is_within_bounds(model):
        return None
    try:
        counts = library.usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
        )
        for provider, name in _routes(model):
            try:
                dollars = float(library.calc_price(counts, name, provider_id=provider).total_price)
            except LookupError:
                continue
            return dollars or None  # the package knows some models but not their price, and says 0
    except Exception as exc:  # noqa: BLE001  # the call it prices is paid for and goes on
        _warn_once(type(exc).__name__, model)
    return None


def _warn_once(failure: str, model: str) -> None:
    if failure not in _warned_failures:
        _warned_failures.add(failure)
        _log.warning(
            "genai-prices failed with %s for model %r; counted as unpriced",
            failure,
            model,
        )
