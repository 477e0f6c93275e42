"""Whatever the server does, or what stands in its place: no exception, no wrong answer, no long
wait, and hits again soon afterwards."""

import asyncio
import contextlib
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import redis
from conftest import Clock
from redis.connection import Connection
from stores.conformance import entry_of, value_of
from stores.control import PAUSE, Control
from stores.on_loop import CacheOnLoop
from stores.proxy import CUT, HOLD, Proxy, Rule, drip, late, reset_halfway
from stores.servers import Server, running_redis, until

from llm_cache_mem import LLMCache
from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores import deadline
from llm_cache_mem.stores.deadline import DeadlineSocket
from llm_cache_mem.stores.redis import RedisStore
from llm_cache_mem.stores.redis.counts import TOTALS

LIES: dict[str, Rule] = {
    "full": lambda data, _: b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "read only": lambda data, _: b"-READONLY You can't write against a read only replica.\r\n",
    "no login": lambda data, _: b"-NOAUTH Authentication required.\r\n",
    "loading": lambda data, _: b"-LOADING Redis is loading the dataset in memory\r\n",
    "another type": lambda data, _: (
        b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
    ),
    "an error without words": lambda data, _: b"-\r\n",
    "too late": late(0.5),
    "one byte at a time": drip(10),
    "reset halfway": reset_halfway,
    "half, then nothing": lambda data, sender: sender.send(data[: len(data) // 2]) or HOLD,
    "nothing": lambda data, _: HOLD,
    "the end": lambda data, _: CUT,
    "one reply more": lambda data, _: data + b"$3\r\nlie\r\n",
    "one reply more, a little later": lambda data, sender: (
        sender.send(data) or sender.wait(0.002) or b"$3\r\nlie\r\n"
    ),
    "a number": lambda data, _: b":5\r\n",
    "done": lambda data, _: b"+OK\r\n",
    "nested lists": lambda data, _: b"*1\r\n" * 100_000,
    "a list of billions": lambda data, _: b"*2147483647\r\n",
    "a value of gigabytes": lambda data, _: b"$99999999999\r\n",
    "a value of no size": lambda data, _: b"$abc\r\n",
    "a number of a million digits": lambda data, _: b":" + b"9" * 1_000_000 + b"\r\n",
    "a line without end": lambda data, _: b"+" + b"x" * 1_000_000,
    "another protocol": lambda data, _: b">2\r\n+invalidate\r\n_\r\n",
    "garbage": lambda data, _: b"\x00\xff\x80HTTP/1.1 400 Bad Request\r\n\r\n",
    "a shorter value": lambda data, _: b"$4\r\n" + data[10:14] + b"\r\n",
    "a flipped bit": lambda data, _: (
        data[:-40] + bytes([data[-40] ^ 1]) + data[-39:] if len(data) > 100 else data
    ),
}


@pytest.fixture
def proxy(redis_server: Server, redis_url: str) -> Iterator[Proxy]:
    with Proxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def control(redis_url: str) -> Control:
    return Control(RedisStore(redis_url, timeout=20))


@pytest.fixture(params=["thread", "loop"])
def cache(proxy: Proxy, request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(f"redis://127.0.0.1:{proxy.port}/0", request.param) as cache:
        yield cache


@contextlib.contextmanager
def opened(url: str, where: str) -> Iterator[Any]:
    """A cache at *url*, asked from threads or, through the same methods, from an event loop."""
    cache = LLMCache(backend=url, coalesce=False)
    with contextlib.closing(cache if where == "thread" else CacheOnLoop(cache)) as either:
        yield either


def ask(cache: LLMCache, number: int) -> tuple[str, bool]:
    """The answer to question *number*, which is ``answer``*number*, and whether it was a hit."""
    called: list[int] = []
    answer = cache.get_or_call(
        f"question {number}", lambda messages: called.append(1) or f"answer {number}"
    )
    assert answer == f"answer {number}"
    return answer, not called


@pytest.mark.usefixtures("usual_timeouts")
@pytest.mark.parametrize("lie", LIES)
def test_a_caller_gets_the_right_answer_in_time(lie: str, cache: LLMCache, proxy: Proxy) -> None:
    for number in range(5):
        ask(cache, number)
    proxy.rule = LIES[lie]
    for number in [*range(10), *range(10)]:
        began = time.monotonic()
        ask(cache, number)
        assert time.monotonic() - began < 6  # 0.6, and a machine that is busy
    stats = cache.stats()
    assert stats.errors or stats.misses > 5


@pytest.mark.parametrize(
    "lie", ["one reply more", "one reply more, a little later", "a flipped bit", "done", "a number"]
)
def test_after_a_lie_the_next_answers_are_right_at_once(
    lie: str, cache: LLMCache, proxy: Proxy
) -> None:
    for number in range(5):
        ask(cache, number)
    for _ in range(5):
        proxy.rule = LIES[lie]
        ask(cache, 0)
        proxy.rule = None
        ask(
            cache,
            0,
            # what was not believed may have been removed, or a connection thrown away: it is stored
            # again
        )
        assert all(ask(cache, number)[1] for number in range(5))


def test_a_reply_that_drips_in_has_the_time_of_one_reply(proxy: Proxy, redis_url: str) -> None:
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", timeout=0.1)
    store.put("k", entry_of("x" * 1000))
    proxy.rule = drip(100)
    began = time.monotonic()
    with pytest.raises(StoreError, match="TimeoutError"):
        store.get("k")
    assert time.monotonic() - began < 6  # the whole of it takes ten seconds and more
    store.close()


def test_a_large_reply_that_keeps_coming_has_more_time_than_a_small_one(
    redis_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisStore(redis_url, timeout=20)
    store.put("k", entry_of("x" * 4_000_000))
    recv = DeadlineSocket.recv

    def slow(self: DeadlineSocket, size: int) -> bytes:
        data = recv(self, size)
        clock.advance(len(data) / 130_000)  # 30 seconds in all
        return data

    monkeypatch.setattr(deadline, "monotonic", clock)
    monkeypatch.setattr(deadline, "BYTES_PER_SECOND", 200_000)
    monkeypatch.setattr(DeadlineSocket, "recv", slow)
    assert len(value_of(store.get("k"))) == 4_000_000
    store.close()


# -- Many callers, a server that fails in every way in turn, and how long it took them


class Call(NamedTuple):
    at: float
    seconds: float
    hit: bool


class Ordeal:
    """Callers, threads or tasks, that ask all the time, and what came of it."""

    def __init__(self, cache: LLMCache | CacheOnLoop, *, callers: int) -> None:
        self.calls: list[Call] = []
        self.failures: list[BaseException] = []
        self._cache = cache
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(callers)
        self._callers = callers
        self._ends: list[Future[None]] = []

    def __enter__(self) -> "Ordeal":
        for seed in range(self._callers):
            if isinstance(self._cache, CacheOnLoop):
                task = self._work_as_task(self._cache.inner, seed)
                self._ends.append(self._cache.loop.start(task))
            else:
                self._ends.append(self._pool.submit(self._work, self._cache, seed))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self.failures += [failed for end in self._ends if (failed := end.exception(60))]
        self._pool.shutdown()

    def _work(self, cache: LLMCache, seed: int) -> None:
        rng = random.Random(seed)
        while not self._stop.wait(PAUSE):
            began = time.monotonic()
            _, hit = ask(cache, rng.randrange(40))
            self.calls.append(Call(began, time.monotonic() - began, hit))

    async def _work_as_task(self, cache: LLMCache, seed: int) -> None:
        rng = random.Random(seed)
        while not self._stop.is_set():
            await asyncio.sleep(PAUSE)
            began, number, called = time.monotonic(), rng.randrange(40), False

            async def model(messages: Any, number: int = number) -> str:
                nonlocal called
                called = True
                return f"answer {number}"

            assert await cache.aget_or_call(f"question {number}", model) == f"answer {number}"
            self.calls.append(Call(began, time.monotonic() - began, not called))

    def hits_since(self, moment: float) -> int:
        return sum(call.hit for call in self.calls[-2000:] if call.at > moment)


@contextlib.contextmanager
def paused(server: Server) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextlib.contextmanager
def killed(server: Server) -> Iterator[None]:
    server.kill()
    yield
    server.start()


def asked(do: str, undo: str) -> Callable[[Server], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def fault(server: Server) -> Iterator[None]:
        server.ask(do)
        yield
        server.ask(undo)

    return fault


@contextlib.contextmanager
def clients_killed(server: Server) -> Iterator[None]:
    for _ in range(5):
        server.ask("CLIENT KILL TYPE normal")
    yield


@contextlib.contextmanager
def password_changed(server: Server) -> Iterator[None]:
    with redis.Redis(port=server.port) as client:
        client.config_set("requirepass", "another")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        yield
        client.config_set("requirepass", "")


OUTAGES = {
    "paused": paused,
    "killed": killed,
    "clients killed": clients_killed,
    "full": asked("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    "another password": password_changed,
    "a replica without its master": asked("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
}


@pytest.mark.usefixtures("usual_timeouts")
@pytest.mark.parametrize(
    ("outage", "seconds", "where"),
    [
        pytest.param(name, seconds, where, marks=[pytest.mark.slow] if seconds > 1 else [])
        for seconds in (1.0, 5.0)
        for where, names in (
            ("thread", OUTAGES),
            ("loop", ("paused", "killed", "another password")),
        )
        for name in names
    ],
)
def test_an_outage_costs_callers_little_and_hits_are_back_soon(
    outage: str, seconds: float, where: str, control: Control
) -> None:
    with running_redis() as server, opened(server.url, where) as cache:
        for number in range(40):
            ask(cache, number)
        with Ordeal(cache, callers=8) as ordeal, control:
            until(lambda: ordeal.hits_since(0) > 100, "hits before", 60)
            with OUTAGES[outage](server):
                threading.Event().wait(seconds)
            over = time.monotonic()
            until(lambda: ordeal.hits_since(over) > 20 or ordeal.failures, "hits are back", 60)
            print(f"hits back after {time.monotonic() - over:.2f} s")
    assert ordeal.failures == []
    control.judge([call.seconds for call in ordeal.calls], finding_out=2 * 8)


@pytest.mark.usefixtures("usual_timeouts")
@pytest.mark.parametrize(
    ("callers", "seconds"),
    [(16, 0.15), pytest.param(32, 10.0, marks=pytest.mark.slow)],
    ids=["every lie for a moment", "for long"],
)
def test_a_server_that_lies_in_every_way_in_turn(
    cache: LLMCache, proxy: Proxy, control: Control, callers: int, seconds: float
) -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    lies = list(LIES)
    random.Random(seed).shuffle(lies)
    for number in range(40):
        ask(cache, number)
    with Ordeal(cache, callers=callers) as ordeal, control:
        for lie in lies:
            proxy.rule = LIES[lie]
            threading.Event().wait(seconds)
            if lies.index(lie) % 5 == 0:
                proxy.rule = None
                well = time.monotonic()
                until(
                    lambda well=well: ordeal.hits_since(well) > 10 or ordeal.failures,
                    f"hits are back after {lie}",
                    60,
                )
        proxy.rule = None
        over = time.monotonic()
        until(lambda: ordeal.hits_since(over) > 20 or ordeal.failures, "hits are back", 60)
    assert ordeal.failures == []
    control.judge([call.seconds for call in ordeal.calls], finding_out=callers * len(lies))
    assert len(ordeal.calls) > 100


@pytest.mark.usefixtures("usual_timeouts")
async def test_two_hundred_tasks_on_a_paused_server_all_get_their_answers() -> None:
    with running_redis() as server, LLMCache(backend=server.url, coalesce=False) as cache:
        await cache.aput("warm", "warm")

        async def ask_async(number: int) -> bool:
            async def model(messages: Any) -> str:
                return f"answer {number}"

            return await cache.aget_or_call(f"question {number}", model) == f"answer {number}"

        server.pause()
        began = time.monotonic()
        assert all(await asyncio.gather(*(ask_async(number) for number in range(200))))
        assert time.monotonic() - began < 20  # one after the other they would take a minute
        server.resume()


# -- Every call that can fail, failing once

EXCEPTIONS: list[BaseException] = [
    *(
        OSError(28, "no space"),
        ConnectionResetError(104, "reset"),
        BrokenPipeError(32, "pipe"),
        TimeoutError("timed out"),
        InterruptedError(),
    ),
    *(
        MemoryError(),
        RecursionError(),
        UnicodeError(),
        OverflowError(),
        ValueError(),
        redis.ConnectionError("x"),
        RuntimeError(),
    ),
]


class Faults:
    """Raises *exception* at the *nth* of the calls it is asked about."""

    def __init__(self) -> None:
        self.calls = 0
        self.nth = 0
        self.exception: BaseException = OSError()

    def before_call(self) -> None:
        self.calls += 1
        if self.calls == self.nth:
            raise self.exception


def test_a_failing_operation_does_not_fail_the_caller(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults()

    def faulty(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            faults.before_call()
            return call(*args, **kwargs)

        return wrapped

    for name in ("begin", "sendall", "recv", "is_quiet"):
        monkeypatch.setattr(DeadlineSocket, name, faulty(getattr(DeadlineSocket, name)))
    monkeypatch.setattr(Connection, "connect", faulty(Connection.connect))

    def session(number: int) -> None:
        with LLMCache(backend=RedisStore(redis_url, timeout=20), coalesce=False) as cache:
            for asked in (0, 1, 0):
                ask(cache, number * 10 + asked)
            cache.stats()
            faults.nth = 0
            cache.engine.backend._reads.succeeded()
            cache.engine.backend._writes.succeeded()
            ask(cache, number * 10)
            assert ask(cache, number * 10)[1]

    session(0)
    total = faults.calls
    assert total > 12
    for nth in range(1, min(total, 200) + 1):
        for at, exception in enumerate(EXCEPTIONS):
            faults.calls, faults.nth, faults.exception = 0, nth, exception
            session(nth * 100 + at)


def test_an_interrupt_discards_its_connection(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisStore(redis_url)
    store.put("a", entry_of("a"))
    store.put("b", entry_of("b"))

    def interrupted(self: DeadlineSocket, *args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DeadlineSocket, "recv", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.get("a")
    assert value_of(store.get("b")) == "b"
    store.close()


# -- Secrets

CANARIES = {
    "prompt": "CANARY-PROMPT-5309",
    "answer": "CANARY-ANSWER-5309",
    "password": "CANARY-PASSWORD-5309",
    "key": "sk-CANARY-KEY-5309",
}


def test_secrets_stay_where_they_belong(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    with running_redis("--requirepass", CANARIES["password"]) as server:
        urls = [
            f"redis://:{CANARIES['password']}@127.0.0.1:{server.port}/0",
            f"redis://:{CANARIES['password']}x@127.0.0.1:{server.port}/0",
        ]
        with redis.Redis.from_url(urls[0]) as admin:
            for url in urls:
                with LLMCache(backend=url) as cache:
                    cache.get_or_call(
                        CANARIES["prompt"],
                        lambda messages, **params: CANARIES["answer"],
                        api_key=CANARIES["key"],
                    )
                    admin.config_set("maxmemory", 1)
                    cache.put(CANARIES["prompt"] + "2", CANARIES["answer"])
                    admin.config_set("maxmemory", 0)
                    for act in (
                        (cache.purge, cache.clear, lambda: list(cache.engine.entries()))
                        if url == urls[1]
                        else ()
                    ):
                        with pytest.raises(StoreError) as caught:
                            act()
                        shown += [
                            str(caught.value),
                            repr(caught.value),
                            repr(caught.value.__cause__),
                        ]
                    shown += [repr(cache), str(cache.stats()), repr(cache.engine.backend)]
            stored = [
                (key, repr(admin.hgetall(key)).encode() if key == TOTALS else admin.get(key))
                for key in admin.scan_iter()
            ]
    assert any(CANARIES["answer"].encode() in value for _, value in stored)  # the look works
    for key, value in stored:
        for name in ("prompt", "password", "key"):
            assert CANARIES[name].encode() not in key + value
    for text in [*shown, caplog.text]:
        for canary in CANARIES.values():
            assert canary not in text
