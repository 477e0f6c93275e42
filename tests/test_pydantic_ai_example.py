"""The example of "Write an integration": a Pydantic AI model behind the cache."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from examples.pydantic_ai.cached_model import CachedModel
from llm_cache_mem import LLMCache, options


class Provider:
    """A model that counts its calls: it asks the tool first where there is one."""

    def __init__(self, finish_reason: Any = "stop") -> None:
        self.calls = 0
        self.finish_reason = finish_reason
        self.model = FunctionModel(self.answer, stream_function=self.stream, model_name="m")

    async def answer(self, messages: list[Any], info: AgentInfo) -> ModelResponse:
        self.calls += 1
        await asyncio.sleep(0)
        part: Any = TextPart(f"answer {self.calls}")
        if info.function_tools and len(messages) == 1:
            part = ToolCallPart("roll", {"sides": 6})
        return ModelResponse(
            parts=[part],
            usage=RequestUsage(input_tokens=12, output_tokens=3),
            finish_reason=self.finish_reason,
        )

    async def stream(self, messages: list[Any], info: AgentInfo) -> AsyncIterator[str]:
        self.calls += 1
        for piece in ("answer", " ", str(self.calls)):
            yield piece


@pytest.fixture
def provider() -> Provider:
    return Provider()


async def test_equal_runs_are_answered_once(provider: Provider) -> None:
    cache = LLMCache(prices={"m": (1.0, 2.0)})
    agent = Agent(CachedModel(provider.model, cache))
    first, second = await agent.run("hi"), await agent.run("hi")
    assert (first.output, second.output) == ("answer 1", "answer 1")
    assert (await agent.run("other")).output == "answer 2"
    assert (provider.calls, cache.stats().hits) == (2, 1)


async def test_concurrent_runs_make_one_call(provider: Provider) -> None:
    cache = LLMCache()
    agent = Agent(CachedModel(provider.model, cache))
    outputs = await asyncio.gather(*(agent.run("hi") for _ in range(10)))
    assert {run.output for run in outputs} == {"answer 1"}
    assert (provider.calls, cache.stats().coalesced) == (1, 9)


async def test_a_run_with_tools_is_answered_turn_by_turn(provider: Provider) -> None:
    agent = Agent(CachedModel(provider.model, LLMCache()))
    rolled: list[int] = []

    @agent.tool_plain
    def roll(sides: int) -> int:
        rolled.append(sides)
        return 4

    outputs = [(await agent.run("roll")).output for _ in range(2)]
    assert outputs == ["answer 2", "answer 2"]
    assert (provider.calls, rolled) == (2, [6, 6])


async def test_streams_are_stored_and_replayed_as_streams(provider: Provider) -> None:
    cache = LLMCache()
    agent = Agent(CachedModel(provider.model, cache))
    texts = []
    for _ in range(2):
        async with agent.run_stream("hi") as run:
            texts.append([text async for text in run.stream_text(delta=True, debounce_by=None)])
    assert ["".join(pieces) for pieces in texts] == ["answer 1", "answer 1"]
    assert provider.calls == 1
    assert (await agent.run("hi")).output == "answer 1"  # from the entry of the stream
    assert (provider.calls, cache.stats().hits) == (1, 2)


async def test_a_stream_that_was_left_is_not_stored(provider: Provider) -> None:
    agent = Agent(CachedModel(provider.model, LLMCache()))
    async with agent.run_stream("hi") as run:
        async for _ in run.stream_text(debounce_by=None):
            break
    assert (await agent.run("hi")).output == "answer 2"


async def test_a_truncated_answer_is_reported_and_not_stored() -> None:
    provider, cache = Provider(finish_reason="length"), LLMCache()
    agent = Agent(CachedModel(provider.model, cache))
    assert [(await agent.run("hi")).output for _ in range(2)] == ["answer 1", "answer 2"]
    assert cache.stats().skipped == {"length": 2}


async def test_a_whole_answer_without_a_finish_reason_is_stored() -> None:
    provider = Provider(finish_reason=None)
    agent = Agent(CachedModel(provider.model, LLMCache()))
    assert [(await agent.run("hi")).output for _ in range(2)] == ["answer 1", "answer 1"]


async def test_reported_usage_is_counted_and_priced(provider: Provider) -> None:
    cache = LLMCache(prices=lambda model, usage: usage.input_tokens / 4)
    agent = Agent(CachedModel(provider.model, cache))
    for _ in range(3):
        await agent.run("hi")
    stats = cache.stats()
    assert (stats.tokens_saved, stats.saved_usd) == (30, 6.0)


async def test_options_and_settings_count(provider: Provider) -> None:
    agent = Agent(CachedModel(provider.model, LLMCache()))
    await agent.run("hi")
    await agent.run("hi", model_settings={"temperature": 0.5})
    await agent.run("hi", model_settings={"temperature": 0.5, "timeout": 7})
    with options(namespace="acme"):
        await agent.run("hi")
    with options(mode="off"):
        await agent.run("hi")
    assert provider.calls == 4
