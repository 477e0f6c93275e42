"""Concurrent identical calls with nothing but set_llm_cache: one of them calls the model."""

import asyncio
from typing import Any

import pytest
from langchain_core.globals import set_llm_cache
from langchain_core.messages import HumanMessage
from langchain_core.outputs import ChatResult
from langchain_doubles import Counting
from langchain_llm_cache_mem import LLMCacheMem

from llm_cache_mem import options


class Gated(Counting):
    """Answers when it is let."""

    gate: Any = None

    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self._calls.append(messages)
        number = self.calls
        await self.gate.wait()
        self._calls.pop()
        if number <= self.fails:
            self._calls.append(messages)
            raise ConnectionError("the provider is down")
        return self._generate(messages)


@pytest.fixture
def model(cache: LLMCacheMem) -> Gated:
    set_llm_cache(cache)
    return Gated(gate=asyncio.Event())


async def started(model: Counting, calls: int = 1) -> None:
    while model.calls < calls:
        await asyncio.sleep(0)


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)  # for those that look into a file


async def test_fifty_calls_are_one(model: Gated, cache: LLMCacheMem) -> None:
    tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(50)]
    await started(model)
    await settled()
    model.gate.set()
    answers = await asyncio.gather(*tasks)
    assert {answer.content for answer in answers} == {"hi #1"}
    assert model.calls == 1
    assert (cache.stats().hits, cache.stats().misses) == (49, 1)
    assert len({id(answer) for answer in answers}) == 50


@pytest.mark.parametrize("method", ["abatch", "agenerate"])
async def test_a_batch_of_the_same_is_one_call(model: Gated, method: str) -> None:
    model.gate.set()
    await (
        model.abatch(["hi"] * 20)
        if method == "abatch"
        else model.agenerate([[HumanMessage("hi")]] * 20)
    )
    assert model.calls == 1


async def test_other_prompts_do_not_wait(model: Gated) -> None:
    tasks = [asyncio.create_task(model.ainvoke(prompt)) for prompt in ("a", "b", "c")]
    await started(model, 3)
    model.gate.set()
    await asyncio.gather(*tasks)


async def test_after_a_failure_one_tries_again_for_the_rest(model: Gated) -> None:
    model.fails = 1
    tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(10)]
    await started(model)
    model.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer).__name__ for answer in answers].count("ConnectionError") == 1
    assert model.calls == 2


async def test_where_all_fails_nobody_waits_for_everybody(model: Gated) -> None:
    model.fails = 99
    model.gate.set()
    answers = await asyncio.gather(
        *(model.ainvoke("hi") for _ in range(10)), return_exceptions=True
    )
    assert {type(answer).__name__ for answer in answers} == {"ConnectionError"}


async def test_a_cancelled_leader_hands_its_turn_on(model: Gated) -> None:
    leader = asyncio.create_task(model.ainvoke("hi"))
    await started(model)
    follower = asyncio.create_task(model.ainvoke("hi"))
    await settled()
    leader.cancel()
    await started(model, 2)
    model.gate.set()
    assert (await follower).text.startswith("hi")
    with pytest.raises(asyncio.CancelledError):
        await leader


async def test_a_cancelled_follower_leaves_the_leader_alone(model: Gated) -> None:
    leader = asyncio.create_task(model.ainvoke("hi"))
    await started(model)
    follower = asyncio.create_task(model.ainvoke("hi"))
    await settled()
    follower.cancel()
    model.gate.set()
    assert (await leader).content == "hi #1"


async def test_patience_ends() -> None:
    model = Gated(gate=asyncio.Event(), cache=LLMCacheMem(wait_seconds=0.01))
    tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(2)]
    await started(model, 2)
    model.gate.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("mode", ["off", "refresh"])
async def test_who_cannot_read_the_answer_does_not_wait_for_it(model: Gated, mode: Any) -> None:
    with options(mode=mode):
        tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(3)]
        await started(model, 3)
    model.gate.set()
    await asyncio.gather(*tasks)


async def test_coalesce_false_turns_it_off() -> None:
    model = Gated(gate=asyncio.Event(), cache=LLMCacheMem(coalesce=False))
    tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(3)]
    await started(model, 3)
    model.gate.set()
    await asyncio.gather(*tasks)


async def test_a_lookup_of_somebody_else_takes_no_turn(cache: LLMCacheMem) -> None:
    prompt = '[{"lc": 1, "type": "constructor", "kwargs": {"type": "human", "content": "hi"}}]'
    assert await cache.alookup(prompt, "m") is None
    assert await asyncio.wait_for(asyncio.create_task(cache.alookup(prompt, "m")), 60) is None


async def test_nothing_is_left_over(model: Gated, cache: LLMCacheMem) -> None:
    model.gate.set()
    await asyncio.gather(*(model.ainvoke(f"hi {i % 3}") for i in range(30)))
    assert all(not turns for turns in cache._turns._loops.values())
