"""Single-flight between tasks, between event loops, and between tasks and threads."""

import asyncio
import contextvars
import gc
import logging
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from threads import WAIT_SECONDS, start

from llm_cache_mem.engine import waiters
from llm_cache_mem.engine.flight import Flight
from llm_cache_mem.engine.single_flight import SingleFlight

KEY = "1:ns:value:abc"
LONG = 600.0  # no test waits this long; one that has to fails before, after WAIT_SECONDS


@pytest.fixture(autouse=True)
def nothing_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """asyncio logs, and does not warn of, an exception that nobody retrieved and a task destroyed
    while pending."""
    yield
    gc.collect(1)
    assert [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelno >= logging.ERROR
    ] == []


class Gate:
    """Asynchronous work that counts its runs and, once for each of *outcomes*, waits to be let
    through."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0
        self.cancelled = 0
        self.passed = asyncio.Semaphore(0)

    async def __call__(self, flight: Flight) -> Any:
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.calls += 1
        try:
            await self.passed.acquire()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


async def turn() -> None:
    """Let everything run that is ready to."""
    for _ in range(10):
        await asyncio.sleep(0)


async def callers(
    flights: SingleFlight, work: Callable[[Flight], Awaitable[Any]], count: int
) -> "list[asyncio.Task[Any]]":
    """*count* waiting callers of one key; the first leads."""
    tasks = [asyncio.create_task(flights.arun(KEY, work)) for _ in range(count)]
    await turn()
    return tasks


def idle(flights: SingleFlight) -> bool:
    return not flights._table._listed and not flights._tasks


async def until(condition: Callable[[], object]) -> None:
    """Let other threads run until *condition* holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.0005)


def waiting(flights: SingleFlight) -> int:
    flight = flights._table._listed.get(KEY)
    return 0 if flight is None else len(flight.waiters)


async def test_a_lone_caller_gets_the_result_of_its_work() -> None:
    flights, gate = SingleFlight(LONG), Gate(42)
    gate.passed.release()
    assert await flights.arun(KEY, gate) == (42, False)
    await turn()
    assert idle(flights)


async def test_ten_thousand_tasks_make_one_call_and_share_one_result() -> None:
    flights, answer = SingleFlight(LONG), object()
    gate = Gate(answer)
    tasks = await callers(flights, gate, 10_000)
    gate.passed.release()
    results = await asyncio.gather(*tasks)
    assert gate.calls == 1
    assert all(result is answer for result, _ in results)
    assert [coalesced for _, coalesced in results] == [False] + [True] * 9_999
    assert idle(flights)


async def test_the_leaders_error_reaches_its_waiters_only() -> None:
    error = ValueError("no")
    flights, gate = SingleFlight(LONG), Gate(error, "yes")
    tasks = await callers(flights, gate, 20)
    gate.passed.release()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert errors[0] is error
    assert {(type(e), str(e)) for e in errors} == {(ValueError, "no")}
    assert len({id(e) for e in errors}) == 20
    gate.passed.release()
    assert await flights.arun(KEY, gate) == ("yes", False)
    assert gate.calls == 2


async def test_a_cancelled_follower_affects_no_other_caller() -> None:
    flights, gate = SingleFlight(LONG), Gate("answer")
    tasks = await callers(flights, gate, 1000)
    tasks[500].cancel()
    await turn()
    gate.passed.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(500), asyncio.CancelledError)
    assert [result for result, _ in results] == ["answer"] * 999
    assert gate.calls == 1


async def test_the_work_outlives_its_first_caller() -> None:
    flights, gate = SingleFlight(LONG), Gate("answer")
    tasks = await callers(flights, gate, 1000)
    tasks[0].cancel()
    await turn()
    gate.passed.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [("answer", True)] * 999
    assert (gate.calls, gate.cancelled) == (1, 0)


async def test_cancelling_the_last_waiter_cancels_the_work() -> None:
    flights, gate = SingleFlight(LONG), Gate("first", "second")
    tasks = await callers(flights, gate, 3)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {asyncio.CancelledError}
    gate.passed.release()
    assert await flights.arun(KEY, gate) == ("second", False)
    await turn()
    assert (gate.calls, gate.cancelled) == (2, 1)
    assert idle(flights)


async def test_a_caller_cancelled_before_its_work_began_leaves_nothing() -> None:
    flights, gate = SingleFlight(LONG), Gate(1)
    for early in range(4):
        task = asyncio.create_task(flights.arun(KEY, gate))
        for _ in range(early):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await turn()
        assert idle(flights)


async def test_cancelling_as_the_answer_arrives_affects_no_other_caller() -> None:
    flights, gate = SingleFlight(LONG), Gate("answer")
    tasks = await callers(flights, gate, 3)
    gate.passed.release()
    await until(lambda: not flights._table._listed)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == ("answer", False)
    assert results[2] == ("answer", True)


async def test_a_waiter_takes_over_cancelled_work() -> None:
    flights, gate = SingleFlight(LONG), Gate("first", "second")
    tasks = await callers(flights, gate, 20)
    (work,) = flights._tasks
    work.cancel()
    gate.passed.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert (
        sorted(results[1:], key=lambda result: result[1])
        == [("second", False)] + [("second", True)] * 18
    )
    assert gate.calls == 2
    assert idle(flights)


async def test_work_cancelled_before_its_first_step_is_taken_over() -> None:
    flights, gate = SingleFlight(LONG), Gate("answer")
    gate.passed.release()
    leader = asyncio.create_task(flights.arun(KEY, gate))
    await asyncio.sleep(0)
    (work,) = flights._tasks
    follower = asyncio.create_task(flights.arun(KEY, gate))
    work.cancel()
    results = await asyncio.gather(leader, follower, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] == ("answer", False)
    assert gate.calls == 1


async def test_a_successor_cancelled_at_once_passes_the_lead_on() -> None:
    flights, calls = SingleFlight(LONG), []
    tasks: list[asyncio.Task[Any]] = []

    async def work(flight: Flight) -> str:
        calls.append(1)
        if len(calls) > 1:
            return "answer"
        await turn()
        asyncio.get_running_loop().call_soon(
            tasks[1].cancel
        )  # which runs before the elected caller does
        raise asyncio.CancelledError

    tasks += [asyncio.create_task(flights.arun(KEY, work)) for _ in range(10)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results[:2]] == [asyncio.CancelledError] * 2
    assert results[2] == ("answer", False)
    assert results[3:] == [("answer", True)] * 7
    assert len(calls) == 2


@pytest.mark.parametrize("death", [KeyboardInterrupt, SystemExit])
def test_a_fatal_error_kills_one_loop_and_others_take_over(
    death: type[BaseException],
) -> None:
    flights = SingleFlight(LONG)
    started, die = threading.Event(), threading.Event()

    async def killed(flight: Flight) -> None:
        started.set()
        while not die.is_set():
            await asyncio.sleep(0.0005)
        raise death

    async def main() -> None:
        await asyncio.gather(*[flights.arun(KEY, killed) for _ in range(3)])

    leader = start(lambda: asyncio.run(main()))
    assert started.wait(60)
    follower = start(lambda: flights.run(KEY, lambda flight: "answer"))
    asyncio.run(until(lambda: waiting(flights) == 4))
    die.set()
    assert type(leader.exception(60)) is death
    assert follower.result(60) in [("answer", False), ("answer", True)]
    assert idle(flights)


def test_a_kill_after_the_caller_left_still_stops_the_loop() -> None:
    flights = SingleFlight(LONG)

    async def main() -> None:
        gate = Gate(SystemExit(3))
        tasks = await callers(flights, gate, 2)
        tasks[0].cancel()
        await turn()
        gate.passed.release()
        await tasks[1]

    with pytest.raises(SystemExit):
        asyncio.run(main())
    assert idle(flights)


async def test_a_wait_is_limited_and_ends_in_a_call_of_ones_own() -> None:
    flights, gate = SingleFlight(0.01), Gate("late")
    (leader,) = await callers(flights, gate, 1)

    async def own(flight: Flight) -> str:
        return "own"

    assert await flights.arun(KEY, own) == ("own", False)
    gate.passed.release()
    assert await leader == ("late", False)
    assert idle(flights)


async def test_the_leaders_own_caller_waits_without_limit() -> None:
    flights, gate = SingleFlight(0.0), Gate("answer")
    (leader,) = await callers(flights, gate, 1)
    await asyncio.sleep(0.01)
    gate.passed.release()
    assert await leader == ("answer", False)


async def test_work_calling_its_own_key_does_not_wait() -> None:
    flights = SingleFlight(LONG)

    async def inner(flight: Flight) -> str:
        return "inner"

    async def work(flight: Flight) -> Any:
        in_a_task = await asyncio.create_task(flights.arun(KEY, inner))
        in_a_thread = await asyncio.to_thread(flights.run, KEY, lambda flight: "thread")
        return await flights.arun(KEY, inner), in_a_task, in_a_thread

    async with asyncio.timeout(WAIT_SECONDS):
        result, coalesced = await flights.arun(KEY, work)
    assert result == (("inner", False), ("inner", False), ("thread", False))
    assert not coalesced


async def test_the_work_sees_the_context_of_its_first_caller() -> None:
    flights, who = SingleFlight(LONG), contextvars.ContextVar("who", default="nobody")

    async def work(flight: Flight) -> str:
        return who.get()

    async def call(name: str) -> Any:
        who.set(name)
        return await flights.arun(KEY, work)

    results = await asyncio.gather(
        asyncio.create_task(call("first")), asyncio.create_task(call("second"))
    )
    assert results == [("first", False), ("first", True)]
    assert who.get() == "nobody"


async def test_work_may_be_any_awaitable() -> None:
    flights = SingleFlight(LONG)
    answer = asyncio.get_running_loop().create_future()
    answer.set_result(1)
    assert await flights.arun(KEY, lambda flight: answer) == (1, False)


async def test_work_that_raises_before_it_awaits_is_an_error_like_any() -> None:
    flights = SingleFlight(LONG)

    def work(flight: Flight) -> Awaitable[None]:
        raise LookupError

    with pytest.raises(LookupError):
        await flights.arun(KEY, work)
    assert idle(flights) or not await turn()


class Cleanup:
    """Work that takes its time to clean up, and notes how far it came."""

    def __init__(self) -> None:
        self.calls = 0
        self.steps: list[str] = []
        self.may_end = asyncio.Event()

    async def __call__(self, flight: Flight) -> None:
        self.calls += 1
        try:
            await asyncio.sleep(600)
        finally:
            self.steps.append("begun")
            try:
                await self.may_end.wait()
                self.steps.append("done")
            except asyncio.CancelledError:
                self.steps.append("cut")
                raise


async def test_a_cancelled_caller_waits_for_the_cleanup_of_its_work() -> None:
    work = Cleanup()
    (task,) = await callers(SingleFlight(LONG), work, 1)
    task.cancel()
    await turn()
    assert (work.steps, task.done()) == (["begun"], False)
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.steps == ["begun", "done"]


async def test_a_second_cancellation_reaches_the_cleanup() -> None:
    work = Cleanup()
    (task,) = await callers(SingleFlight(LONG), work, 1)
    for _ in range(2):
        task.cancel()
        await turn()
    assert (work.steps, task.cancelled()) == (["begun", "cut"], True)


async def test_a_scope_of_anyio_spares_the_cleanup_that_is_shielded() -> None:
    steps: list[str] = []
    flights = SingleFlight(LONG)

    async def shielded(flight: Flight) -> None:
        with anyio.CancelScope() as scope:
            try:
                await asyncio.sleep(600)
            finally:
                scope.shield = True
                await turn()
                steps.append("done")

    with anyio.CancelScope() as outer:
        asyncio.get_running_loop().call_soon(outer.cancel)
        await flights.arun("k", shielded)
    assert steps == ["done"]


def test_the_end_of_a_loop_cancels_work_only_once() -> None:
    work = Cleanup()

    async def main() -> None:
        await callers(SingleFlight(LONG), work, 1)
        work.may_end.set()

    asyncio.run(main())
    assert work.steps == ["begun", "done"]


async def test_an_error_without_waiters_is_dropped() -> None:
    flights = SingleFlight(LONG)

    async def stubborn(flight: Flight) -> None:
        try:
            await asyncio.sleep(5)
        finally:
            raise ValueError("while being cancelled")

    (task,) = await callers(flights, stubborn, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turn()
    assert idle(flights)


async def test_work_abandoned_by_all_can_still_be_forgotten() -> None:
    flights, stored = SingleFlight(LONG), []
    reached = asyncio.Event()

    async def stubborn(flight: Flight) -> None:
        try:
            await asyncio.sleep(5)
        finally:
            flights.forget(KEY)
            flight.commit(lambda: stored.append(1))
            reached.set()

    (task,) = await callers(flights, stubborn, 1)
    task.cancel()
    await asyncio.wait_for(reached.wait(), 60)
    assert stored == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
async def test_an_eager_task_factory_changes_nothing() -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    flights, gate = SingleFlight(LONG), Gate("first", "second")

    async def at_once(flight: Flight) -> int:
        return 1

    assert await flights.arun(KEY, at_once) == (1, False)
    tasks = await callers(flights, gate, 10)
    (work,) = flights._tasks
    work.cancel()
    gate.passed.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert (
        sorted(results[1:], key=lambda result: result[1])
        == [("second", False)] + [("second", True)] * 8
    )
    await turn()
    assert idle(flights)


# -- Threads and loops together


@pytest.mark.parametrize("leader_is_async", [True, False])
async def test_threads_and_tasks_wait_for_each_other(leader_is_async: bool) -> None:
    flights = SingleFlight(LONG)
    passed = threading.Event()
    calls = []

    def work(flight: Flight) -> str:
        calls.append(1)
        assert passed.wait(60)
        return "answer"

    async def awork(flight: Flight) -> str:
        return await asyncio.to_thread(work, flight)

    by_task, by_thread = (
        lambda: asyncio.create_task(flights.arun(KEY, awork)),
        lambda: start(lambda: flights.run(KEY, work)),
    )
    leader: Any = by_task() if leader_is_async else by_thread()
    await until(lambda: calls)
    tasks, threads = [by_task() for _ in range(20)], [by_thread() for _ in range(20)]
    await until(lambda: waiting(flights) == 40 + leader_is_async)
    passed.set()
    results = await asyncio.gather(*tasks, *map(asyncio.wrap_future, threads))
    assert results == [("answer", True)] * 40
    assert await (leader if leader_is_async else asyncio.wrap_future(leader)) == ("answer", False)
    assert len(calls) == 1
    assert idle(flights)


async def test_tasks_of_two_loops_wait_for_each_other() -> None:
    flights, gate = SingleFlight(LONG), Gate("answer")
    (leader,) = await callers(flights, gate, 1)
    elsewhere = start(lambda: asyncio.run(_several(flights, gate, 20)))
    await until(lambda: waiting(flights) == 21)
    gate.passed.release()
    assert await asyncio.wrap_future(elsewhere) == [("answer", True)] * 20
    assert await leader == ("answer", False)
    assert gate.calls == 1


async def _several(
    flights: SingleFlight, work: Callable[[Flight], Awaitable[Any]], count: int
) -> list[Any]:
    return await asyncio.gather(*[flights.arun(KEY, work) for _ in range(count)])


async def test_the_last_follower_to_leave_cancels_the_work() -> None:
    flights, gate = SingleFlight(LONG), Gate("answer")
    (leader,) = await callers(flights, gate, 1)

    async def follow_and_leave() -> None:
        task = asyncio.create_task(flights.arun(KEY, gate))
        await until(leader.done)
        task.cancel()
        await asyncio.wait([task])

    elsewhere = start(lambda: asyncio.run(follow_and_leave()))
    await until(lambda: waiting(flights) == 2)
    leader.cancel()
    await asyncio.wait_for(asyncio.wrap_future(elsewhere), 60)
    await until(lambda: gate.cancelled)
    await turn()
    assert idle(flights)


def test_a_loop_that_ends_while_it_leads_is_taken_over_from() -> None:
    flights = SingleFlight(LONG)
    started, leave = threading.Event(), threading.Event()

    async def endless(flight: Flight) -> None:
        started.set()
        await asyncio.sleep(50)

    async def main() -> None:
        task = asyncio.create_task(flights.arun(KEY, endless))
        await until(leave.is_set)
        assert not task.done()

    leader = start(lambda: asyncio.run(main()))  # its end cancels what is left
    assert started.wait(60)
    followers = [start(lambda: flights.run(KEY, lambda flight: "answer")) for _ in range(10)]
    asyncio.run(until(lambda: waiting(flights) == 11))
    leave.set()
    leader.result(60)
    assert (
        sorted(follower.result(60) for follower in followers)
        == [("answer", False)] + [("answer", True)] * 9
    )
    assert idle(flights)


async def endless(flight: Flight) -> None:
    await asyncio.sleep(50)


def led_by(flights: SingleFlight) -> asyncio.AbstractEventLoop:
    """A loop that is not running, in the middle of leading a flight."""
    loop = asyncio.new_event_loop()
    caller = loop.create_task(flights.arun(KEY, endless))
    while not flights._tasks:
        loop.run_until_complete(asyncio.sleep(0))
    assert not caller.done()
    return loop


def abandon(loop: asyncio.AbstractEventLoop) -> None:
    """Close *loop* with its tasks under way, which asyncio would report, and rightly."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()


@pytest.mark.parametrize("closed", [True, False])
def test_a_loop_stopped_while_leading_delays_others_briefly(closed: bool) -> None:
    flights = SingleFlight(LONG if closed else 0.2)  # that it is closed is seen before
    loop = led_by(flights)

    async def own(flight: Flight) -> str:
        return "own"

    follower = start(lambda: asyncio.run(flights.arun(KEY, own)))
    asyncio.run(until(lambda: waiting(flights) == 2))
    if closed:
        abandon(loop)
    assert follower.result(60) == ("own", False)
    assert flights.run(KEY, lambda flight: "next") == ("next", False)
    assert not flights._table._listed
    if not closed:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(turn())
        assert idle(flights)
        loop.close()


def test_a_thread_that_follows_a_task_of_a_closed_loop_goes_on() -> None:
    flights = SingleFlight(LONG)
    loop = led_by(flights)
    follower = start(lambda: flights.run(KEY, lambda flight: "own"))
    asyncio.run(until(lambda: waiting(flights) == 2))
    abandon(loop)
    assert follower.result(WAIT_SECONDS) == ("own", False)


def test_a_closed_loop_does_not_block_later_callers() -> None:
    flights = SingleFlight(LONG)
    abandon(led_by(flights))
    assert flights.run(KEY, lambda flight: "own") == ("own", False)


def test_early_cancelled_work_survives_the_end_of_its_loop() -> None:
    flights = SingleFlight(LONG)
    loop = asyncio.new_event_loop()
    caller = loop.create_task(flights.arun(KEY, endless))

    def turn_once() -> None:
        loop.call_soon(loop.stop)
        loop.run_forever()

    turn_once()
    (work,) = flights._tasks
    follower = start(lambda: flights.run(KEY, lambda flight: "own"))
    asyncio.run(until(lambda: waiting(flights) == 2))
    work.cancel()
    turn_once()
    abandon(loop)
    assert follower.result(60) == ("own", False)
    assert not caller.done()


async def test_a_sync_call_in_the_leading_loop_does_not_block_it() -> None:
    flights, gate = SingleFlight(LONG), Gate("async")
    (leader,) = await callers(flights, gate, 1)
    assert flights.run(KEY, lambda flight: flight.commit(lambda: "sync")) == ("sync", False)
    gate.passed.release()
    assert await leader == ("async", False)


async def test_a_follower_whose_loop_has_closed_is_passed_over() -> None:
    flights, gate = SingleFlight(LONG), Gate("first", "second")
    (leader,) = await callers(flights, gate, 1)
    loop = asyncio.new_event_loop()
    gone = loop.create_task(flights.arun(KEY, gate))
    await asyncio.to_thread(loop.run_until_complete, asyncio.sleep(0))
    abandon(loop)
    followers = await callers(flights, gate, 2)
    assert waiting(flights) == 4
    (work,) = flights._tasks
    work.cancel()
    await asyncio.wait([leader])
    assert leader.cancelled()
    # as the garbage collector will: the lead is no longer its to hand on
    gone.get_coro().close()  # type: ignore[union-attr]
    await turn()
    gate.passed.release()
    assert await asyncio.wait_for(asyncio.gather(*followers), 60) == [
        ("second", False),
        ("second", True),
    ]
    assert gate.calls == 2
    assert idle(flights)


class Failure(Exception):
    pass


async def test_an_error_is_freed_with_its_last_handler() -> None:
    flights = SingleFlight(LONG)

    async def work(flight: Flight) -> None:
        await turn()
        raise Failure

    async def caught() -> "weakref.ref[BaseException]":
        try:
            await flights.arun(KEY, work)
        except Failure as exc:
            return weakref.ref(exc)
        raise AssertionError

    gc.collect(1)
    gc.disable()  # nothing may be in a cycle that waits for the collector
    try:
        refs = await asyncio.gather(caught(), caught(), caught())
        await turn()
        assert [ref() for ref in refs] == [None] * 3
    finally:
        gc.enable()


async def test_work_that_takes_a_cancellation_for_its_own_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As asyncio.timeout does when both come at once."""
    monkeypatch.setattr(waiters, "_LOOK_SECONDS", 0.01)

    async def work(flight: Flight) -> None:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        await asyncio.sleep(LONG)

    flights = SingleFlight(LONG)
    (task,) = await callers(flights, work, 1)
    task.cancel()
    done, _ = await asyncio.wait((task,), timeout=WAIT_SECONDS)
    assert done
    assert task.cancelled()
    await turn()
    assert idle(flights)
