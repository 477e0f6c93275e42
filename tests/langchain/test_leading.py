"""Concurrent identical calls with nothing but set_llm_cache: one of them calls the model."""

import asyncio
import threading
from typing import Any

import pytest
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_doubles import Counting
from langchain_llm_cache_mem import LLMCacheMem
from threads import WAIT_SECONDS, start, until

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


async def test_no_caller_waits_for_every_failure(model: Gated) -> None:
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
async def test_a_caller_unable_to_read_the_answer_does_not_wait(model: Gated, mode: Any) -> None:
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


async def test_a_lookup_by_another_caller_takes_no_lease(cache: LLMCacheMem) -> None:
    prompt = '[{"lc": 1, "type": "constructor", "kwargs": {"type": "human", "content": "hi"}}]'
    assert await cache.alookup(prompt, "m") is None
    assert await asyncio.wait_for(asyncio.create_task(cache.alookup(prompt, "m")), 60) is None


async def test_nothing_is_left_over(model: Gated, cache: LLMCacheMem) -> None:
    model.gate.set()
    await asyncio.gather(*(model.ainvoke(f"hi {i % 3}") for i in range(30)))
    assert all(not leads for leads in cache._task_leads._loops.values())


# -- Threads


class Held(Counting):
    """Answers when it is let, in threads."""

    gate: Any = None
    timeout: float | None = None

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self._calls.append(messages)
        number = self.calls
        assert self.gate.wait(WAIT_SECONDS)
        if number <= self.fails:
            raise ConnectionError("the provider is down")
        return ChatResult(generations=[ChatGeneration(message=AIMessage(f"answer {number}"))])


@pytest.fixture
def held(cache: LLMCacheMem) -> Held:
    set_llm_cache(cache)
    return Held(gate=threading.Event())


def waiting(cache: LLMCacheMem, model: Held, threads: int) -> None:
    """Wait until one thread leads and the others of *threads* wait for it."""
    until(lambda: model.calls and cache.stats().misses == threads)


def test_threads_make_one_call(held: Held, cache: LLMCacheMem) -> None:
    asked = [start(lambda: held.invoke("hi")) for _ in range(20)]
    waiting(cache, held, 20)
    held.gate.set()
    answers = [each.result(WAIT_SECONDS) for each in asked]
    assert {answer.text for answer in answers} == {"answer 1"}
    assert len({answer.id for answer in answers}) == 20
    assert held.calls == 1
    stats = cache.stats()
    assert (stats.misses, stats.coalesced) == (20, 19)
    assert not cache._leads._leads


def test_batch_in_threads_makes_one_call(held: Held) -> None:
    held.gate.set()
    assert {answer.text for answer in held.batch(["hi"] * 8)} == {"answer 1"}
    assert held.calls == 1


def test_after_a_failure_one_thread_leads_for_the_rest(held: Held, cache: LLMCacheMem) -> None:
    held.fails = 1
    asked = [start(lambda: held.invoke("hi")) for _ in range(10)]
    waiting(cache, held, 10)
    held.gate.set()
    failed = [each for each in asked if each.exception(WAIT_SECONDS)]
    assert len(failed) == 1
    assert held.calls == 2
    assert not cache._leads._leads


def test_where_all_calls_fail_no_thread_waits_for_a_third(held: Held, cache: LLMCacheMem) -> None:
    held.fails = 100
    asked = [start(lambda: held.invoke("hi")) for _ in range(10)]
    waiting(cache, held, 10)
    held.gate.set()
    assert all(isinstance(each.exception(WAIT_SECONDS), ConnectionError) for each in asked)
    assert held.calls == 10
    assert not cache._leads._leads


def test_threads_with_other_prompts_do_not_wait(held: Held) -> None:
    asked = [start(lambda i=i: held.invoke(f"hi {i}")) for i in range(5)]
    until(lambda: held.calls == 5)
    held.gate.set()
    assert len({each.result(WAIT_SECONDS).text for each in asked}) == 5


def test_thread_waits_no_longer_than_the_timeout_of_its_model(
    held: Held, cache: LLMCacheMem
) -> None:
    leader = start(lambda: held.invoke("hi"))
    until(lambda: held.calls == 1)
    hasty = held.model_copy(update={"timeout": 0.01})
    follower = start(lambda: hasty.invoke("hi"))
    until(lambda: held.calls + hasty.calls >= 2)
    held.gate.set()
    for each in (leader, follower):
        assert each.result(WAIT_SECONDS)


def test_call_inside_a_call_waits_for_no_other(held: Held, cache: LLMCacheMem) -> None:
    """Two threads that each ask, within their call, for what the other is about to answer."""
    both = threading.Barrier(2)

    class Asking(Counting):
        other: str = ""

        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
            both.wait(WAIT_SECONDS)
            inner = Counting(cache=cache, model_name=self.other)
            return ChatResult(generations=[ChatGeneration(message=inner.invoke("hi"))])

    models = [Asking(cache=cache, model_name="a", other="b")]
    models.append(Asking(cache=cache, model_name="b", other="a"))
    asked = [start(lambda model=model: model.invoke("hi")) for model in models]
    assert all(each.result(WAIT_SECONDS).text for each in asked)


async def test_event_loop_is_not_blocked_by_a_thread_that_leads(
    held: Held, cache: LLMCacheMem
) -> None:
    leader = start(lambda: held.invoke("hi"))
    while not held.calls:
        await asyncio.sleep(0)
    free = held.model_copy(update={"gate": threading.Event()})
    free.gate.set()
    assert free.invoke("hi").text  # sync, in the thread of the loop
    held.gate.set()
    assert leader.result(WAIT_SECONDS)


def test_options_can_turn_coalescing_off(held: Held) -> None:
    def refresh() -> Any:
        with options(mode="refresh"):
            return held.invoke("hi")

    asked = [start(refresh) for _ in range(3)]
    until(lambda: held.calls == 3)
    held.gate.set()
    assert len({each.result(WAIT_SECONDS).text for each in asked}) == 3
