"""Probes of many callers at once: how many calls one missing answer costs, and who dies with
whom."""

import asyncio
import os
import signal
import threading
import time
from typing import Any

from benchmarks.probes.contestant import Bench, Cannot, Peer
from benchmarks.probes.keys import request, text_of
from benchmarks.probes.provider import ProviderError, Reply
from benchmarks.probes.registry import probe

__all__: list[str] = []

GROUP = "Many at once"
CALLERS = 12
GRACE = 1.5  # how long all callers have to come, once the first is at the provider


def _async(bench: Bench) -> Any:
    """The contestant; Cannot if it has no asyncio form."""
    if getattr(bench.contestant, "aask", None) is Peer.aask:
        raise Cannot("has no asyncio form")
    return bench.open()


def _held(bench: Bench, *, first_fails: bool = False) -> threading.Event:
    """The provider answers when the event is set."""
    hold = threading.Event()
    bench.provider.script = lambda number, body: (
        Reply((), status=500, hold=hold)
        if first_fails and number == 1
        else Reply((f"answer {number}",), hold=hold)
    )
    return hold


def _release(bench: Bench, hold: threading.Event, count: int) -> None:
    bench.provider.wait_for(1, 10)
    bench.provider.wait_for(count, GRACE)
    hold.set()


def _one_call(bench: Bench, results: list[Any]) -> str | None:
    """Wrong if a caller has no answer, or if there was more than one call."""
    if bad := [result for result in results if result is None or isinstance(result, BaseException)]:
        return f"{len(bad)} of {len(results)} callers got {type(bad[0]).__name__}"
    made = bench.provider.calls
    return None if made == 1 else f"{made} calls for {len(results)} identical requests"


def _in_threads(bench: Bench, peer: Any, count: int, hold: threading.Event) -> list[Any]:
    results: list[Any] = [None] * count

    def ask(index: int) -> None:
        try:
            results[index] = text_of(peer, request())
        except BaseException as exc:  # noqa: BLE001 - the result of this caller
            results[index] = exc

    threads = [threading.Thread(target=ask, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    _release(bench, hold, count)
    deadline = time.monotonic() + 20
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    for result in results:
        if isinstance(result, Cannot):
            raise result
    return results


@probe(
    GROUP,
    "identical calls of many threads are one call",
    "LangChain, LiteLLM, DSPy; peers, finding 1",
)
def thread_stampede(bench: Bench) -> str | None:
    hold, peer = _held(bench), bench.open()
    return _one_call(bench, _in_threads(bench, peer, CALLERS, hold))


@probe(
    GROUP,
    "identical calls of many tasks are one call",
    "LangChain, LiteLLM, inspect_ai; peers, finding 1",
)
def task_stampede(bench: Bench) -> str | None:
    hold, peer = _held(bench), _async(bench)

    async def main() -> list[Any]:
        tasks = [asyncio.ensure_future(peer.aask(**request())) for _ in range(CALLERS)]
        release = threading.Thread(
            target=_release, args=(bench, hold, CALLERS)
        )  # the loop's own threads may be the contestant's
        release.start()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        release.join()
        return results

    return _one_call(bench, bench.run(main()))


@probe(
    GROUP,
    "cancelling the first caller takes nobody else down",
    "demystify-platform-cache; peers, finding 1; reliability 3c",
)
def cancelled_leader(bench: Bench) -> str | None:
    hold, peer = _held(bench), _async(bench)

    async def main() -> list[Any]:
        leader = asyncio.ensure_future(peer.aask(**request()))
        await asyncio.to_thread(bench.provider.wait_for, 1, 20)
        followers = [asyncio.ensure_future(peer.aask(**request())) for _ in range(4)]
        await asyncio.sleep(0.3)
        leader.cancel()
        hold.set()
        _, waiting = await asyncio.wait(followers, timeout=15)
        for task in waiting:
            task.cancel()
        return [TimeoutError() if task in waiting else _outcome(task) for task in followers]

    results = bench.run(main())
    bad = [result for result in results if isinstance(result, BaseException)]
    return f"{len(bad)} of 4 followers got {type(bad[0]).__name__}" if bad else None


def _outcome(task: "asyncio.Task[Any]") -> Any:
    return asyncio.CancelledError() if task.cancelled() else task.exception() or task.result()


@probe(
    GROUP,
    "cancelling one who waits takes nobody else down",
    "await of a shared future; reliability 3c",
)
def cancelled_follower(bench: Bench) -> str | None:
    hold, peer = _held(bench), _async(bench)

    async def main() -> list[Any]:
        others = [asyncio.ensure_future(peer.aask(**request())) for _ in range(4)]
        await asyncio.to_thread(bench.provider.wait_for, 1, 20)
        await asyncio.sleep(0.3)
        others[2].cancel()
        await asyncio.sleep(0.1)
        hold.set()
        rest = [task for index, task in enumerate(others) if index != 2]
        _, waiting = await asyncio.wait(rest, timeout=15)
        for task in waiting:
            task.cancel()
        return [TimeoutError() if task in waiting else _outcome(task) for task in rest]

    bad = [result for result in bench.run(main()) if isinstance(result, BaseException)]
    return f"{len(bad)} of 3 others got {type(bad[0]).__name__}" if bad else None


@probe(
    GROUP,
    "when the first caller's call fails nobody hangs, and the next gets an answer",
    "reliability 3c; golang #41133",
)
def failing_leader(bench: Bench) -> str | None:
    hold, peer = _held(bench, first_fails=True), bench.open()
    results = _in_threads(bench, peer, 4, hold)
    hung = sum(result is None for result in results)
    if hung:
        return f"{hung} of 4 callers still wait after 20 s"
    try:
        text_of(peer, request())
    except Exception as exc:  # noqa: BLE001
        return f"the next caller gets {type(exc).__name__}"
    return None


@probe(
    GROUP,
    "a caller that exits in its call leaves nobody waiting",
    "single-flight with except Exception; reliability 3c",
)
def exiting_leader(bench: Bench) -> str | None:
    """SystemExit, as of a thread that is stopped, passes through the cache of a function."""
    peer = bench.open()
    wrapped = getattr(peer, "exiting", None)
    if wrapped is None:
        raise Cannot("calls the provider by itself: nothing can exit in it")
    hold = _held(bench)
    wrapped()
    results = _in_threads(bench, peer, 4, hold)
    hung = sum(result is None for result in results)
    if hung:
        return f"{hung} of 4 callers still wait after 20 s"
    bad = [result for result in results if isinstance(result, Exception)]
    exits = sum(isinstance(result, SystemExit) for result in results)
    if exits > 1:
        return f"{exits} of 4 callers exited with it"
    return f"{len(bad)} of 4 callers got {type(bad[0]).__name__}" if bad else None


def _in_child(bench: Bench, peer: Any, asked: list[dict[str, Any]], seconds: float) -> str | None:
    """Ask in a forked child; what went wrong."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of fork beside threads, which is what is tried
        child = os.fork()
    if child == 0:
        code = 1
        try:
            for each in asked:
                text_of(peer, each)
            code = 0
        except BaseException:  # noqa: BLE001 - the status says it
            code = 3
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return None if status == 0 else "the child's call fails"
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"the child still waits after {seconds:g} s"


@probe(
    GROUP, "a forked child can use it, and so can its parent then", "diskcache #325; reliability 3b"
)
def fork(bench: Bench) -> str | None:
    if bench.contestant.looped:
        raise Cannot("is for one event loop, and those do not outlive a fork")
    peer = bench.open()
    first = text_of(peer, request())
    wrong = _in_child(bench, peer, [request(), request(seed=1)], 20)
    if wrong:
        return wrong
    if text_of(peer, request()) != first:
        return "the parent has lost its answer"
    text_of(peer, request(seed=2))
    return None


@probe(
    GROUP,
    "a child forked while a call is under way does not wait for it",
    "locks and futures held at fork; reliability 3b",
)
def fork_in_flight(bench: Bench) -> str | None:
    hold = threading.Event()
    bench.provider.script = lambda number, body: Reply(
        (f"answer {number}",), hold=hold if number == 1 else None
    )
    peer = bench.open()
    failed: list[BaseException] = []

    def lead() -> None:
        try:
            peer.ask(**request())
        except (ProviderError, Exception) as exc:  # noqa: BLE001 - looked at below
            failed.append(exc)

    leader = threading.Thread(target=lead, daemon=True)
    leader.start()
    try:
        if not bench.provider.wait_for(1, 30):
            raise Cannot("its first call never arrived") from (failed or [None])[0]
        return _in_child(bench, peer, [request()], 15)
    finally:
        hold.set()
        leader.join(20)
