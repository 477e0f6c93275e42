"""Single-flight between threads, and what it promises beside asyncio and fork."""

import contextvars
import ctypes
import gc
import math
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any

import pytest
from threads import WAIT_SECONDS, start, until

from llm_cache_mem.engine.flight import Flight, keep_lead
from llm_cache_mem.engine.flight_table import FlightTable
from llm_cache_mem.engine.single_flight import SingleFlight
from llm_cache_mem.engine.waiters import ThreadWaiter

KEY = "1:ns:value:abc"
LONG = 600.0  # no test waits this long; one that would have to fails before, after WAIT_SECONDS


def waiting(flights: SingleFlight, key: str = KEY) -> int:
    flight = flights._table._listed.get(key)
    return 0 if flight is None else len(flight.waiters)


def idle(flights: SingleFlight) -> bool:
    return not (flights._table._listed or flights._tasks or flights.waiting)


class Gate:
    """Work that counts its runs and waits to be let through, once for each of *outcomes*."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.started = threading.Semaphore(0)
        self.passed = threading.Semaphore(0)
        self.calls = 0

    def __call__(self, flight: Flight) -> Any:
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.calls += 1
        self.started.release()
        assert self.passed.acquire(timeout=WAIT_SECONDS)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def lead_and_follow(flights: SingleFlight, gate: Gate, followers: int) -> "list[Future[Any]]":
    """Callers of one key: the first leads, waiting in *gate*, the others follow."""
    futures = [start(lambda: flights.run(KEY, gate))]
    assert gate.started.acquire(timeout=WAIT_SECONDS)
    futures += [start(lambda: flights.run(KEY, gate)) for _ in range(followers)]
    until(lambda: waiting(flights) == flights.waiting == followers)
    return futures


def test_watchers_are_told_how_many_wait() -> None:
    seen: list[int] = []
    flights, gate = SingleFlight(LONG), Gate("answer")
    flights.watchers = (seen.append,)
    futures = lead_and_follow(flights, gate, 2)
    assert seen == [1, 2]
    gate.passed.release()
    assert [future.result(WAIT_SECONDS)[0] for future in futures] == ["answer"] * 3
    assert seen == [1, 2, 1, 0]


def test_a_flight_that_is_over_leaves_nothing_behind() -> None:
    flights = SingleFlight(LONG)
    flights.run(KEY, lambda flight: flights.run("other", lambda flight: 1))
    assert not flights._table._known


def test_work_in_another_context_does_not_wait_for_itself() -> None:
    flights, context = SingleFlight(LONG), contextvars.copy_context()

    def work(flight: Flight) -> Any:
        keep_lead(context)
        return context.run(flights.run, KEY, lambda _: "inner", timeout=0.0)

    assert flights.run(KEY, work) == (("inner", False), False)


def test_a_lone_caller_gets_the_result_of_its_work() -> None:
    flights = SingleFlight(LONG)
    assert flights.run(KEY, lambda flight: 42) == (42, False)
    assert idle(flights)


def test_a_thousand_threads_make_one_call_and_share_one_result() -> None:
    flights, answer = SingleFlight(LONG), object()
    gate = Gate(answer)
    futures = lead_and_follow(flights, gate, 999)
    gate.passed.release()
    results = [future.result(WAIT_SECONDS) for future in futures]
    assert gate.calls == 1
    assert all(result is answer for result, _ in results)
    assert [coalesced for _, coalesced in results] == [False] + [True] * 999
    assert idle(flights)


def test_keys_do_not_wait_for_each_other() -> None:
    flights, gate = SingleFlight(LONG), Gate(1)
    futures = lead_and_follow(flights, gate, 0)
    assert flights.run("other", lambda flight: 2) == (2, False)
    gate.passed.release()
    assert futures[0].result(WAIT_SECONDS) == (1, False)


def test_a_later_caller_makes_a_call_of_its_own() -> None:
    flights = SingleFlight(LONG)
    assert [flights.run(KEY, lambda flight, i=i: i) for i in range(3)] == [
        (0, False),
        (1, False),
        (2, False),
    ]


def test_the_leaders_error_reaches_its_waiters_only() -> None:
    error = ValueError("no")
    flights, gate = SingleFlight(LONG), Gate(error, "yes")
    futures = lead_and_follow(flights, gate, 20)
    gate.passed.release(2)
    errors = [future.exception(60) for future in futures]
    assert errors[0] is error
    assert {type(e) for e in errors} == {ValueError}
    assert {str(e) for e in errors} == {"no"}
    assert len({id(e) for e in errors}) == 21
    assert flights.run(KEY, gate) == ("yes", False)
    assert gate.calls == 2


@pytest.mark.parametrize("death", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_waiter_takes_over_from_a_killed_leader(
    death: type[BaseException],
) -> None:
    flights = SingleFlight(LONG)
    gate = Gate(death(), "answer")
    futures = lead_and_follow(flights, gate, 50)
    gate.passed.release(2)
    assert type(futures[0].exception(60)) is death
    results = [future.result(WAIT_SECONDS) for future in futures[1:]]
    assert gate.calls == 2
    assert {result for result, _ in results} == {"answer"}
    assert sum(not coalesced for _, coalesced in results) == 1
    assert idle(flights)


def test_a_waiter_takes_over_from_a_killed_thread() -> None:
    flights, identity = SingleFlight(LONG), []

    def work(flight: Flight) -> str:
        if identity:
            return "answer"
        identity.append(threading.get_ident())
        while True:
            time.sleep(0.0005)

    leader = start(lambda: flights.run(KEY, work))
    until(lambda: identity)
    followers = [start(lambda: flights.run(KEY, work)) for _ in range(10)]
    until(lambda: waiting(flights) == 10)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(identity[0]), ctypes.py_object(SystemExit)
    )
    assert type(leader.exception(60)) is SystemExit
    assert (
        sorted(follower.result(WAIT_SECONDS) for follower in followers)
        == [("answer", False)] + [("answer", True)] * 9
    )


def test_killing_every_leader_leaves_no_waiter() -> None:
    flights, gate = SingleFlight(LONG), Gate(*[SystemExit() for _ in range(30)])
    futures = lead_and_follow(flights, gate, 29)
    gate.passed.release(30)
    assert {type(future.exception(60)) for future in futures} == {SystemExit}
    assert gate.calls == 30
    assert idle(flights)


def test_a_wait_is_limited_and_ends_in_a_call_of_ones_own() -> None:
    flights, gate = SingleFlight(0.02), Gate("late")
    leader = start(lambda: flights.run(KEY, gate))
    assert gate.started.acquire(timeout=WAIT_SECONDS)
    assert flights.run(KEY, lambda flight: "own") == ("own", False)
    gate.passed.release()
    assert leader.result(WAIT_SECONDS) == ("late", False)
    assert idle(flights)


def test_an_abandoned_flight_blocks_no_later_caller() -> None:
    flights, stuck, slow = SingleFlight(0.3), Gate("late"), Gate("own")
    first = start(lambda: flights.run(KEY, stuck))
    assert stuck.started.acquire(timeout=WAIT_SECONDS)
    second = start(lambda: flights.run(KEY, slow))
    assert slow.started.acquire(timeout=WAIT_SECONDS)  # after its wait
    third = start(lambda: flights.run(KEY, slow))
    until(lambda: waiting(flights) == 1)
    slow.passed.release()
    assert second.result(WAIT_SECONDS) == ("own", False)
    assert third.result(WAIT_SECONDS) == ("own", True)
    stuck.passed.release()
    assert first.result(WAIT_SECONDS) == ("late", False)
    assert idle(flights)


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan])
def test_a_wait_must_be_a_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="wait_seconds"):
        SingleFlight(seconds)


def test_a_wait_may_be_endless() -> None:
    flights, gate = SingleFlight(math.inf), Gate(1)
    futures = lead_and_follow(flights, gate, 1)
    gate.passed.release()
    assert futures[1].result(WAIT_SECONDS) == (1, True)


def test_work_calling_its_own_key_does_not_wait() -> None:
    flights = SingleFlight(LONG)

    def work(flight: Flight) -> Any:
        return "outer", flights.run(KEY, lambda inner: ("inner", inner.commit(lambda: "stored")))

    assert flights.run(KEY, work) == (("outer", (("inner", "stored"), False)), False)
    assert idle(flights)


def test_a_nested_call_for_the_same_key_does_not_wait() -> None:
    flights = SingleFlight(LONG)
    assert flights.run(
        "a", lambda _: flights.run("b", lambda _: flights.run("a", lambda _: 1))
    ) == (((1, False), False), False)


def test_the_same_key_in_another_table_is_another_flight() -> None:
    one, two = SingleFlight(LONG), SingleFlight(LONG)
    seen = []
    one.run(KEY, lambda _: two.run(KEY, lambda _: seen.append(list(two._table._listed))))
    assert seen == [[KEY]]


def test_tasks_left_by_the_work_wait_like_others() -> None:
    flights, gate = SingleFlight(LONG), Gate("second")
    context = flights.run(KEY, lambda flight: contextvars.copy_context())[0]
    leader = start(lambda: flights.run(KEY, gate))
    assert gate.started.acquire(timeout=WAIT_SECONDS)
    follower = start(lambda: context.run(flights.run, KEY, gate))
    until(lambda: waiting(flights) == 1)
    gate.passed.release()
    assert leader.result(WAIT_SECONDS) == ("second", False)
    assert follower.result(WAIT_SECONDS) == ("second", True)


class Call:
    """Stands for the frame of a call."""


def test_a_leader_that_is_gone_without_a_word_is_replaced() -> None:
    """An interrupt can end a thread at any place."""
    flights, call = SingleFlight(LONG), Call()
    gone = flights._table.new(KEY)
    gone.led_by = weakref.ref(call)
    assert flights._table.join(gone, ThreadWaiter) is None
    # a time limit that is not over raises no TimeoutError
    follower = start(lambda: flights.run(KEY, lambda _: "mine", timeout=WAIT_SECONDS))
    until(lambda: waiting(flights) == 1)
    del call
    assert follower.result(WAIT_SECONDS) == ("mine", False)
    assert idle(flights)


def test_a_caller_finds_no_flight_whose_leader_is_gone() -> None:
    flights, call = SingleFlight(LONG), Call()
    gone = flights._table.new(KEY)
    gone.led_by = weakref.ref(call)
    assert flights._table.join(gone, ThreadWaiter) is None
    del call
    assert flights.run(KEY, lambda _: "mine", timeout=0.0) == ("mine", False)
    assert idle(flights)


def test_an_interrupt_after_a_wait_that_was_too_long_leaves_nothing() -> None:
    flights, gate = SingleFlight(0.0), Gate("late")
    leader = start(lambda: flights.run(KEY, gate))
    assert gate.started.acquire(timeout=WAIT_SECONDS)

    late = flights._table._listed[KEY]

    def interrupted(flight: Flight) -> Any:
        assert not late.waiters  # or it could be chosen to lead that too
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flights.run(KEY, interrupted)
    assert idle(flights)
    gate.passed.release()
    assert leader.result(WAIT_SECONDS) == ("late", False)


# -- forget


def test_commit_runs_the_store_and_returns_its_result() -> None:
    flights = SingleFlight(LONG)
    assert flights.run(KEY, lambda flight: flight.commit(lambda: ["evicted"])) == (
        ["evicted"],
        False,
    )


@pytest.mark.parametrize("forgotten", [KEY, None])
def test_a_forgotten_flight_returns_its_answer_and_does_not_store(forgotten: str | None) -> None:
    flights, stored = SingleFlight(LONG), []

    def work(flight: Flight) -> Any:
        flights.forget(forgotten)
        return flight.commit(lambda: stored.append(1)), "answer"

    assert flights.run(KEY, work) == ((None, "answer"), False)
    assert stored == []


def test_forgetting_one_key_leaves_the_others() -> None:
    flights = SingleFlight(LONG)

    def work(flight: Flight) -> Any:
        flights.forget("other")
        return flight.commit(lambda: "stored")

    assert flights.run(KEY, work) == ("stored", False)


def test_a_call_after_forget_starts_a_new_flight() -> None:
    flights, gate = SingleFlight(LONG), Gate("old")
    futures = lead_and_follow(flights, gate, 3)
    flights.forget(KEY)
    assert flights.run(KEY, lambda flight: flight.commit(lambda: "new")) == ("new", False)
    gate.passed.release()
    assert [future.result(WAIT_SECONDS) for future in futures] == [("old", False)] + [
        ("old", True)
    ] * 3
    assert idle(flights)


def test_forget_waits_for_a_store_under_way() -> None:
    flights, gate, log = SingleFlight(LONG), Gate(None), []

    def store() -> None:
        gate(None)  # type: ignore[arg-type]
        log.append("stored")

    leader = start(lambda: flights.run(KEY, lambda flight: flight.commit(store)))
    assert gate.started.acquire(timeout=WAIT_SECONDS)
    forgetting = start(lambda: (flights.forget(KEY), log.append("forgotten")))
    until(lambda: KEY not in flights._table._listed)
    gate.passed.release()
    forgetting.result(WAIT_SECONDS)
    leader.result(WAIT_SECONDS)
    assert log == ["stored", "forgotten"]


def test_a_store_may_forget() -> None:
    flights = SingleFlight(LONG)
    assert flights.run(
        KEY, lambda flight: (flight.commit(flights.forget), flight.commit(lambda: 1))
    ) == ((None, None), False)


def test_forget_reaches_a_flight_that_others_have_given_up() -> None:
    flights, stored = SingleFlight(0.0), []
    gate = Gate(None)

    def work(flight: Flight) -> None:
        gate(flight)
        flight.commit(lambda: stored.append(1))

    leader = start(lambda: flights.run(KEY, work))
    assert gate.started.acquire(timeout=WAIT_SECONDS)
    flights.run(KEY, lambda flight: None)
    flights.forget(KEY)
    gate.passed.release()
    leader.result(WAIT_SECONDS)
    assert stored == []


def test_forget_reaches_a_flight_whose_work_stores_after_it_returned() -> None:
    flights = SingleFlight(LONG)
    flight, _ = flights.run(KEY, lambda flight: flight)
    flights.forget(KEY)
    assert flight.commit(lambda: 1) is None


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns every 10 microseconds, not every 5 milliseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hurried")
def test_forgetting_wins_every_race_with_storing() -> None:
    seed = random.randrange(2**32)
    print(f"{seed=}")
    pauses = random.Random(seed)
    flights, store, stored = SingleFlight(LONG), {}, []
    race, over = (
        threading.Barrier(2, timeout=WAIT_SECONDS),
        threading.Barrier(2, timeout=WAIT_SECONDS),
    )

    def put() -> bool:
        store[KEY] = "old"
        return True

    def work(flight: Flight) -> None:
        race.wait()
        spin(mine)
        stored.append(flight.commit(put))

    def lead() -> None:
        for _ in range(1000):
            flights.run(KEY, work)
            over.wait()

    def spin(times: int) -> None:
        for _ in range(times):
            pass

    mine, resurrected = 0, 0
    leader = start(lead)
    for i in range(1000):
        mine, other = pauses.randrange(2000), pauses.randrange(2000)
        race.wait()
        spin(other)
        flights.forget(KEY if i % 2 else None)
        store.pop(KEY, None)
        over.wait()
        resurrected += KEY in store
    leader.result(WAIT_SECONDS)
    assert (len(stored), resurrected) == (1000, 0)
    print(f"stored before it was forgotten: {stored.count(True)} of 1000")


# -- fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_wait_for_the_flights_of_its_parent() -> None:
    flights, gate = SingleFlight(LONG), Gate("parent")
    committing = Gate("stored")
    storing = start(
        lambda: flights.run("storing", lambda flight: flight.commit(lambda: committing(flight)))
    )
    assert committing.started.acquire(timeout=WAIT_SECONDS)
    futures = lead_and_follow(flights, gate, 2)
    for hold in (False, True) * 25:
        assert _forked(flights, hold=hold) == 0
    gate.passed.release()
    assert [future.result(WAIT_SECONDS) for future in futures] == [
        ("parent", False),
        ("parent", True),
        ("parent", True),
    ]
    committing.passed.release()
    assert storing.result(WAIT_SECONDS) == ("stored", False)
    assert idle(flights)


def die_in_a_minute() -> None:
    """For a child that may hang. The default action, for the handler that pytest-timeout has set
    may hang with it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)


def _forked(flights: SingleFlight, *, hold: bool) -> int:
    """The exit code of a child that calls, forgets and calls again; *hold*: another thread has the
    table's lock while we fork."""
    holding, release = threading.Event(), threading.Event()

    def hold_lock() -> None:
        with flights._table._lock:
            holding.set()
            release.wait(60)

    holder = start(hold_lock) if hold else None
    assert not hold or holding.wait(60)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python 3.12 warns of threads that are not copied: the point here
        pid = os.fork()
    if pid == 0:
        die_in_a_minute()
        code = 1
        try:
            first = flights.run(KEY, lambda flight: flight.commit(lambda: "child"))
            flights.forget()
            second = flights.run("storing", lambda flight: flight.commit(lambda: "child"))
            code = 0 if first == second == ("child", False) else 2
        finally:
            os._exit(code)
    release.set()
    if holder is not None:
        holder.result(WAIT_SECONDS)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_work_that_forks_goes_on_in_both_processes() -> None:
    flights = SingleFlight(LONG)

    def work(flight: Flight) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = flight.commit(os.fork)
        if pid == 0:
            die_in_a_minute()
        assert pid is not None
        return pid

    pid, coalesced = flights.run(KEY, work)
    if pid == 0:
        os._exit(
            0
            if idle(flights) and flights.run(KEY, lambda flight: 1) == (1, False) and not coalesced
            else 1
        )
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert idle(flights)


# -- Errors


class Failure(Exception):
    pass


def fail(flight: Flight) -> None:
    raise Failure("no")


def length(trace: TracebackType | None) -> int:
    return 0 if trace is None else 1 + length(trace.tb_next)


def test_a_followers_traceback_shows_only_the_leader() -> None:
    flights, gate = SingleFlight(LONG), Gate(None)

    def work(flight: Flight) -> None:
        gate(flight)
        fail(flight)

    leader = start(lambda: flights.run(KEY, work))
    assert gate.started.acquire(timeout=WAIT_SECONDS)
    followers = [start(lambda: flights.run(KEY, work)) for _ in range(100)]
    until(lambda: waiting(flights) == 100)
    gate.passed.release()
    original = leader.exception(60)
    errors = [follower.exception(60) for follower in followers]
    assert original is not None
    for error in errors:
        assert isinstance(error, Failure)
        assert "in fail" in "".join(traceback.format_exception(error))
        assert length(error.__traceback__) <= length(original.__traceback__) + 3


def test_an_error_is_freed_with_its_last_handler() -> None:
    flights, gate = SingleFlight(LONG), Gate(None)

    def work(flight: Flight) -> None:
        gate(flight)
        raise Failure

    def caught() -> "weakref.ref[BaseException]":
        try:
            flights.run(KEY, work)
        except Failure as exc:
            return weakref.ref(exc)
        raise AssertionError

    gc.collect(1)
    gc.disable()  # nothing may be in a cycle that waits for the collector
    try:
        leader = start(caught)
        assert gate.started.acquire(timeout=WAIT_SECONDS)
        followers = [start(caught) for _ in range(3)]
        until(lambda: waiting(flights) == 3)
        gate.passed.release()
        for future in (leader, *followers):
            ref = future.result(WAIT_SECONDS)
            until(lambda ref=ref: ref() is None)
    finally:
        gc.enable()


@pytest.mark.parametrize("told", [True, False], ids=["told", "promoted"])
def test_follower_that_an_interrupted_leader_did_not_wake_goes_on(told: bool) -> None:
    table = FlightTable()
    flight = table.new("k")
    waiter = table.add_waiter(flight, flight, ThreadWaiter)
    waiter.told, waiter.leads = told, not told
    assert not SingleFlight._wait(waiter, 60)
