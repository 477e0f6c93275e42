"""What Memcached, the network and this process can do: never an exception to a caller, never a
wrong answer, never a long wait."""

import contextlib
import logging
import os
import random
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.serde import pickle_serde
from stores.conformance import entry_of, value_of
from stores.control import PAUSE, Control
from stores.processes import in_child
from stores.servers import Server, running_memcached, until

from llm_cache_mem import LLMCache, StoreError, ValueNotCacheable
from llm_cache_mem.stores.deadline import DeadlineSocket
from llm_cache_mem.stores.memcached import MemcachedStore

KEY = "1:acme:value:" + "ab" * 32
OTHER = "1:acme:value:" + "cd" * 32


@pytest.fixture
def store(memcached_url: str) -> Iterator[MemcachedStore]:
    with contextlib.closing(MemcachedStore(memcached_url)) as store:
        yield store


@pytest.fixture
def raw(memcached_server: Server, memcached_url: str) -> Iterator[Client]:
    with contextlib.closing(
        Client(("127.0.0.1", memcached_server.port), default_noreply=False, timeout=5)
    ) as client:
        yield client


def names(key: str = KEY) -> tuple[str, str]:
    return f"lcm:{key}", "lcm-generation:1:acme:"


# -- A server that comes and goes


class Load:
    """Threads that make the same few calls through one cache, and note how long each took, what it
    gave, and when it was a hit."""

    def __init__(self, cache: LLMCache, threads: int = 8) -> None:
        self.cache = cache
        self.seconds: list[float] = []
        self.wrong: list[object] = []
        self.last_hits = 0
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(number,)) for number in range(threads)
        ]

    def _work(self, number: int) -> None:
        rng = random.Random(number)
        while not self._over.is_set():
            question = rng.randrange(40)
            began = time.perf_counter()
            try:
                answer = self.cache.get_or_call(
                    f"{question}", lambda messages: {"n": int(messages)}
                )
                if answer != {"n": question}:
                    self.wrong.append((question, answer))
            except BaseException as exc:
                self.wrong.append(exc)
            self.seconds.append(time.perf_counter() - began)
            time.sleep(PAUSE)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def until_it_hits(self) -> float:
        """Seconds until there is a hit again."""
        before, began = self.cache.stats().hits, time.monotonic()
        until(lambda: self.cache.stats().hits > before, "a hit", 60)
        return time.monotonic() - began


def pause(server: Server, seconds: float) -> None:
    server.pause()
    time.sleep(seconds)
    server.resume()


def restart(server: Server, seconds: float) -> None:
    server.kill()
    time.sleep(seconds)
    server.start()


@pytest.mark.usefixtures("usual_timeouts")
@pytest.mark.parametrize("seconds", [pytest.param(2.5), pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("trouble", [pause, restart])
def test_a_vanished_server_costs_neither_answers_nor_time(
    trouble: Callable[[Server, float], None], seconds: float, memcached_url: str
) -> None:
    control = Control(MemcachedStore(memcached_url, timeout=20))
    with (
        running_memcached() as server,
        LLMCache(backend=f"memcached://127.0.0.1:{server.port}") as cache,
    ):
        # without asking the server for its size
        cache.stats = lambda: cache.engine.ledger.snapshot(0)  # type: ignore[method-assign]
        with Load(cache) as load, control:
            load.until_it_hits()
            load.seconds.clear()
            trouble(server, seconds)
            print(f"back after {load.until_it_hits():.2f} s")
        assert load.wrong == []
        control.judge(load.seconds, finding_out=2 * 8)
        assert cache.stats().errors > 0


def test_one_dead_server_of_three_costs_its_own_share_only() -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running_memcached()) for _ in range(3)]
        url = "memcached://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
        cache = stack.enter_context(LLMCache(backend=url))
        for number in range(60):
            cache.put(str(number), number)
        assert cache.stats().size == 60
        assert [cache.get(str(number)) for number in range(60)] == list(range(60))
        servers[0].kill()
        # Until it is known to be dead; keys that happen to be its own one after the other can have
        # all servers left alone for a moment
        until(
            lambda: sum(cache.get(str(number)) is not None for number in range(60)) >= 20,
            "the others are asked",
            60,
        )
        found = [cache.get(str(number)) for number in range(60)]
        assert 20 <= sum(answer is not None for answer in found) < 60
        assert [cache.get(str(number)) for number in range(60)] == found
        with pytest.raises(StoreError):
            cache.clear()
        assert [cache.get(str(number)) for number in range(60)].count(None) >= found.count(None)


def test_server_order_does_not_move_keys() -> None:
    with running_memcached() as one, running_memcached() as two:
        ports = [f"127.0.0.1:{server.port}" for server in (one, two)]
        with (
            LLMCache(backend=f"memcached://{','.join(ports)}") as cache,
            LLMCache(backend=f"memcached://{','.join(reversed(ports))}") as again,
        ):
            for number in range(40):
                cache.put(str(number), number)
            assert [again.get(str(number)) for number in range(40)] == list(range(40))
            assert all(server.ask("stats items") != "END" for server in (one, two))
            assert again.clear() == 40
            assert cache.stats().size == 0


# -- A server that lies


class Liar(socketserver.ThreadingTCPServer):
    """A server at *port* that answers each command line with what ``reply(line)`` yields, piece by
    piece; None closes the connection."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, reply: Callable[[bytes], Iterator[bytes | None]]) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(
                    OSError, ValueError, IndexError
                ):  # it lies about what is kept, not about lists
                    while line := self.rfile.readline():
                        if line.startswith((b"set", b"add", b"cas")):
                            self.rfile.read(int(line.split()[4]) + 2)
                        for piece in reply(line.strip()):
                            if piece is None:
                                return
                            self.wfile.write(piece)

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"memcached://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "Liar":
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self.server_close()


GENERATION = b"g" * 16


def value(name: bytes, data: bytes, size: int | None = None) -> bytes:
    return b"VALUE %b 0 %d\r\n%b\r\n" % (name, len(data) if size is None else size, data)


def whole(line: bytes, data: bytes) -> bytes:
    _, generation, name = line.split()
    return value(generation, GENERATION) + value(name, data) + b"END\r\n"


def slow_drip(line: bytes) -> Iterator[bytes]:
    for byte in whole(line, GENERATION + b"x" * 1000):
        yield bytes([byte])
        time.sleep(0.05)


def endless(line: bytes) -> Iterator[bytes]:
    yield b"VALUE " + line.split()[2] + b" 0 99999999999\r\n"
    while True:
        yield b"x" * 65536


def late(line: bytes) -> Iterator[bytes]:
    time.sleep(
        20 if line.startswith(b"get ") else 0.6
    )  # to list what it holds, a server has more time
    yield b"END\r\n"


LIES: dict[str, Callable[[bytes], Iterator[bytes | None]]] = {
    "garbage": lambda line: iter([os.urandom(50) + b"\r\n"]),
    "an answer of another kind": lambda line: iter([b"STORED\r\n"]),
    "an error": lambda line: iter([b"SERVER_ERROR CANARY\r\n"]),
    "another key": lambda line: iter([value(b"lcm:CANARY", b"x") + b"END\r\n"]),
    "no envelope": lambda line: iter([whole(line, GENERATION + b"hello")]),
    "an envelope of another key": lambda line: iter(
        [whole(line, GENERATION + entry_of("wrong").pack(OTHER))]
    ),
    "a truncated value": lambda line: iter(
        [whole(line, GENERATION + entry_of("wrong").pack(KEY))[:-40], None]
    ),
    "a truncated envelope": lambda line: iter(
        [whole(line, GENERATION + entry_of("wrong").pack(KEY)[:-1])]
    ),
    "a size that is none": lambda line: iter(
        [b"VALUE " + line.split()[2] + b" 0 abc\r\nx\r\nEND\r\n"]
    ),
    "a size below 0": lambda line: iter([b"VALUE " + line.split()[2] + b" 0 -7\r\nx\r\nEND\r\n"]),
    "digits without end": lambda line: iter(
        [b"VALUE " + line.split()[2] + b" 0 " + b"9" * 5000 + b"\r\n"]
    ),
    "closed": lambda line: iter([None]),
    "nothing in time": late,
    "a drip": slow_drip,
    "more than there can be": endless,
}


@pytest.mark.usefixtures("usual_timeouts")
@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_is_a_miss(lie: str, caplog: pytest.LogCaptureFixture) -> None:
    with Liar(LIES[lie]) as server, LLMCache(backend=server.url) as cache:
        for _ in range(4):
            began = time.perf_counter()
            assert cache.get_or_call("q", lambda messages: "right") == "right"
            assert time.perf_counter() - began < 6  # 0.6, and a machine that is busy
        assert cache.stats().size == 0
        with contextlib.suppress(StoreError):
            cache.clear()
        with contextlib.suppress(StoreError):
            list(cache.engine.entries())
    assert "CANARY" not in caplog.text


def test_an_unsolicited_reply_is_not_an_answer(memcached_url: str) -> None:
    """A reply too many is left on the connection: the next command is read on another one."""
    read, sent = threading.Semaphore(0), threading.Semaphore(0)

    def reply(line: bytes) -> Iterator[bytes]:
        key = line.split()[2].decode().removeprefix("lcm:")
        yield whole(line, GENERATION + entry_of(key).pack(key))
        assert read.acquire(timeout=60)
        yield whole(line, GENERATION + entry_of(key).pack(key))
        sent.release()

    with Liar(reply) as server, contextlib.closing(MemcachedStore(server.url, timeout=20)) as store:
        for _ in range(10):
            for key in (KEY, OTHER):
                assert value_of(store.get(key)) == key
                read.release()
                assert sent.acquire(timeout=60)


# -- What is in it is not what was put


def test_flipped_truncated_and_swapped_values_are_misses(
    store: MemcachedStore, raw: Client
) -> None:
    store.put(KEY, entry_of({"text": "right" * 30}))
    store.put(OTHER, entry_of({"text": "other"}))
    kept, other = raw.get(names()[0]), raw.get(names(OTHER)[0])
    rng = random.Random(7)
    mutants = [
        kept[:at] + bytes([kept[at] ^ 1 << rng.randrange(8)]) + kept[at + 1 :]
        for at in range(len(kept))
    ]
    mutants += [kept[:at] for at in range(len(kept))] + [
        other,
        b"",
        kept + b"\0",
        kept[:16] + other[16:],
    ]
    for mutant in mutants:
        raw.set(names()[0], mutant)
        assert store.get(KEY) is None
    raw.set(names()[0], kept)
    assert value_of(store.get(KEY)) == {"text": "right" * 30}


def test_a_damaged_entry_is_removed_and_a_newer_one_left_alone(
    store: MemcachedStore, raw: Client
) -> None:
    store.put(KEY, entry_of("right"))
    kept = raw.get(names()[0])
    raw.set(names()[0], kept[:-1] + b"?")
    assert store.get(KEY) is None
    assert raw.get(names()[0]) is None
    newer = kept[:20] + b"\x7f" + kept[21:]
    raw.set(names()[0], newer)
    assert store.get(KEY) is None
    assert raw.get(names()[0]) == newer
    assert store.unreadable == 2


def test_compare_and_delete_spares_a_newer_entry(
    store: MemcachedStore, raw: Client, monkeypatch: Any
) -> None:
    store.put(KEY, entry_of("old", stored_at=1.0))
    kept = raw.get(names()[0])
    gets_many = Client.gets_many

    def and_another_puts(self: Client, *args: Any) -> Any:
        found = gets_many(self, *args)
        raw.set(names()[0], kept)
        return found

    monkeypatch.setattr(Client, "gets_many", and_another_puts)
    assert not store.delete(KEY, stored_at=1.0)
    assert store.get(KEY) is not None


# -- Sizes and times


@pytest.mark.parametrize("size", [1024 * 1024, 2 * 1024 * 1024])
def test_an_oversized_value_is_rejected_and_the_old_one_removed(
    store: MemcachedStore, size: int
) -> None:
    store.put(KEY, entry_of("old"))
    with pytest.raises(ValueNotCacheable, match="too large for Memcached"):
        store.put(KEY, entry_of("x" * size))
    assert store.get(KEY) is None


def test_a_value_over_the_server_limit_removes_the_old_one(
    memcached_url: str,
) -> None:
    with contextlib.closing(MemcachedStore(memcached_url, max_value_bytes=8 << 20)) as store:
        store.put(KEY, entry_of("old"))
        with pytest.raises(ValueNotCacheable, match="-I"):
            store.put(KEY, entry_of("x" * (2 << 20)))
        assert store.get(KEY) is None
        store.put(KEY, entry_of("new"))
        assert value_of(store.get(KEY)) == "new"


def test_a_caller_whose_answer_is_too_large_gets_it_all_the_same(memcached_url: str) -> None:
    with LLMCache(backend=memcached_url) as cache:
        assert cache.get_or_call("q", lambda messages: "x" * (2 << 20)) == "x" * (2 << 20)
        assert cache.stats().skipped == {"value": 1}
        assert cache.stats().errors == 0


def test_a_full_server_that_evicts_nothing_is_no_error_to_a_caller() -> None:
    with (
        running_memcached("-m", "2", "-M") as server,
        LLMCache(backend=f"memcached://127.0.0.1:{server.port}") as cache,
    ):
        for number in range(60):
            assert (
                cache.get_or_call(str(number), lambda messages: messages + "x" * 200_000)
                == str(number) + "x" * 200_000
            )
        assert cache.stats().errors > 0


@pytest.mark.parametrize("days", [1, 29.9999, 30, 31, 400, 40_000])
def test_long_times_to_live_are_no_dates_of_long_ago(memcached_url: str, days: float) -> None:
    with LLMCache(backend=memcached_url, ttl_seconds=days * 86400 + 1) as cache:
        cache.put("q", "a")
        assert cache.get("q") == "a"


def test_expired_entries_are_not_stored(store: MemcachedStore) -> None:
    store.put(KEY, entry_of("old"))
    store.put(KEY, entry_of("new", stored_at=1.0, expires_at=2.0))
    assert store.get(KEY) is None


# -- Generations


def test_a_clear_is_seen_by_others_at_once(memcached_url: str) -> None:
    with (
        contextlib.closing(MemcachedStore(memcached_url)) as one,
        contextlib.closing(MemcachedStore(memcached_url)) as other,
    ):
        for key in (KEY, OTHER, "1:acme2:value:" + "a" * 64):
            one.put(key, entry_of(key))
        assert other.clear("1:acme:") == 2
        assert one.get(KEY) is None
        assert one.get("1:acme2:value:" + "a" * 64) is not None
        one.put(KEY, entry_of("again"))
        assert value_of(other.get(KEY)) == "again"


def test_entries_a_failed_clear_left_behind_stay_forgotten(
    store: MemcachedStore, raw: Client
) -> None:
    store.put(KEY, entry_of("old"))
    kept = raw.get(names()[0])
    store.clear("1:acme:")
    raw.set(names()[0], kept)  # as if the server had not listed it
    assert store.get(KEY) is None
    assert list(store.entries()) == []
    assert store.delete(KEY) is False


def test_a_lost_generation_revives_no_old_entry(store: MemcachedStore, raw: Client) -> None:
    store.put(KEY, entry_of("old"))
    store.clear("1:acme:")
    store.put(OTHER, entry_of("new"))
    raw.delete(names()[1])  # as the server does when it needs room
    assert store.get(OTHER) is None
    store.put(KEY, entry_of("newest"))
    assert store.get(OTHER) is None
    assert value_of(store.get(KEY)) == "newest"


def test_a_server_that_does_not_list_its_keys_still_forgets_a_namespace() -> None:
    with (
        running_memcached("-o", "no_lru_crawler,no_lru_maintainer") as server,
        contextlib.closing(MemcachedStore(f"memcached://127.0.0.1:{server.port}")) as store,
    ):
        store.put(KEY, entry_of("old"))
        assert store.size() == 0
        with pytest.raises(StoreError, match="does not list its keys"):
            list(store.entries())
        with pytest.raises(StoreError, match="does not list its keys"):
            store.clear()
        assert store.get(KEY) is not None
        store.clear("1:acme:")
        assert store.get(KEY) is None


# -- The caller's own process


def test_an_interrupted_call_leaves_no_reply_behind(
    store: MemcachedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (KEY, OTHER):
        store.put(key, entry_of(key))
    recv = DeadlineSocket.recv

    def interrupted(self: DeadlineSocket, *args: Any) -> bytes:
        monkeypatch.setattr(DeadlineSocket, "recv", recv)
        raise KeyboardInterrupt

    for _ in range(20):
        monkeypatch.setattr(DeadlineSocket, "recv", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.get(KEY)
        assert value_of(store.get(OTHER)) == OTHER


FAULTS = (
    OSError,
    TimeoutError,
    ConnectionResetError,
    BrokenPipeError,
    ValueError,
    KeyError,
    UnicodeDecodeError,
    MemoryError,
)
FAULTS += (RecursionError, OverflowError, AssertionError, RuntimeError)


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_fails_at_whatever_point_the_caller_is_served(
    memcached_url: str, fault: type[Exception], monkeypatch: Any
) -> None:
    real = {
        (DeadlineSocket, name): getattr(DeadlineSocket, name)
        for name in ("begin", "is_quiet", "sendall", "recv")
    } | {
        (socket.socket, name): getattr(socket.socket, name)
        for name in ("connect", "settimeout", "setsockopt")
    }
    count = fail_at = 0

    def failing(name: tuple[type, str]) -> Callable[..., Any]:
        def call(self: Any, *args: Any) -> Any:
            nonlocal count
            count += 1
            if count == fail_at:
                if name[0] is socket.socket and not issubclass(fault, OSError):
                    raise OSError("CANARY")  # or else the standard library leaves one open
                raise (
                    fault("utf-8", b"", 0, 1, "CANARY")
                    if fault is UnicodeDecodeError
                    else fault("CANARY")
                )
            return real[name](self, *args)

        return call

    for name in real:
        monkeypatch.setattr(*name, failing(name))
    fail_at = 1
    while True:
        with LLMCache(backend=memcached_url) as cache:
            count = 0
            for question in "ab":
                assert cache.get_or_call(question, lambda messages: messages) == question
            assert cache.get("a") in ("a", None)
            cache.put("c", "c")
            if count < fail_at:
                break
            assert cache.get_or_call("d", lambda messages: "d") == "d"
        fail_at += 1
    assert fail_at > 20


@pytest.mark.parametrize("forks", [15, pytest.param(50, marks=pytest.mark.slow)])
def test_forked_children_and_their_parent_use_connections_of_their_own(
    memcached_url: str, forks: int
) -> None:
    store = MemcachedStore(
        memcached_url, timeout=5.0
    )  # a fork stops every thread of its parent for a while
    store.put(KEY, entry_of("parent"))
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        while not stop.is_set():
            try:
                assert value_of(store.get(KEY)) == "parent"
            except BaseException as exc:
                failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(forks):

        def child(number: int = number) -> Any:
            key = f"1:child:value:{number}"
            store.put(key, entry_of(number))
            return [value_of(store.get(key)), value_of(store.get(KEY))]

        assert in_child(child, timeout=60) == [number, "parent"]
    stop.set()
    for thread in threads:
        thread.join()
    store.close()
    assert failures == []


def test_a_closed_store_raises(store: MemcachedStore) -> None:
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.get(KEY)


# -- Clients handed in, and URLs


def test_a_pool_that_is_handed_in_is_used_and_stays_open(
    memcached_server: Server, memcached_url: str
) -> None:
    client = PooledClient(
        ("127.0.0.1", memcached_server.port),
        timeout=20,
        connect_timeout=20,
        serde=pickle_serde,
        key_prefix=b"app.",
    )
    store = MemcachedStore(client)
    with LLMCache(backend=store) as cache:
        cache.put("q", {"a": 1})
        assert cache.get("q") == {"a": 1}
        assert cache.stats().size == 1
        assert [entry.payload.decode() for _, entry in cache.engine.entries()] == [{"a": 1}]
        assert in_child(lambda: cache.get("q")) == {"a": 1}
        assert cache.clear() == 1
    store.close()
    client.set("theirs", {"pickled": 1}, noreply=False)
    assert client.get("theirs") == {"pickled": 1}
    assert client.client_pool.used == ()
    client.client_pool.clear()


def test_a_hash_client_that_is_handed_in_finds_what_the_url_stored() -> None:
    with running_memcached() as one, running_memcached() as two:
        servers = [("127.0.0.1", server.port) for server in (one, two)]
        client = HashClient(servers, use_pooling=True, timeout=20, connect_timeout=20)
        with LLMCache(
            backend="memcached://" + ",".join(f"{host}:{port}" for host, port in servers)
        ) as cache:
            for number in range(30):
                cache.put(str(number), number)
        with LLMCache(backend=MemcachedStore(client)) as other:
            assert [other.get(str(number)) for number in range(30)] == list(range(30))
        for pooled in client.clients.values():
            pooled.client_pool.clear()


@pytest.mark.parametrize(
    ("client", "error"),
    [
        (Client(("127.0.0.1", 1), timeout=1), TypeError),
        (HashClient([("127.0.0.1", 1)], timeout=1), TypeError),
        (PooledClient(("127.0.0.1", 1)), ValueError),
        (7, TypeError),
    ],
)
def test_a_client_that_cannot_serve_is_refused(client: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        MemcachedStore(client)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "memcached://",
            "memcached://u:CANARY@h",
            "memcached://h/CANARY",
            "memcached://h?CANARY=1",
            "memcached://h:0",
        ),
        *(
            "memcached://h:CANARY",
            "memcached://h:99999",
            "memcached://h,,g",
            "memcached://h,h:11211",
            "memcached://h CANARY",
        ),
        *("memcached://[::1", "redis://CANARY"),
    ],
)
def test_an_impossible_url_is_rejected_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="memcached://") as caught:
        MemcachedStore(url)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "memcached://h",
        "memcached://h:1,g:2",
        "memcached://[::1]:11211",
        "memcached:///run/memcached.sock",
    ],
)
def test_a_server_that_is_not_there_is_no_error_of_the_program(url: str) -> None:
    MemcachedStore(url).close()


def test_localhost_is_wherever_it_listens(memcached_server: Server, memcached_url: str) -> None:
    with LLMCache(backend=f"memcached://localhost:{memcached_server.port}") as cache:
        cache.put("q", "a")
        assert cache.get("q") == "a"


def test_bounds_are_the_servers_own() -> None:
    with pytest.raises(ValueError, match="max_size"):
        LLMCache(backend="memcached://h", max_size=7)


def test_nothing_of_a_request_is_in_a_log_a_repr_or_a_key(
    memcached_url: str, raw: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"memcached://127.0.0.1:{nobody.getsockname()[1]}"
        for url in (memcached_url, dead):
            with LLMCache(backend=url) as cache:
                assert cache.get_or_call("CANARY", lambda messages: "CANARY") == "CANARY"
                told = repr(cache) + repr(cache.engine.backend)
                assert "CANARY" not in told
        with pytest.raises(StoreError) as caught, contextlib.closing(MemcachedStore(dead)) as store:
            store.get(KEY)
    assert KEY not in str(caught.value)
    assert "CANARY" not in caplog.text
