"""What a caller of a fleet sees while its Redis is paused, dead, full, read-only, slow or lying: an
answer, and soon."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from stores.control import PAUSE, Control
from stores.proxy import Proxy, late
from stores.servers import Server, running_redis, until

from llm_cache_mem import LLMCache
from llm_cache_mem.stores.redis import RedisStore

pytestmark = pytest.mark.usefixtures("usual_timeouts")

THREADS = 16
SECONDS = 2.5
Fault = Callable[[Server, Proxy, ExitStack], None]
Repair = Callable[[Server, Proxy], None]


def paused(server: Server, proxy: Proxy, stack: ExitStack) -> None:
    server.pause()
    stack.callback(server.resume)


def killed(server: Server, proxy: Proxy, stack: ExitStack) -> None:
    server.kill()
    stack.callback(server.start)


def full(server: Server, proxy: Proxy, stack: ExitStack) -> None:
    server.ask("CONFIG SET maxmemory 1")
    stack.callback(lambda: server.ask("CONFIG SET maxmemory 0"))


def read_only(server: Server, proxy: Proxy, stack: ExitStack) -> None:
    server.ask("REPLICAOF 127.0.0.1 1")
    server.ask("CONFIG SET replica-serve-stale-data yes")
    stack.callback(lambda: server.ask("REPLICAOF NO ONE"))


def slow(server: Server, proxy: Proxy, stack: ExitStack) -> None:
    proxy.rule = late(0.5)
    stack.callback(lambda: setattr(proxy, "rule", None))


def lying(server: Server, proxy: Proxy, stack: ExitStack) -> None:
    proxy.rule = lambda data, sender: b"$3\r\nyes\r\n:7\r\n+OK\r\n"
    stack.callback(lambda: setattr(proxy, "rule", None))


class Callers:
    """Threads that ask the same and other questions again and again, and note what each call took
    and gave."""

    def __init__(self, cache: LLMCache) -> None:
        self.cache = cache
        self.taken: list[float] = []
        self.wrong: list[Any] = []
        self.hit_at = 0.0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(number,)) for number in range(THREADS)
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)

    def _work(self, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            question = f"shared {turn % 7}" if turn % 2 else f"own {number} {turn}"
            called: list[bool] = []

            def model(
                messages: Any, model: str, question: str = question, called: list[bool] = called
            ) -> str:
                called.append(True)
                return question.upper()

            began = time.monotonic()
            try:
                answer: Any = self.cache.get_or_call(question, model, model="m")
            except BaseException as exc:
                answer = exc
            now = time.monotonic()
            self.taken.append(now - began)
            if answer != question.upper():
                self.wrong.append(answer)
            if not called:
                self.hit_at = now
            self._stop.wait(PAUSE)


FAULTS: list[Fault] = [paused, killed, full, read_only, slow, lying]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_every_caller_is_answered_soon_and_hits_come_back(fault: Fault, redis_url: str) -> None:
    with (
        running_redis() as server,
        Proxy(server.port) as proxy,
        LLMCache(backend=f"redis://127.0.0.1:{proxy.port}/0", coalesce="fleet") as cache,
    ):
        cache.put("shared 0", "SHARED 0", model="m")
        callers = Callers(cache)
        with callers.running(), Control(RedisStore(redis_url, timeout=20)) as control:
            with ExitStack() as repair:
                fault(server, proxy, repair)
                callers.taken.clear()
                time.sleep(SECONDS)
                until(lambda: len(callers.taken) > 100, "100 calls", 60)
                taken = list(callers.taken)
            repaired = time.monotonic()
            until(lambda: callers.hit_at > repaired, "hits come back", 60)
            print(f"{fault.__name__}: hits after {callers.hit_at - repaired:.1f} s")
    assert callers.wrong == []
    control.judge(taken, finding_out=2 * THREADS)
