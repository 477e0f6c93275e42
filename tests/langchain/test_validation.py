"""Answers that the caller's own validation rejects are discarded."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_doubles import Counting
from langchain_llm_cache_mem import LLMCacheMem, cached
from langchain_llm_cache_mem.prompt_cache import PromptCacheCallback
from pydantic import BaseModel, field_validator

from llm_cache_mem.prompt_cache import PromptCacheTracker

GOOD, BAD = {"total": 3}, {"total": -3}


class Invoice(BaseModel):
    """An invoice."""

    total: int

    @field_validator("total")
    @classmethod
    def _is_positive(cls, total: int) -> int:
        if total < 0:
            raise ValueError("negative")
        return total


class Fickle(Counting):
    """Calls a tool with arguments that its caller rejects at first."""

    provider_id: bool = False

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self._calls.append(messages)
        arguments = BAD if self.calls == 1 else GOOD
        message = AIMessage(
            f'{{"total": {arguments["total"]}}}',
            id=f"chatcmpl-{self.calls}" if self.provider_id else None,
            tool_calls=[{"name": "Invoice", "args": arguments, "id": "1"}],
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.fixture(params=["global", "cached"])
def model(request: pytest.FixtureRequest, cache: LLMCacheMem) -> Fickle:
    if request.param == "cached":
        return cached(Fickle(), cache)
    set_llm_cache(cache)
    return Fickle()


def invoke(chain: Any) -> Any:
    return chain.invoke("how much?")


def ainvoke(chain: Any) -> Any:
    return asyncio.run(chain.ainvoke("how much?"))


def batch(chain: Any) -> Any:
    return chain.batch(["how much?"])[0]


CHAINS: dict[str, Callable[[Fickle], Any]] = {
    "structured output": lambda model: model.with_structured_output(Invoice),
    "parser": lambda model: model | PydanticOutputParser(pydantic_object=Invoice),
    "function": lambda model: (
        model | RunnableLambda(lambda message: Invoice.model_validate_json(message.text))
    ),
}


@pytest.mark.parametrize("ask", [invoke, ainvoke, batch])
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_rejected_answer_is_discarded(
    model: Fickle, cache: LLMCacheMem, chain: Callable[[Fickle], Any], ask: Callable[[Any], Any]
) -> None:
    with pytest.raises((ValueError, OutputParserException)):
        ask(chain(model))
    assert cache.stats().skipped == {"rejected": 1}
    assert [ask(chain(model)) for _ in range(3)] == [Invoice(total=3)] * 3
    assert model.calls == 2


@pytest.mark.parametrize("ask", [invoke, ainvoke, batch])
def test_retry_asks_the_model_again(model: Fickle, ask: Callable[[Any], Any]) -> None:
    chain = model.with_structured_output(Invoice).with_retry(wait_exponential_jitter=False)
    assert [ask(chain) for _ in range(2)] == [Invoice(total=3)] * 2
    assert model.calls == 2


def test_rejected_hit_is_discarded(model: Fickle, cache: LLMCacheMem) -> None:
    for _ in range(2):
        assert model.bind(tools=[]).invoke("how much?").text == '{"total": -3}'
    with pytest.raises(ValueError, match="negative"):
        (model.bind(tools=[]) | CHAINS["parser"](model).last).invoke("how much?")
    assert cache.stats().size == 0


def test_parsing_error_that_is_reported_discards_too(model: Fickle, cache: LLMCacheMem) -> None:
    chain = model.with_structured_output(Invoice, include_raw=True)
    assert invoke(chain)["parsing_error"]
    assert [invoke(chain)["parsed"] for _ in range(2)] == [Invoice(total=3)] * 2
    assert model.calls == 2


@pytest.mark.parametrize("way", ["global", "cached"])
def test_answer_with_an_id_of_its_provider_is_discarded(cache: LLMCacheMem, way: str) -> None:
    set_llm_cache(cache if way == "global" else None)
    model = Fickle(provider_id=True)
    chain = CHAINS["parser"](cached(model, cache) if way == "cached" else model)
    with pytest.raises(ValueError, match="negative"):
        invoke(chain)
    assert cache.stats().size == 0


def test_failure_other_than_a_rejection_keeps_the_answer(model: Fickle, cache: LLMCacheMem) -> None:
    def fail(message: AIMessage) -> None:
        raise ConnectionError(message.text)

    with pytest.raises(ConnectionError):
        invoke(model | RunnableLambda(fail))
    with pytest.raises(ValueError, match="nothing to do with"):
        invoke(model | (lambda message: message.text) | RunnableLambda(unrelated))
    assert cache.stats().size == 1


def unrelated(text: str) -> None:
    raise ValueError("nothing to do with the answer")


@pytest.mark.parametrize("handlers", [[], [PromptCacheCallback(PromptCacheTracker())]])
def test_other_handlers_hear_of_the_start_of_a_plain_llm(handlers: list[Any]) -> None:
    class Heard(BaseCallbackHandler):
        def __init__(self) -> None:
            self.events: list[str] = []

        def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
            self.events.append("start")

        def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
            self.events.append("end")

    heard = Heard()
    llm = FakeListLLM(responses=["a"], cache=LLMCacheMem())
    asyncio.run(llm.ainvoke("hi", config={"callbacks": [*handlers, heard]}))
    assert heard.events == ["start", "end"]
