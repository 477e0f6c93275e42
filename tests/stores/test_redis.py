"""RedisStore as a store: what all of them do, the model and a history of many threads, on Redis,
Valkey, a Cluster; and what is its own."""

import asyncio
import contextlib
import secrets
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from conftest import Clock
from hypothesis import strategies as st
from hypothesis.stateful import rule
from redis.backoff import NoBackoff
from redis.retry import Retry
from stores.conformance import MakeStore, StoreConformance, entry_of, value_of
from stores.history import check_history, length
from stores.model import StoreMachine, check_against_model, sequences
from stores.on_loop import StoreOnLoop
from stores.processes import fork, in_child, outcome
from stores.servers import Server, running_redis, running_sentinel, running_tls_redis, until

from llm_cache_mem import LLMCache
from llm_cache_mem.errors import StoreError, ValueNotCacheable
from llm_cache_mem.stores.base import LeasingStore, ManyStore
from llm_cache_mem.stores.failures import NotAsked
from llm_cache_mem.stores.redis import RedisStore
from llm_cache_mem.values.entry import Entry


class Conformance(StoreConformance):
    bounded = False

    @pytest.fixture
    def client(self) -> Any:
        """What a store is made with; its server is emptied for each store."""
        raise NotImplementedError

    @pytest.fixture
    def flush(self, client: Any) -> Callable[[], None]:
        raise NotImplementedError

    @pytest.fixture
    def make_store(self, client: Any, flush: Callable[[], None]) -> Iterator[MakeStore]:
        made: list[RedisStore] = []

        def make(*, clock: Callable[[], float], **options: Any) -> RedisStore:
            flush()
            made.append(RedisStore(client, clock=clock, **options))
            return made[-1]

        yield make
        for store in made:
            store.close()


class TestConformance(Conformance):
    @pytest.fixture
    def client(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    def flush(self, redis_server: Server) -> Callable[[], None]:
        return lambda: redis_server.ask("FLUSHALL")


class TestConformanceOnALoop(TestConformance):
    @pytest.fixture
    def make_store(self, client: Any, flush: Callable[[], None]) -> Iterator[MakeStore]:
        made: list[StoreOnLoop] = []

        def make(*, clock: Callable[[], float], **options: Any) -> Any:
            flush()
            made.append(StoreOnLoop(RedisStore(client, clock=clock, **options)))
            return made[-1]

        yield make
        for store in made:
            store.close()


class TestConformanceOfValkey(Conformance):
    @pytest.fixture
    def client(self, valkey_url: str) -> str:
        return valkey_url

    @pytest.fixture
    def flush(self, valkey_server: Server) -> Callable[[], None]:
        return lambda: valkey_server.ask("FLUSHALL")


class TestConformanceOfAClient(Conformance):
    @pytest.fixture
    def client(self, redis_url: str) -> Iterator[redis.Redis]:
        with redis.Redis.from_url(redis_url, protocol=3) as client:
            yield client

    @pytest.fixture
    def flush(self, redis_server: Server) -> Callable[[], None]:
        return lambda: redis_server.ask("FLUSHALL")


class TestConformanceOfACluster(Conformance):
    @pytest.fixture
    def client(self, three_masters: list[Server]) -> Iterator[redis.RedisCluster]:
        with redis.RedisCluster(host="127.0.0.1", port=three_masters[0].port) as client:
            yield client

    @pytest.fixture
    def flush(self, three_masters: list[Server]) -> Callable[[], None]:
        return lambda: [server.ask("FLUSHALL") for server in three_masters] and None


# -- The model: the server's clock follows the test's


class SlowlyExpiring(RedisStore):
    """Its entries live a thousand times as long as they should, so that the time a test takes does
    not count."""

    def _setting(self, key: str, entry: Entry) -> tuple[bytes, ...]:
        command = super()._setting(key, entry)
        return (*command[:4], b"%d" % (int(command[4]) * 1000)) if len(command) == 5 else command


PASS_TIME = """for _, key in ipairs(redis.call('KEYS', '*')) do
    local left = redis.call('PTTL', key)
    if left >= 0 then redis.call('PEXPIRE', key, left - ARGV[1]) end
end"""


class RedisMachine(StoreMachine):
    persistent = True
    ordered = False
    server: Server

    def open_store(
        self, *, clock: Callable[[], float], max_size: int | None, max_bytes: int | None
    ) -> RedisStore:
        assert max_size is None
        assert max_bytes is None
        self.admin = redis.Redis.from_url(self.server.url)
        if not hasattr(self, "store"):
            self.admin.flushall()
        return SlowlyExpiring(self.server.url, clock=clock, timeout=10.0)

    @rule(seconds=st.sampled_from([0.5, 1.0, 30.0, 3600.0, 86400.0, -1.0, -3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.admin.eval(PASS_TIME, 0, int(seconds * 1_000_000))
        for key in [
            key for key in self.model if self.expired(key)
        ]:  # gone for good, though the clock may be set back
            del self.model[key]

    def teardown(self) -> None:
        super().teardown()
        self.admin.close()


@sequences(100)
def test_it_does_what_the_model_does(redis_server: Server, number: int, steps: int) -> None:
    RedisMachine.server = redis_server
    check_against_model(RedisMachine, number, steps)


def test_so_does_valkey(valkey_server: Server) -> None:
    RedisMachine.server = valkey_server
    check_against_model(RedisMachine, number=15, steps=50)


# -- Many threads


@length(20_000)
def test_thirty_two_threads_see_a_consistent_history(redis_url: str, calls: int) -> None:
    with contextlib.closing(RedisStore(redis_url, timeout=5)) as store:
        check_history(store, threads=32, calls=calls)


def test_threads_see_a_consistent_cluster_history(three_masters: list[Server]) -> None:
    with redis.RedisCluster(host="127.0.0.1", port=three_masters[0].port) as client:
        check_history(RedisStore(client), threads=8, calls=3_000, rate=300)


def test_more_threads_than_connections_take_turns(redis_url: str, redis_server: Server) -> None:
    store = RedisStore(redis_url, max_connections=2, timeout=5)
    store.put("k", entry_of("x" * 10_000))
    most = 0
    found: list[Any] = []

    def work() -> None:
        nonlocal most
        for _ in range(20):
            found.append(len(value_of(store.get("k"))))
            most = max(most, store._client._pool.size)  # type: ignore[attr-defined]  # a URL's

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [10_000] * 320
    assert most <= 2
    store.close()


def test_waiting_for_a_connection_times_out(redis_url: str) -> None:
    store = RedisStore(redis_url, max_connections=1)
    pool = store._client._pool  # type: ignore[attr-defined]  # a URL's
    pool._timeout = 0.05
    began = time.monotonic()

    def meanwhile(connection: Any) -> None:
        with pytest.raises(NotAsked, match="no connection came free"):
            store.get("k")

    pool.run(meanwhile)
    assert time.monotonic() - began < 10
    assert store.get("k") is None
    store.close()


# -- What is on the server


@pytest.fixture(params=["thread", "loop"])
def store(redis_url: str, clock: Clock, request: pytest.FixtureRequest) -> Iterator[Any]:
    store = RedisStore(redis_url, clock=clock)
    with contextlib.closing(store if request.param == "thread" else StoreOnLoop(store)) as either:
        yield either


@pytest.fixture
def admin(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def test_a_key_is_the_published_one_behind_our_name(redis_url: str, admin: Any) -> None:
    with LLMCache(backend=redis_url, namespace="acme") as cache:
        cache.put([{"role": "user", "content": "hi"}], "hello", model="m")
        digest = cache.key([{"role": "user", "content": "hi"}], model="m")
    assert admin.keys("llm-cache-mem:*") == [f"llm-cache-mem:1:acme:value:{digest}".encode()]


def test_the_server_expires_an_entry_despite_reads(
    store: RedisStore, clock: Clock, admin: Any
) -> None:
    store.put("a", entry_of(1, expires_at=clock() + 60))
    store.put("b", entry_of(1))
    store.put_many({"c": entry_of(1, expires_at=clock() + 60)})
    for key in "abc":
        store.get(key)
    assert 30_000 < admin.pttl("llm-cache-mem:a") <= 60_000
    assert 30_000 < admin.pttl("llm-cache-mem:c") <= 60_000
    assert admin.pttl("llm-cache-mem:b") == -1
    store.put("a", entry_of(2))
    assert admin.pttl("llm-cache-mem:a") == -1


@pytest.mark.parametrize("seconds", [0, -1, -1e12])
def test_an_expired_put_removes_the_old_entry(
    store: RedisStore, clock: Clock, seconds: float
) -> None:
    store.put("k", entry_of("old"))
    store.put("k", entry_of("new", expires_at=clock() + seconds))
    assert store.get("k") is None
    store.put_many({"k": entry_of("new", expires_at=clock() + seconds)})
    assert store.size() == 0


@pytest.mark.parametrize("seconds", [1e-9, 1e300, float("inf")])
def test_the_shortest_and_the_longest_time_to_live_are_taken(
    store: RedisStore, clock: Clock, seconds: float, admin: Any
) -> None:
    store.put("k", entry_of(1, stored_at=clock(), expires_at=clock() + seconds))
    assert seconds < 1 or admin.pttl("llm-cache-mem:k") > 1e14


def test_other_peoples_keys_are_neither_seen_nor_touched(store: RedisStore, admin: Any) -> None:
    admin.set("1:a:v:0", "theirs")
    admin.set("llm-cache-mem", "theirs")
    admin.set("llm-cache-mem-lease:k", "a lease")
    store.put("1:a:v:0", entry_of("ours"))
    assert store.size() == 1
    assert [key for key, _ in store.entries()] == ["1:a:v:0"]
    assert store.clear() == 1
    assert len(admin.keys()) == 3


@pytest.mark.parametrize("make", ["lpush", "hset", "sadd"])
def test_a_non_string_value_is_a_miss_and_left_alone(
    store: RedisStore, admin: Any, make: str
) -> None:
    getattr(admin, make)("llm-cache-mem:k", *(("f", "v") if make == "hset" else ("v",)))
    store.put("l", entry_of(1))
    assert store.get("k") is None
    assert set(store.get_many(["k", "l"])) == {"l"}
    assert [key for key, _ in store.entries()] == ["l"]
    assert admin.exists("llm-cache-mem:k")
    assert store.delete("k")


@pytest.mark.parametrize("damage", [b"", b"not ours", b"5", "truncated", "flipped"])
def test_a_damaged_entry_is_a_miss_and_removed(store: RedisStore, admin: Any, damage: Any) -> None:
    store.put("k", entry_of("whole"))
    data = admin.get("llm-cache-mem:k")
    admin.set(
        "llm-cache-mem:k",
        {"truncated": data[:-1], "flipped": data[:60] + bytes([data[60] ^ 1]) + data[61:]}.get(
            damage, damage
        ),
    )
    assert store.get("k") is None
    assert not admin.exists("llm-cache-mem:k")
    assert store.unreadable == 1


def test_an_entry_under_another_key_is_a_miss(store: RedisStore, admin: Any) -> None:
    store.put("k", entry_of("for k"))
    admin.copy("llm-cache-mem:k", "llm-cache-mem:l")
    assert store.get("l") is None
    assert store.get_many(["k", "l"]).keys() == {"k"}


def test_entries_of_a_newer_version_are_left_alone(store: RedisStore, admin: Any) -> None:
    store.put("k", entry_of(1))
    data = admin.get("llm-cache-mem:k")
    newer = data[:4] + bytes([data[4] + 1]) + data[5:]
    admin.set("llm-cache-mem:k", newer)
    assert store.get("k") is None
    assert store.purge() == 0
    assert admin.get("llm-cache-mem:k") == newer


def test_a_damaged_entry_that_was_replaced_meanwhile_is_not_removed(
    store: RedisStore, admin: Any
) -> None:
    store.put("k", entry_of("new"))
    assert not store._delete_seen(b"llm-cache-mem:k", b"damaged")
    assert value_of(store.get("k")) == "new"


def test_a_value_over_the_limit_is_refused_before_it_is_sent(redis_url: str, clock: Clock) -> None:
    store = RedisStore(redis_url, clock=clock, max_value_bytes=1000)
    with pytest.raises(ValueNotCacheable, match="max_value_bytes=1000"):
        store.put("k", entry_of("x" * 1000))
    store.close()
    with LLMCache(backend=redis_url) as cache:
        assert len(cache.get_or_call("q", lambda messages: "x" * 9_000_000)) == 9_000_000
        assert cache.stats().skipped["value"] == 1


def test_large_values_come_back_whole(redis_url: str) -> None:
    store = RedisStore(redis_url, timeout=5)
    values = {
        f"k{number}": secrets.token_hex(size)
        for number, size in enumerate((1, 65_500, 131_000, 1_000_000, 4_000_000))
    }
    store.put_many({key: entry_of(value) for key, value in values.items()})
    for _ in range(2):
        assert {
            key: value_of(entry) for key, entry in store.get_many(list(values)).items()
        } == values
        assert {key: value_of(store.get(key)) for key in values} == values
    store.close()


def test_an_idle_connection_keeps_no_large_buffer(redis_url: str) -> None:
    store = RedisStore(redis_url, timeout=5)
    store.put("k", entry_of("x" * 4_000_000))
    tracemalloc.start()
    try:
        assert len(value_of(store.get("k"))) == 4_000_000
        assert tracemalloc.get_traced_memory()[0] < 131_072
    finally:
        tracemalloc.stop()
    store.close()


# -- Batches and leases


@pytest.fixture(params=["url", "client", "cluster"])
def any_store(request: pytest.FixtureRequest, clock: Clock) -> Iterator[RedisStore]:
    if request.param == "cluster":
        masters = request.getfixturevalue("three_masters")
        with redis.RedisCluster(host="127.0.0.1", port=masters[0].port) as client:
            yield RedisStore(client, clock=clock)
        return
    url = request.getfixturevalue("redis_url")
    with redis.Redis.from_url(url) as client:
        store = RedisStore(url if request.param == "url" else client, clock=clock)
        yield store
        store.close()


def test_it_is_all_that_the_cache_can_use(any_store: RedisStore) -> None:
    assert isinstance(any_store, ManyStore)
    assert isinstance(any_store, LeasingStore)


def test_many_are_put_and_got_as_one_by_one(any_store: RedisStore) -> None:
    entries = {f"1:a:v:{number}": entry_of(number) for number in range(600)}
    any_store.put_many(entries)
    found = any_store.get_many([*entries, "1:a:v:absent"])
    assert {key: value_of(entry) for key, entry in found.items()} == {
        key: number for number, key in enumerate(entries)
    }
    again = any_store.get_many(list(entries))
    assert list(again) == list(entries)
    assert any_store.get_many([]) == {}
    any_store.put_many({})
    assert any_store.clear("1:a:") == 600


def test_only_its_holder_extends_or_releases_a_lease(
    any_store: RedisStore,
) -> None:
    assert any_store.lease("k", "mine", 60)
    assert not any_store.lease("k", "theirs", 60)
    assert any_store.lease("k", "mine", 120)
    any_store.release("k", "theirs")
    assert not any_store.lease("k", "theirs", 60)
    any_store.release("k", "mine")
    assert any_store.lease("k", "theirs", 60)
    assert any_store.size() == 0


def test_a_lease_ends_by_itself_after_its_time_and_not_before(
    store: RedisStore, admin: Any
) -> None:
    assert store.lease("k", "dead", 30)
    assert 15_000 < admin.pttl("llm-cache-mem-lease:k") <= 30_000
    assert store.lease("k", "dead", 0.05)
    until(lambda: store.lease("k", "alive", 60), "the lease ends")


def test_one_of_many_callers_gets_the_lease(redis_url: str) -> None:
    store = RedisStore(redis_url, timeout=5)
    for number in range(20):
        given: list[str] = []
        threads = [
            threading.Thread(
                target=lambda key, token, given: (
                    store.lease(key, token, 60) and given.append(token)
                ),
                args=(str(number), str(at), given),
            )
            for at in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(given) == 1
    store.close()


# -- Ways to a server


def works(store: RedisStore) -> bool:
    store.put("k", entry_of("here"))
    return value_of(store.get("k")) == "here"


def test_a_unix_socket() -> None:
    with running_redis("--unixsocket", "redis.sock") as server:
        store = RedisStore(f"unix://{server.folder}/redis.sock?db=3")
        assert works(store)
        assert "db3:keys=1" in server.ask("INFO keyspace")
        store.close()


def test_tls_with_a_certificate_that_is_checked() -> None:
    with running_tls_redis() as (server, certificate):
        store = RedisStore(f"rediss://localhost:{server.tls_port}/0?ssl_ca_certs={certificate}")
        assert works(store)
        store.put("large", entry_of("x" * 500_000))
        assert len(value_of(store.get("large"))) == 500_000
        store.close()
        stranger = RedisStore(f"rediss://localhost:{server.tls_port}/0")
        with pytest.raises(StoreError, match=r"self-signed certificate; .*ssl_ca_certs=") as caught:
            stranger.get("k")
        assert "ssl_cert_reqs=none" in str(caught.value)
        stranger.close()


@pytest.mark.parametrize("who", [":s3cr3t@", "default:s3cr3t@", "app:h%40ck@"])
def test_a_password_or_a_user_with_one(who: str) -> None:
    with running_redis(
        "--requirepass", "s3cr3t", *["--user", "app", "on", ">h@ck", "~llm-cache-mem*", "+@all"]
    ) as server:
        store = RedisStore(f"redis://{who}127.0.0.1:{server.port}/2")
        assert works(store)
        assert store.lease("k", "t", 1)
        store.close()
        for wrong in ("", ":wrong@", "nobody:s3cr3t@"):
            store = RedisStore(f"redis://{wrong}127.0.0.1:{server.port}/0")
            with pytest.raises(
                StoreError, match=r"get failed: AuthenticationError \((NOAUTH|WRONGPASS)\)"
            ) as caught:
                store.get("k")
            assert "s3cr3t" not in str(caught.value)
            store.close()


def test_a_read_only_user_loses_only_writes() -> None:
    with running_redis(*["--user", "reader", "on", "nopass", "~*", "+@read"]) as server:
        server.ask("SET x y")
        store = RedisStore(f"redis://reader:any@127.0.0.1:{server.port}/0")
        assert store.get("k") is None
        with pytest.raises(StoreError, match=r"put failed: NoPermissionError \(NOPERM\)"):
            store.put("k", entry_of(1))
        store.close()


@pytest.mark.parametrize("url", ["localhost", "localhost:6379", "http://localhost:6379", ""])
def test_an_invalid_server_url_is_rejected_with_an_example(url: str) -> None:
    with pytest.raises(ValueError, match="RedisStore needs a URL such as redis://localhost:6379/0"):
        RedisStore(url)


@pytest.mark.parametrize(
    "option",
    [
        "protocol=3",
        "protocol=2",
        "decode_responses=True",
        "client_name=me",
        "health_check_interval=1",
        "retry_on_timeout=1",
    ],
)
def test_options_of_a_url(redis_url: str, option: str) -> None:
    store = RedisStore(f"{redis_url}?{option}")
    assert works(store)
    store.close()


def test_a_url_may_ask_for_more_patience(redis_url: str) -> None:
    store = RedisStore(f"{redis_url}?socket_timeout=2.5&max_connections=3")
    assert store.slow_seconds == 5.0
    store.close()


def test_the_client_that_a_sentinel_gives(redis_server: Server, redis_url: str) -> None:
    from redis.sentinel import Sentinel

    with running_sentinel(redis_server) as watcher:
        sentinel = Sentinel([("127.0.0.1", watcher.port)])
        with sentinel.master_for("mymaster") as client:
            assert works(RedisStore(client))
        sentinel.sentinels[0].close()


def test_a_client_that_is_handed_in_stays_open(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        with LLMCache(backend=RedisStore(client)) as cache:
            cache.put("q", "a")
        store = RedisStore(client)
        store.close()
        assert client.ping()
        assert works(store)


def test_text_asyncio_and_missing_clients_are_rejected(redis_url: str) -> None:
    with (
        redis.Redis.from_url(redis_url, decode_responses=True) as client,
        pytest.raises(ValueError, match="without decode_responses"),
    ):
        RedisStore(client)
    with pytest.raises(
        TypeError, match=r"redis.Redis: redis.asyncio.client.Redis is one for asyncio"
    ):
        RedisStore(redis.asyncio.Redis())
    for wrong in (None, 7, b"redis://localhost", object(), {}):
        with pytest.raises(TypeError, match="needs a URL or a client"):
            RedisStore(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"max_connections": 0},
        {"max_value_bytes": 0},
        {"timeout": float("nan")},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        RedisStore("redis://localhost", **wrong)


def test_a_closed_store_raises(redis_url: str) -> None:
    store = RedisStore(redis_url)
    store.put("k", entry_of(1))
    store.close()
    with pytest.raises(StoreError, match="get failed"):
        store.get("k")


# -- Processes


@pytest.mark.parametrize("forks", [20, pytest.param(50, marks=pytest.mark.slow)])
def test_forked_children_use_connections_of_their_own(redis_url: str, forks: int) -> None:
    store = RedisStore(redis_url, timeout=5)
    stop = threading.Event()
    wrong: list[Any] = []

    def work(number: int) -> None:
        while not stop.is_set():
            store.put(f"t{number}", entry_of(number))
            found = store.get(f"t{number}")
            if found is None or value_of(found) != number:
                wrong.append(found)

    def child(number: int) -> bool:
        for turn in range(20):
            store.put(f"c{number}", entry_of([number, turn]))
            if value_of(store.get(f"c{number}")) != [number, turn]:
                return False
        return True

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for some in range(0, forks, 10):
            children = [
                fork(lambda number=number: child(number)) for number in range(some, some + 10)
            ]
            assert [outcome(*one, timeout=60) for one in children] == [True] * 10
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    store.close()


def test_a_child_that_ends_leaves_the_parents_connections_alone(redis_url: str, admin: Any) -> None:
    store = RedisStore(redis_url)
    store.put("k", entry_of(1))
    before = {client["id"] for client in admin.client_list()}
    in_child(lambda: value_of(store.get("k")))
    store.get("k")
    assert {client["id"] for client in admin.client_list()} == before
    store.close()


async def test_cancelled_tasks_leave_no_reply_for_others(redis_url: str) -> None:
    """The ChatGPT incident of March 2023, through our own calls: a task is cancelled while its
    reply is under way."""
    cache = LLMCache(backend=redis_url)
    for number in range(20):
        cache.put(str(number), number)
    wrong: list[Any] = []

    async def ask(number: int) -> None:
        found = await cache.aget(str(number))
        if found != number:
            wrong.append((number, found))

    for turn in range(100):
        tasks = [asyncio.create_task(ask(number)) for number in range(6)]
        await asyncio.sleep(0.0005 * (turn % 4))
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert wrong == []
    cache.close()


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, True),
        ({"socket_timeout": None}, True),
        ({"socket_timeout": 0.25, "retry": Retry(NoBackoff(), 0)}, False),
    ],
)
def test_a_client_that_would_wait_long_is_warned_of(
    caplog: pytest.LogCaptureFixture, settings: dict[str, Any], warned: bool
) -> None:
    RedisStore(redis.Redis(port=1, **settings))
    assert ("socket_timeout=0.25" in caplog.text) is warned
