"""Measure real calls: the same questions without a cache, with the server's prompt cache, with the
client's cache, and with both."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import quantiles
from time import perf_counter
from typing import Any, Final, Literal, NamedTuple

from llm_cache_mem import LLMCache
from llm_cache_mem.accounting.pricing import Pricer
from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.responses.usage import Usage, read_usage
from llm_cache_mem.testing.model_server.launch import (
    INSTALL_HINT,
    MODEL,
    ModelServer,
    ServerFailed,
)

__all__ = [
    "ARMS",
    "Arm",
    "ModelUnavailable",
    "Plan",
    "Provider",
    "Target",
    "ask_all",
    "local_model",
    "make_plan",
    "most_tokens",
    "provider_model",
    "run",
    "summary",
]

_SENTENCES: Final = (
    "Assistants of this desk answer in one short sentence and never promise a refund",
    "Orders are shipped from the warehouse on working days before noon",
    "A return needs the number of the order and a photograph of the goods",
    "Prices include taxes, but not the fee for bulky goods",
    "Complaints about the courier are passed on within one day",
    "Questions about an invoice go to the accounting desk",
    "Gift cards are valid for three years and cannot be paid out",
    "Spare parts are kept for ten years after the last sale",
)
_MIN_LETTERS_PER_TOKEN: Final = 2  # about four in English; the lower figure gives an upper bound
_QUESTIONS: Final = (
    "Can I return order",
    "Where is order",
    "Who pays the fee for order",
    "When does order ship",
)


class Arm(NamedTuple):
    """One way to ask. Without *prompt_cache* each request starts with unique text, so that the
    server has nothing to reuse."""

    name: str
    prompt_cache: bool
    client_cache: bool


ARMS: Final = (
    Arm("neither", prompt_cache=False, client_cache=False),
    Arm("prompt cache", prompt_cache=True, client_cache=False),
    Arm("client cache", prompt_cache=False, client_cache=True),
    Arm("both", prompt_cache=True, client_cache=True),
)


class Plan(NamedTuple):
    """What each arm asks: *calls* questions, of which the share *repeats* was asked before, behind
    *prefix_words* words of common text."""

    calls: int
    repeats: float
    prefix_words: int
    max_tokens: int
    run: str
    """Makes this run's prompts differ from earlier ones, which the server may still have cached."""


class Measurement(NamedTuple):
    """One call: its duration and usage, which is None if the client's cache answered."""

    seconds: float
    usage: Usage | None


Create = Callable[..., Any]
"""Calls the model: ``create(messages=..., max_tokens=..., prompt_cache=...)``; the first message is
the system prompt."""


def make_plan(calls: int, repeats: float, prefix_words: int, max_tokens: int, run: str) -> Plan:
    """Return a Plan; ValueError if the numbers do not make one."""
    if calls < 2 or not 0 <= repeats < 1 or prefix_words < 1 or max_tokens < 1:
        raise ValueError(
            "give two calls or more, repeats from 0 to less than 1, and a prefix and an answer of"
            " one word or more"
        )
    return Plan(calls, repeats, prefix_words, max_tokens, run)


def questions(plan: Plan) -> list[str]:
    """Return the questions in order, with the repeats spread over the new ones."""
    found: list[str] = []
    new = 0
    for number in range(plan.calls):
        repeated = new > 0 and int((number + 1) * plan.repeats) > int(number * plan.repeats)
        if repeated:
            found.append(found[(number * 7) % len(found)])
        else:
            found.append(f"{_QUESTIONS[new % len(_QUESTIONS)]} {1000 + new}?")
            new += 1
    return found


def prefix(plan: Plan) -> str:
    """Return the common text of about *prefix_words* words."""
    sentences: list[str] = []
    words = 0
    while words < plan.prefix_words:
        sentence = f"{_SENTENCES[len(sentences) % len(_SENTENCES)]} (rule {len(sentences) + 1})."
        sentences.append(sentence)
        words += len(sentence.split())
    return " ".join(sentences)


def most_tokens(plan: Plan) -> tuple[int, int]:
    """Return an upper bound for the input and output tokens of all calls of a run."""
    letters = len(prefix(plan)) + max(map(len, questions(plan))) + 100
    calls = len(ARMS) * plan.calls
    return calls * (letters // _MIN_LETTERS_PER_TOKEN + 100), calls * plan.max_tokens


def ask_all(plan: Plan, arm: Arm, create: Create) -> Iterator[Measurement]:
    """Ask every question of *plan* in the way of *arm*."""
    common = prefix(plan)
    cache = LLMCache(None, None, admit="any", mode="on", prices={})
    for number, question in enumerate(questions(plan)):
        # The unique text comes first, so that the server has nothing to reuse; it is not part of
        # the client's key.
        unique = f"[{plan.run} {arm.name}{'' if arm.prompt_cache else f' {number}'}] "
        called: list[Any] = []

        def ask(
            messages: Any, front: str = unique, called: list[Any] = called, **params: Any
        ) -> Any:
            response = create(
                messages=[{"role": "system", "content": front + common}, *messages],
                prompt_cache=arm.prompt_cache,
                **params,
            )
            called.append(response)
            return response

        messages = [{"role": "user", "content": question}]
        began = perf_counter()
        if arm.client_cache:
            cache.get_or_call(messages, ask, max_tokens=plan.max_tokens)
        else:
            ask(messages, max_tokens=plan.max_tokens)
        took = perf_counter() - began
        yield Measurement(took, (read_usage(called[0]) or Usage(0, 0)) if called else None)


def run(
    plan: Plan, create: Create, step: Callable[[str], object] = lambda name: None
) -> dict[str, list[Measurement]]:
    """Ask every question in every way, and call *step* with the arm's name after each. Exceptions
    of the model's client are not caught."""
    found: dict[str, list[Measurement]] = {}
    for arm in ARMS:
        asked = found[arm.name] = []
        for one in ask_all(plan, arm, create):
            asked.append(one)
            step(arm.name)
    return found


def summary(
    found: Mapping[str, Sequence[Measurement]], model: str, price: Pricer
) -> list[dict[str, Any]]:
    """Return a row per arm: calls of the model, tokens, tokens that the server read from its cache,
    seconds, and dollars (None if unknown)."""
    return [_row(name, asked, model, price) for name, asked in found.items()]


def _row(name: str, asked: Sequence[Measurement], model: str, price: Pricer) -> dict[str, Any]:
    used = [one.usage for one in asked if one.usage is not None]
    costs = [price(model, usage) for usage in used]
    seconds = sorted(one.seconds for one in asked)
    cuts = quantiles(seconds, n=20, method="inclusive")
    return {
        "arm": name,
        "asked": len(asked),
        "calls": len(used),
        "input_tokens": sum(usage.input_tokens for usage in used),
        "cached_tokens": sum(usage.cache_read_tokens for usage in used),
        "written_tokens": sum(usage.cache_write_tokens for usage in used),
        "output_tokens": sum(usage.output_tokens for usage in used),
        "seconds": sum(seconds),
        "p50_seconds": cuts[9],
        "p95_seconds": cuts[18],
        "usd": None if None in costs else sum(cost for cost in costs if cost is not None),
    }


Provider = Literal["openai", "anthropic"]


class ModelUnavailable(LLMCacheError):
    """There is no model to ask; the message says why."""


class Target(NamedTuple):
    """A *model* and the function *create* that calls it (see Create)."""

    title: str
    model: str
    create: Callable[..., Any]


@contextmanager
def local_model(timeout: float = 600.0) -> Iterator[Target]:
    """Start SmolLM2 in llama.cpp's server on loopback, which has a prompt cache and reports what it
    read. ModelUnavailable if it is not installed."""
    try:
        server = ModelServer(MODEL)
    except ServerFailed as exc:
        raise ModelUnavailable(f"the local model did not start ({exc}); {INSTALL_HINT}") from None
    with (
        server,
        provider_model(
            "openai", MODEL.model, f"{server.url}/v1", timeout=timeout, api_key="none-needed"
        ) as target,
    ):
        yield Target(
            MODEL.title, MODEL.model, lambda **asked: target.create(temperature=0, seed=7, **asked)
        )


@contextmanager
def provider_model(
    provider: Provider,
    model: str,
    base_url: str | None = None,
    *,
    timeout: float = 120.0,
    api_key: str | None = None,
) -> Iterator[Target]:
    """Return *model* of *provider*, or of a server with the same API at *base_url*. Without
    *api_key* the SDK finds the key itself."""
    settings: dict[str, Any] = {"timeout": timeout, "max_retries": 2}
    settings |= {
        name: value
        for name, value in (("base_url", base_url), ("api_key", api_key))
        if value is not None
    }
    try:
        client, create = (
            _openai(model, settings) if provider == "openai" else _anthropic(model, settings)
        )
    except ModuleNotFoundError as exc:
        raise ModelUnavailable(f"{provider} needs its SDK: pip install {exc.name}") from None
    with client:
        yield Target(f"{model} of {provider}", model, create)


def _openai(model: str, settings: dict[str, Any]) -> tuple[Any, Callable[..., Any]]:
    import openai

    try:
        client = openai.OpenAI(**settings)
    except openai.OpenAIError as exc:
        raise ModelUnavailable(str(exc)) from None

    # OpenAI's prompt cache is always on.
    def create(messages: Any, max_tokens: int, prompt_cache: bool, **more: Any) -> Any:
        return client.chat.completions.create(
            model=model, messages=messages, max_completion_tokens=max_tokens, **more
        )

    return client, create


def _anthropic(model: str, settings: dict[str, Any]) -> tuple[Any, Callable[..., Any]]:
    import anthropic

    client = anthropic.Anthropic(**settings)

    def create(messages: Any, max_tokens: int, prompt_cache: bool, **more: Any) -> Any:
        mark = {"cache_control": {"type": "ephemeral"}} if prompt_cache else {}
        system: Any = [{"type": "text", "text": messages[0]["content"], **mark}]
        return client.messages.create(
            model=model, system=system, messages=messages[1:], max_tokens=max_tokens, **more
        )

    return client, create
