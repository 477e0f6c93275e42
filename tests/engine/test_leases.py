"""coalesce="fleet": of the caches that share a store, in one process or many, one calls; and nobody
waits in vain."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from stores.processes import fork, in_child, outcome
from threads import start, until

import llm_cache_mem
from llm_cache_mem import LLMCache, StoreError, options
from llm_cache_mem.engine import leases
from llm_cache_mem.stores.sqlite import SQLiteStore

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "model": "m"}
GOOD = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}
CUT_OFF = {"choices": [{"message": {"content": "ye"}, "finish_reason": "length"}]}
MakeCache = Callable[..., LLMCache]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
def join(path: Path) -> Iterator[MakeCache]:
    """``join()``: one more cache of the leases."""
    made: list[LLMCache] = []

    def join(**more: Any) -> LLMCache:
        made.append(LLMCache(**({"backend": path, "coalesce": "fleet"} | more)))
        return made[-1]

    yield join
    for cache in made:
        if cache.engine.sharing.leases is not None:
            cache.engine.sharing.leases.finish()  # its thread: until it would renews the lease that is over
        cache.close()


@pytest.fixture(autouse=True)
def long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who goes on at all goes on at once, and not because a lease ended."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 600.0)


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch, long_leases: None) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.6)


class Model:
    """Counts its calls; each waits to be let through, and then answers or raises what *outcomes*
    say in lease."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = outcomes or (GOOD,)
        self.calls = 0
        self.passed = threading.Semaphore(0)

    def _outcome(self) -> Any:
        outcome = self.outcomes[min(self.calls, len(self.outcomes)) - 1]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def __call__(self, messages: Any, model: str) -> Any:
        self.calls += 1
        assert self.passed.acquire(timeout=60)
        return self._outcome()

    async def acall(self, messages: Any, model: str) -> Any:
        self.calls += 1
        while not self.passed.acquire(blocking=False):
            await asyncio.sleep(0.001)
        return self._outcome()


def ask(cache: LLMCache, model: Model) -> "Future[Any]":
    return start(lambda: cache.get_or_call(REQUEST["messages"], model, model="m"))


def polls(cache: LLMCache) -> Callable[[], int]:
    """How often *cache* has looked into its store."""
    store = cache.engine.backend.inner
    real, count = store.get, [0]

    def get(key: str) -> Any:
        count[0] += 1
        return real(key)

    store.get = get  # type: ignore[method-assign]
    cache.engine.reader._get = cache.engine.backend.get
    return lambda: count[0]


def holds_a_lease(cache: LLMCache) -> bool:
    assert cache.engine.sharing.leases is not None
    return cache.engine.sharing.leases.holds(
        cache.engine.keyer.request(REQUEST["messages"], {"model": "m"}).key
    )


# -- One call


def test_two_caches_on_one_store_make_one_call(join: MakeCache) -> None:
    one, other, model = join(), join(), Model()
    first = ask(one, model)
    until(lambda: model.calls == 1)
    looked = polls(other)
    second = [ask(other, model) for _ in range(5)]
    until(lambda: looked() > 8)
    assert not any(future.done() for future in second)
    model.passed.release()
    assert first.result(60) == GOOD
    assert [future.result(60) for future in second] == [GOOD] * 5
    assert model.calls == 1
    assert one.stats().coalesced == 0
    assert other.stats().coalesced == 5
    assert other.stats().stored == 0


def test_without_fleet_they_make_two(join: MakeCache) -> None:
    one, other, model = join(coalesce=True), join(coalesce=True), Model()
    futures = [ask(one, model), ask(other, model)]
    until(lambda: model.calls == 2)
    model.passed.release(2)
    assert [future.result(60) for future in futures] == [GOOD, GOOD]


async def test_tasks_of_two_caches_make_one_call_and_never_block_the_loop(join: MakeCache) -> None:
    one, other, model = join(), join(), Model()
    looked, looked_too = polls(one), polls(other)
    with blockbuster_ctx("llm_cache_mem"):
        tasks = [
            asyncio.create_task(cache.aget_or_call(REQUEST["messages"], model.acall, model="m"))
            for cache in (one, other) * 10
        ]
        async with asyncio.timeout(60):
            while (
                looked() + looked_too() < 26
            ):  # each has looked once, and one of them again and again
                await asyncio.sleep(0.001)
        assert model.calls == 1
        model.passed.release()
        assert await asyncio.gather(*tasks) == [GOOD] * 20
    assert model.calls == 1
    assert one.stats().coalesced + other.stats().coalesced == 19


async def test_a_task_and_a_thread_make_one_call(join: MakeCache) -> None:
    one, other, model = join(), join(), Model()
    first = ask(one, model)
    until(lambda: model.calls == 1)
    task = asyncio.create_task(other.aget_or_call(REQUEST["messages"], model.acall, model="m"))
    await asyncio.sleep(0.1)
    model.passed.release()
    assert await task == first.result(60) == GOOD
    assert model.calls == 1


def test_processes_make_one_call(join: MakeCache, tmp_path: Path) -> None:
    cache, log = join(), tmp_path / "calls"

    def model(messages: Any, model: str) -> Any:
        with open(log, "a") as file:
            file.write("x")
        time.sleep(0.3)  # long enough for the others to come
        return GOOD

    children = [
        fork(lambda: cache.get_or_call(REQUEST["messages"], model, model="m")) for _ in range(6)
    ]
    assert [outcome(*child, timeout=60) for child in children] == [GOOD] * 6
    assert log.read_text() == "x"


def test_decorated_functions_share_their_calls_too(join: MakeCache) -> None:
    begun, go = SimpleQueue[str](), threading.Event()  # no numbers, which would be part of the key

    def answer(question: str) -> str:
        begun.put(question)
        assert go.wait(60)
        return question.upper()

    one, other = join().cached(answer), join().cached(answer)
    futures = [start(lambda: one("a")), start(lambda: other("a")), start(lambda: other("b"))]
    until(lambda: begun.qsize() == 2)
    go.set()
    assert [future.result(60) for future in futures] == ["A", "A", "B"]
    assert begun.qsize() == 2


def test_a_wrapped_langchain_model_shares_its_calls(join: MakeCache) -> None:
    from langchain_core.language_models import FakeListLLM
    from langchain_llm_cache_mem import cached

    calls, go = [0], threading.Event()

    class Slow(FakeListLLM):
        def _call(self, *args: Any, **kwargs: Any) -> str:
            calls[0] += 1
            assert go.wait(60)
            return "yes"

    models = [cached(Slow(responses=["yes"]), join()) for _ in range(2)]
    futures = [start(lambda model=model: model.invoke("hello")) for model in models]
    until(lambda: calls[0] == 1)
    go.set()
    assert [future.result(60) for future in futures] == ["yes", "yes"]
    assert calls == [1]


def test_a_hit_asks_for_no_lease_and_a_refresh_neither(join: MakeCache, path: Path) -> None:
    cache = join()
    cache.put(REQUEST["messages"], GOOD, model="m")
    asked: list[str] = []
    store = cache.engine.backend
    real = store.lease
    store.lease = lambda key, token, seconds: asked.append(key) or real(key, token, seconds)  # type: ignore[method-assign,func-returns-value]
    free = Model()
    free.passed.release(3)
    assert cache.get_or_call(REQUEST["messages"], free, model="m") == GOOD
    with options(mode="refresh"):
        cache.get_or_call(REQUEST["messages"], free, model="m")
    with options(mode="off"):
        cache.get_or_call(REQUEST["messages"], free, model="m")
    assert asked == []
    assert free.calls == 2


# -- A call that gives nothing to share


def test_when_the_leader_fails_the_next_one_tries(join: MakeCache) -> None:
    one, other, model = join(), join(), Model(ValueError("no"), GOOD)
    first = ask(one, model)
    until(lambda: model.calls == 1)
    second = ask(other, model)
    model.passed.release()
    with pytest.raises(ValueError, match="no"):
        first.result(60)
    until(lambda: model.calls == 2)
    model.passed.release()
    assert second.result(60) == GOOD


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupted_leader_lets_go_at_once(join: MakeCache, error: BaseException) -> None:
    one, other, model = join(), join(), Model(error, GOOD)
    first = ask(one, model)
    until(lambda: model.calls == 1)
    second = ask(other, model)
    model.passed.release(2)
    assert isinstance(first.exception(60), type(error))
    assert second.result(60) == GOOD


def test_when_an_answer_is_not_admitted_the_next_one_calls(join: MakeCache) -> None:
    one, other, model = join(), join(), Model(CUT_OFF, GOOD)
    first = ask(one, model)
    until(lambda: model.calls == 1)
    second = ask(other, model)
    model.passed.release(2)
    assert first.result(60) == CUT_OFF
    assert second.result(60) == GOOD
    assert model.calls == 2


async def test_a_cancelled_leader_lets_go_at_once(join: MakeCache) -> None:
    one, other, model = join(), join(), Model()
    first = asyncio.create_task(one.aget_or_call(REQUEST["messages"], model.acall, model="m"))
    async with asyncio.timeout(60):
        while model.calls == 0:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(
            other.aget_or_call(REQUEST["messages"], model.acall, model="m")
        )
        await asyncio.sleep(0.05)
        first.cancel()
        while model.calls == 1:
            await asyncio.sleep(0.001)
        model.passed.release()
        assert await second == GOOD


async def test_cancelling_a_follower_affects_no_other_caller(join: MakeCache) -> None:
    one, other, model = join(), join(), Model()
    first = ask(one, model)
    until(lambda: model.calls == 1)
    second = asyncio.create_task(other.aget_or_call(REQUEST["messages"], model.acall, model="m"))
    await asyncio.sleep(0.05)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    model.passed.release()
    assert first.result(60) == GOOD
    assert model.calls == 1
    assert other.get(REQUEST["messages"], model="m") == GOOD


# -- Death, delay, and the end of patience


def test_a_killed_leader_is_noticed_in_seconds(join: MakeCache, short_leases: None) -> None:
    cache, model = join(), Model()
    reader, writer = os.pipe()

    def hang(messages: Any, model: str) -> Any:
        os.write(writer, b"x")
        time.sleep(600)

    pid, report = fork(lambda: cache.get_or_call(REQUEST["messages"], hang, model="m"))
    os.read(reader, 1)
    future = ask(cache, model)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(report)
    until(lambda: model.calls == 1)
    model.passed.release()
    assert future.result(60) == GOOD
    os.close(reader)
    os.close(writer)


def test_a_slow_leader_keeps_its_lease(
    join: MakeCache, path: Path, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.3)
    stores = [
        SQLiteStore(path, clock=clock) for _ in range(2)
    ]  # their time stands still while the thread is late
    one, other = (join(backend=store) for store in stores)
    model = Model()
    prolonged, real = SimpleQueue[bool](), stores[0].lease

    def lease(key: str, token: str, seconds: float) -> bool:
        prolonged.put(real(key, token, seconds))
        return True

    stores[0].lease = lease  # type: ignore[method-assign]
    first = ask(one, model)
    until(lambda: model.calls == 1)
    second = ask(other, model)
    for _ in range(6):
        clock.advance(0.2)
        assert prolonged.get(timeout=60)
        assert prolonged.get(timeout=60)  # begun after the clock went on
        assert model.calls == 1
    model.passed.release()
    assert (first.result(60), second.result(60)) == (GOOD, GOOD)
    assert model.calls == 1
    for store in stores:
        store.close()


def test_a_leader_whose_event_loop_stopped_loses_its_lease(
    join: MakeCache, short_leases: None
) -> None:
    one, other, model = join(), join(), Model()
    loop = asyncio.new_event_loop()
    task = loop.create_task(one.aget_or_call(REQUEST["messages"], model.acall, model="m"))

    async def begun() -> None:
        while model.calls == 0:
            await asyncio.sleep(0.001)

    loop.run_until_complete(begun())
    second = ask(other, model)
    until(lambda: model.calls == 2)
    model.passed.release(2)
    assert second.result(60) == GOOD
    assert loop.run_until_complete(task) == GOOD
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_no_caller_waits_past_its_timeout(join: MakeCache) -> None:
    one, other, model = join(), join(wait_seconds=0.3), Model()
    first = ask(one, model)
    until(lambda: model.calls == 1)
    began = time.monotonic()
    second = ask(other, model)
    until(lambda: model.calls == 2)
    assert time.monotonic() - began > 0.25
    model.passed.release(2)
    assert (first.result(60), second.result(60)) == (GOOD, GOOD)


def test_patience_covers_the_wait_here_and_the_wait_elsewhere(join: MakeCache) -> None:
    """Who waited for a caller of this process, which waited for another process, does not begin
    anew."""
    one, other, model = join(), join(wait_seconds=0.5), Model()
    first = ask(one, model)
    until(lambda: model.calls == 1)
    rest = [ask(other, model) for _ in range(4)]
    until(lambda: model.calls >= 2)
    model.passed.release(10)
    assert [future.result(60) for future in (first, *rest)] == [GOOD] * 5


def test_work_that_asks_for_its_own_request_does_not_wait_for_itself(join: MakeCache) -> None:
    one, other = join(wait_seconds=600), join(wait_seconds=600)

    def outer(messages: Any, model: str) -> Any:
        return other.get_or_call(messages, inner, model=model)

    def inner(messages: Any, model: str) -> Any:
        return one.get_or_call(messages, lambda messages, model: GOOD, model=model)

    began = time.monotonic()
    assert one.get_or_call(REQUEST["messages"], outer, model="m") == GOOD
    assert time.monotonic() - began < 60


def test_a_lease_that_is_lost_costs_a_call_and_nothing_else(join: MakeCache) -> None:
    one, other, model = join(), join(), Model()
    first = ask(one, model)
    until(lambda: model.calls == 1)
    assert one.engine.sharing.leases is not None
    (lease,) = one.engine.sharing.leases._held.values()
    one.engine.backend.release(lease.key, lease.token)
    second = ask(other, model)
    until(lambda: model.calls == 2)
    one.engine.sharing.leases._renew()
    assert not one.engine.sharing.leases.holds(lease.key)
    del lease
    model.passed.release(2)
    assert (first.result(60), second.result(60)) == (GOOD, GOOD)


# -- What is deleted


def test_a_delete_starts_a_new_call_and_discards_the_older(
    join: MakeCache,
) -> None:
    cache, old, new = join(), Model("old"), Model("new")
    first = ask(cache, old)
    until(lambda: old.calls == 1)
    cache.delete(REQUEST["messages"], model="m")
    second = ask(cache, new)
    until(lambda: new.calls == 1)
    new.passed.release()
    assert second.result(60) == "new"
    old.passed.release()
    assert first.result(60) == "old"
    assert cache.get(REQUEST["messages"], model="m") == "new"


# -- A store that fails


class Failing(SQLiteStore):
    """A store whose leases fail as long as *broken*."""

    broken = True

    def lease(self, key: str, token: str, seconds: float) -> bool:
        if self.broken:
            raise StoreError("Failing", "lease", "it is broken")
        return super().lease(key, token, seconds)


def test_calls_proceed_when_the_store_cannot_lease(path: Path, join: MakeCache) -> None:
    store = Failing(path)
    cache, other, model = join(backend=store), join(backend=Failing(path)), Model()
    futures = [ask(cache, model), ask(other, model)]
    until(lambda: model.calls == 2)
    model.passed.release(2)
    assert [future.result(60) for future in futures] == [GOOD, GOOD]
    assert cache.stats().errors
    store.close()


def test_one_failure_is_no_reason_to_call(path: Path, join: MakeCache) -> None:
    one, model = join(), Model()
    store = Failing(path)
    other = join(backend=store)
    first = ask(one, model)
    until(lambda: model.calls == 1)
    real, failures = Failing.lease, [0]

    def lease(key: str, token: str, seconds: float) -> bool:
        failures[0] += 1
        store.broken = failures[0] == 1
        return real(store, key, token, seconds)

    store.lease = lease  # type: ignore[method-assign]
    second = ask(other, model)
    until(lambda: failures[0] >= 3)
    assert model.calls == 1
    model.passed.release()
    assert (first.result(60), second.result(60)) == (GOOD, GOOD)
    store.close()


def test_a_strict_cache_raises_when_it_cannot_lease(path: Path, join: MakeCache) -> None:
    store = Failing(path)
    cache, model = join(backend=store, strict=True), Model()
    with pytest.raises(StoreError, match="lease failed"):
        ask(cache, model).result(60)
    assert model.calls == 0
    store.close()


def test_memory_is_not_shared(join: MakeCache) -> None:
    cache = join(backend="memory")
    assert cache.engine.sharing.leases is None
    assert cache.get_or_call(REQUEST["messages"], lambda messages, model: GOOD, model="m") == GOOD


def test_a_store_that_cannot_lease_is_refused(join: MakeCache, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"coalesce=.fleet. needs a store .*; JsonlStore cannot"):
        join(backend=f"jsonl:///{tmp_path}/llm.jsonl")


@pytest.mark.parametrize("coalesce", ["Fleet", "", 2, None])
def test_anything_else_is_refused(join: MakeCache, coalesce: Any) -> None:
    with pytest.raises(ValueError, match="coalesce must be True, False or 'fleet', not"):
        join(coalesce=coalesce)


# -- Threads, forks, exits


def test_the_thread_lives_no_longer_than_the_leases(join: MakeCache, short_leases: None) -> None:
    cache, model = join(), Model()

    def keepers() -> int:
        return sum(thread.name == "llm-cache-mem leases" for thread in threading.enumerate())

    until(lambda: keepers() == 0)
    future = ask(cache, model)
    until(lambda: keepers() == 1)
    model.passed.release()
    future.result(60)
    until(lambda: keepers() == 0)


def test_a_lease_that_is_dropped_ends_by_itself(join: MakeCache, short_leases: None) -> None:
    one, other = join(), join()
    request = one.engine.request(REQUEST["messages"], {"model": "m"})
    lease = one.engine.sharing.lease(request)
    assert lease is not None
    assert lease.acquire(lambda: None) is None
    again = other.engine.sharing.lease(request)
    assert again is not None
    began = time.monotonic()
    del lease
    gc.collect()
    assert again.acquire(lambda: None) is None
    assert time.monotonic() - began < 60
    again.release()


@pytest.mark.parametrize("again", [False, True], ids=["once", "in the release too"])
def test_interrupted_request_for_a_lease_leaves_none(
    join: MakeCache, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """The store has given the lease, and the interrupt comes before the caller knows."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 6.0)  # its thread looks every two seconds
    one, other = join(), join()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("lease", "release") if again else ("lease",):
            real = getattr(one.engine.backend, name)

            def interrupted(*given: Any, real: Any = real) -> None:
                real(*given) if real.__name__ == "lease" else None
                raise KeyboardInterrupt

            patch.setattr(one.engine.backend, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            one.get_or_call("q", lambda messages, model: GOOD, model="m")
    one.get_or_call("another", lambda messages, model: GOOD, model="m")
    began = time.monotonic()
    assert other.get_or_call("q", lambda messages, model: GOOD, model="m") == GOOD
    assert time.monotonic() - began < 5  # less than the lease would last
    assert one.engine.sharing.leases is not None
    assert not one.engine.sharing.leases._asked


def test_a_forked_child_neither_has_nor_ends_its_parents_turn(join: MakeCache) -> None:
    cache, model = join(wait_seconds=0.5), Model()
    future = ask(cache, model)
    until(lambda: holds_a_lease(cache))
    assert cache.engine.sharing.leases is not None
    (lease,) = cache.engine.sharing.leases._held.values()

    def child() -> list[Any]:
        lease.release()
        taken = cache.engine.backend.lease(lease.key, "child", 600)
        began = time.monotonic()
        answer = cache.get_or_call(REQUEST["messages"], lambda messages, model: "child", model="m")
        return [taken, answer, time.monotonic() - began > 0.4]

    assert in_child(child) == [False, "child", True]
    assert holds_a_lease(cache)
    model.passed.release()
    assert future.result(60) == GOOD


PROGRAM = """
import asyncio, sys, threading, time, os
from llm_cache_mem import LLMCache
from llm_cache_mem.engine import leases
leases.LEASE_SECONDS = 600
cache = LLMCache(backend=sys.argv[1], coalesce="fleet")
def hang(messages, model):
    print("begun", flush=True)
    time.sleep(600)
async def ahang(messages, model):
    print("begun", flush=True)
    await asyncio.sleep(600)
"""
ENDINGS = {
    "a daemon thread in the middle of a call": (
        """
threading.Thread(target=lambda: cache.get_or_call("hello", hang, model="m"), daemon=True).start()
sys.stdin.read()
"""
    ),
    "asyncio.run cut short": (
        """
async def main():
    task = asyncio.create_task(cache.aget_or_call("hello", ahang, model="m"))
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""
    ),
    "Ctrl-C": (
        """
import signal
threading.Thread(target=lambda: (sys.stdin.read(), os.kill(os.getpid(), signal.SIGINT)), daemon=True).start()
cache.get_or_call("hello", hang, model="m")
"""
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_that_ends_lets_go_and_ends_at_once(
    path: Path, ending: str, join: MakeCache
) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(llm_cache_mem.__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-c", PROGRAM + ENDINGS[ending], str(path)]
    program = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "begun\n"
    model = Model()
    model.passed.release()
    future = start(lambda: join().get_or_call("hello", model, model="m"))
    _, errors = program.communicate("", timeout=60)
    assert future.result(60) == GOOD
    if ending != "Ctrl-C":
        assert errors == ""
