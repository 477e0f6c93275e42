"""TieredStore: what all stores do, on every back; how far a front may be behind; and what it is
worth when the back is gone."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock
from stores.conformance import MakeStore, StoreConformance, entry_of, value_of
from stores.history import check_history
from stores.leases import Join, LeaseConformance
from stores.many import ManyConformance
from stores.model import StoreMachine, check_against_model, sequences
from stores.processes import in_child
from stores.servers import running_memcached

from llm_cache_mem import LLMCache, StoreError, options
from llm_cache_mem.stores import MemoryStore, Store, StoreSettings, open_store
from llm_cache_mem.stores.base import LeasingStore, Removed
from llm_cache_mem.stores.fail_open import FailOpenStore
from llm_cache_mem.stores.memcached import MemcachedStore
from llm_cache_mem.stores.sqlite import SQLiteStore
from llm_cache_mem.stores.tiered import TieredStore
from llm_cache_mem.values.entry import Entry

KEY = "1:ns:value:" + "a" * 64


class Plain:
    """A back that can do no more than a Store must; it fails when told to, and counts its reads."""

    blocking = True

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.fails = False
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        if name in (
            "lease",
            "release",
            "get_many",
            "put_many",
            "envelope",
            "version",
            "touch",
            "slow_seconds",
            "records",
            "peek",
        ):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.fails and name != "close":
                raise StoreError("Plain", name, "told to")
            self.reads += name == "get"
            return getattr(self.inner, name)(*args, **kwargs)

        return call

    def get(self, key: str) -> Entry | None:
        return self.__getattr__("get")(key)  # type: ignore[no-any-return]


def tiered(
    back: Any,
    timer: Callable[[], float] | None = None,
    clock: Callable[[], float] = time.time,
    **more: Any,
) -> TieredStore:
    return TieredStore(MemoryStore(clock=clock), back, timer=timer or Clock(0.0), **more)


@pytest.fixture
def timer() -> Clock:
    return Clock(0.0)


@pytest.fixture
def back() -> Plain:
    return Plain()


@pytest.fixture
def store(back: Plain, timer: Clock) -> TieredStore:
    return tiered(back, timer)


# -- As a store


class TestConformanceOnSQLite(StoreConformance):
    @pytest.fixture
    def make_store(self, fast_folder: Path) -> Iterator[MakeStore]:
        made: list[Store] = []

        def make(*, clock: Callable[[], float], **bounds: Any) -> Store:
            made.append(
                tiered(
                    SQLiteStore(fast_folder / f"{len(made)}.db", clock=clock, **bounds), clock=clock
                )
            )
            return made[-1]

        yield make
        for store in made:
            store.close()


class ConformanceOnAServer(StoreConformance):
    bounded = False

    @pytest.fixture
    def back(self) -> Callable[..., Store]:
        """Makes the store behind."""
        raise NotImplementedError

    @pytest.fixture
    def make_store(self, back: Callable[..., Store]) -> Iterator[MakeStore]:
        with contextlib.ExitStack() as stack:
            yield lambda *, clock: stack.enter_context(
                contextlib.closing(tiered(back(clock=clock), clock=clock))
            )


class TestConformanceOnMemcached(ConformanceOnAServer):
    @pytest.fixture
    def back(self, memcached_url: str) -> Callable[..., Store]:
        return partial(MemcachedStore, memcached_url)


class TestConformanceOnRedis(ConformanceOnAServer):
    @pytest.fixture
    def back(self, redis_url: str) -> Callable[..., Store]:
        from llm_cache_mem.stores.redis import RedisStore

        return partial(RedisStore, redis_url)


class TestConformanceOnThePlainest(StoreConformance):
    shared_with_children = False

    @pytest.fixture
    def make_store(self) -> MakeStore:
        def make(**settings: Any) -> Store:
            back = Plain()
            back.inner = MemoryStore(**settings)
            return tiered(back)

        return make

    @pytest.mark.skip("a hit in front is no use to a back that cannot be told")
    def test_iteration_is_lru_first_and_counts_as_no_use(self) -> None: ...

    @pytest.mark.skip("as above")
    def test_the_least_recently_used_goes_first(self) -> None: ...


class TestManyOnTheBackOfMany(ManyConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[TieredStore]:
        with contextlib.closing(tiered(SQLiteStore(tmp_path / "cache.db"))) as store:
            yield store


class TestLeasesOfTheBack(LeaseConformance):
    @pytest.fixture
    def join(self, tmp_path: Path) -> Iterator[Join]:
        with contextlib.ExitStack() as stack:
            yield lambda: stack.enter_context(
                contextlib.closing(tiered(SQLiteStore(tmp_path / "cache.db")))
            )  # type: ignore[return-value]


def test_it_leases_only_through_its_back_store(back: Plain) -> None:
    assert not isinstance(tiered(back), LeasingStore)


def test_it_has_one_name_in_logs_whatever_its_back_can_do(back: Plain, tmp_path: Path) -> None:
    with contextlib.closing(tiered(SQLiteStore(tmp_path / "cache.db"))) as leasing:
        assert [type(store).__name__ for store in (tiered(back), leasing)] == ["TieredStore"] * 2


class SQLiteMachine(StoreMachine):
    persistent = True
    folder: Path

    def open_store(
        self, *, clock: Callable[[], float], max_size: int | None, max_bytes: int | None
    ) -> Store:
        if not hasattr(self, "store"):
            for file in self.folder.glob("model.db*"):
                file.unlink()
        return tiered(
            SQLiteStore(
                self.folder / "model.db", clock=clock, max_size=max_size, max_bytes=max_bytes
            ),
            self.clock,
            clock,
        )


@sequences(25)
def test_on_sqlite_it_does_what_the_model_does(fast_folder: Path, number: int, steps: int) -> None:
    SQLiteMachine.folder = fast_folder
    check_against_model(SQLiteMachine, number, steps)


class MemcachedMachine(StoreMachine):
    by_key = True
    persistent = True
    server: Any

    def open_store(
        self, *, clock: Callable[[], float], max_size: int | None, max_bytes: int | None
    ) -> Store:
        if not hasattr(self, "store"):
            self.server.ask("flush_all")
        return tiered(
            MemcachedStore(f"memcached://127.0.0.1:{self.server.port}", clock=clock, timeout=10.0),
            self.clock,
            clock,
        )


@sequences(20)
def test_on_memcached_it_does_what_the_model_does(number: int, steps: int) -> None:
    with running_memcached("-o", "hashpower=13") as MemcachedMachine.server:
        check_against_model(MemcachedMachine, number, steps)


@pytest.mark.parametrize("kind", ["plain", "sqlite"])
def test_sixteen_threads_see_a_consistent_history(kind: str, fast_folder: Path) -> None:
    back: Any = (
        Plain() if kind == "plain" else SQLiteStore(fast_folder / "cache.db", lock_timeout=10)
    )
    with contextlib.closing(tiered(back)) as store:
        check_history(store, threads=16, calls=40_000, keys=8)


# -- How far behind


def test_recent_reads_and_writes_skip_the_store(store: TieredStore, back: Plain) -> None:
    store.put("written", entry_of(1))
    back.inner.put("read", entry_of(2))
    for _ in range(3):
        assert value_of(store.get("written")) == 1
        assert value_of(store.get("read")) == 2
        assert set(store.get_many(["written", "read", "none"])) == {"written", "read"}
    assert (
        back.reads == 1 + 3
    )  # "none" each time: that something is absent is not believed for long


def test_stale_front_entries_last_ten_seconds_at_most(
    store: TieredStore, back: Plain, timer: Clock
) -> None:
    for key in ("replaced", "deleted"):
        store.put(key, entry_of("old"))
    back.inner.put("replaced", entry_of("new"))
    back.inner.delete("deleted")
    timer.advance(9.999)
    assert value_of(store.get("replaced")) == value_of(store.get("deleted")) == "old"
    timer.advance(0.001)
    assert value_of(store.get("replaced")) == "new"
    assert store.get("deleted") is None
    assert store.front.get("deleted") is None


def test_a_back_whose_version_is_no_question_is_not_asked(back: Plain) -> None:
    back.version = "1.0"  # type: ignore[attr-defined]
    store = tiered(back)
    store.put("k", entry_of(1))
    assert value_of(store.get("k")) == 1


def test_a_hit_does_not_extend_the_front_entry(
    store: TieredStore, back: Plain, timer: Clock
) -> None:
    store.put("k", entry_of("old"))
    back.inner.delete("k")
    for _ in range(9):
        timer.advance(1.2)
        store.get("k")
    assert store.get("k") is None


def test_within_a_process_it_is_never_behind(store: TieredStore) -> None:
    store.put("k", entry_of(1))
    store.put("k", entry_of(2))
    assert value_of(store.get("k")) == 2
    assert store.delete("k")
    assert store.get("k") is None
    store.put_many({"1:a:v:1": entry_of(1), "1:b:v:1": entry_of(2)})
    assert store.clear("1:a:") == 1
    assert set(store.get_many(["1:a:v:1", "1:b:v:1"])) == {"1:b:v:1"}


def test_in_front_of_sqlite_another_process_is_seen_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with contextlib.closing(tiered(SQLiteStore(path))) as store:
        for value in range(20):
            assert in_child(lambda value=value: SQLiteStore(path).put("k", entry_of(value))) == [
                0,
                0,
            ]
            for _ in range(3):
                assert value_of(store.get("k")) == value
        in_child(lambda: SQLiteStore(path).delete("k"))
        assert store.get("k") is None


def test_sqlite_writes_of_this_process_are_seen_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with (
        contextlib.closing(tiered(SQLiteStore(path))) as store,
        contextlib.closing(tiered(SQLiteStore(path))) as other,
    ):
        for value in range(50):
            thread = threading.Thread(target=other.put, args=("k", entry_of(value)))
            thread.start()
            thread.join()
            assert value_of(store.get("k")) == value_of(other.get("k")) == value


def test_in_front_of_sqlite_hits_count_as_uses(tmp_path: Path) -> None:
    with contextlib.closing(tiered(SQLiteStore(tmp_path / "cache.db", max_size=3))) as store:
        for key in "abc":
            store.put(key, entry_of(key))
        for _ in range(5):
            store.get("a")
        store.put("d", entry_of("d"))
        assert [key for key, _ in store.entries()] == ["c", "a", "d"]


@contextlib.contextmanager
def another_who_writes_during_reads(back: Any, write: Callable[[], object]) -> Iterator[None]:
    """Whoever reads *back* has found what is there when *write* happens, and gets it after."""
    read = back.get

    def and_another_writes(key: str) -> Entry | None:
        found: Entry | None = read(key)
        write()
        return found

    back.get = and_another_writes
    try:
        yield
    finally:
        back.get = read


def test_a_read_overlapping_a_write_restores_no_old_entry(store: TieredStore, back: Plain) -> None:
    back.inner.put("k", entry_of("old"))
    with another_who_writes_during_reads(back, lambda: store.put("k", entry_of("new"))):
        store.get("k")
    assert value_of(store.get("k")) == "new"


def test_an_entry_lost_by_the_back_store_is_not_served(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cache.db"
    with (
        contextlib.closing(SQLiteStore(path)) as back,
        contextlib.closing(SQLiteStore(path)) as other,
    ):
        store = tiered(back)
        cache = FailOpenStore(store, strict=True, on_error=print)
        cache.put("k", entry_of("old"))
        other.delete("k")
        with another_who_writes_during_reads(back, lambda: store.put("another", entry_of("new"))):
            assert cache.get("k") is None


def test_racing_writes_leave_no_stale_front_entry(store: TieredStore, back: Plain) -> None:
    put = back.inner.put

    def and_another_writes_first(key: str, entry: Entry) -> Removed:
        back.inner.put = put  # type: ignore[method-assign]
        put(key, entry)
        return store.put(key, entry_of("last"))

    back.inner.put = and_another_writes_first  # type: ignore[method-assign]
    store.put("k", entry_of("first"))
    assert value_of(store.get("k")) == "last"


def test_a_forked_child_goes_on_by_itself(tmp_path: Path) -> None:
    with contextlib.closing(tiered(SQLiteStore(tmp_path / "cache.db"))) as store:
        store.put("k", entry_of("parent"))

        def child() -> Any:
            seen = value_of(store.get("k"))
            store.put("k", entry_of("child"))
            return seen

        assert in_child(child) == "parent"
        assert value_of(store.get("k")) == "child"


# -- When the back is gone


def test_a_failing_back_store_is_reported_and_fresh_entries_served(
    back: Plain, timer: Clock
) -> None:
    with LLMCache(backend=tiered(back, timer)) as cache:
        cache.put("known", "answer")
        back.fails = True
        for number in range(5):  # by then it is left alone
            assert cache.get_or_call(f"q{number}", lambda messages: "called") == "called"
        assert cache.engine.backend.circuit_open
        assert cache.stats().errors > 0
        assert cache.get("known") == "answer"
        timer.advance(10)
        assert cache.get("known") is None


def test_hits_in_front_do_not_pass_for_signs_of_life(back: Plain) -> None:
    with LLMCache(backend=tiered(back)) as cache:
        cache.put("known", "answer")
        back.fails = True
        for number in range(3):
            assert cache.get("known") == "answer"
            assert cache.get(f"q{number}") is None
        assert cache.engine.backend.circuit_open


def test_a_failing_sqlite_is_told_of_too(
    tmp_path: Path, timer: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = SQLiteStore(tmp_path / "cache.db")
    with LLMCache(backend=tiered(back, timer)) as cache:
        cache.put("known", "answer")

        def broken(*args: Any) -> Any:
            raise OSError("disk")

        monkeypatch.setattr(back._access, "use", broken)
        assert [cache.get("known") for _ in range(5)] == ["answer"] * 5
        assert cache.stats().errors >= 3
        timer.advance(10)
        assert cache.get("known") is None
        monkeypatch.undo()
        back.close()


@pytest.mark.parametrize("operation", ["put", "delete", "clear"])
def test_a_failed_write_still_invalidates_its_entities(
    store: TieredStore, back: Plain, operation: str
) -> None:
    store.put(KEY, entry_of("old"))
    back.fails = True
    args: dict[str, tuple[Any, ...]] = {
        "put": (KEY, entry_of("new")),
        "delete": (KEY,),
        "clear": ("1:ns:",),
    }
    with pytest.raises(StoreError):
        getattr(store, operation)(*args[operation])
    assert store.peek(KEY, offline=True) is None


async def test_on_an_event_loop_a_hit_in_front_needs_no_thread(
    back: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLMCache(backend=tiered(back)) as cache:
        cache.put("q", "a")

        async def no_thread(*args: Any) -> Any:
            raise AssertionError

        monkeypatch.setattr("asyncio.to_thread", no_thread)
        assert await cache.aget("q") == "a"
        with options(mode="replay"), pytest.raises(AssertionError):
            await cache.aget("absent")


# -- Made from a URL, or wrongly


def test_a_url_puts_memory_in_front_of_any_store(
    tmp_path: Path, redis_url: str, memcached_url: str
) -> None:
    for back in (f"sqlite:///{tmp_path}/cache.db", redis_url, memcached_url):
        url = f"tiered:memory,{back}"
        with LLMCache(backend=url) as cache, LLMCache(backend=back) as other:
            cache.put("q", {"a": 1})
            assert cache.get("q") == other.get("q") == {"a": 1}
            assert isinstance(cache.engine.backend.inner, TieredStore)
            assert repr(cache).startswith("LLMCache(backend='tiered:memory,")
            assert cache.clear() == 1
            assert cache.get("q") is None


def test_bounds_are_those_of_the_file_and_the_front_is_no_larger(tmp_path: Path) -> None:
    for given, expected in ((5, 5), (100_000, 4096), (None, 4096)):
        opened = open_store(
            f"tiered:memory,{tmp_path}/{given}.db", StoreSettings(max_size=given, clock=Clock())
        )
        assert isinstance(opened.store, TieredStore)
        assert repr(opened.store.front) == f"MemoryStore(max_size={expected}, max_bytes={64 << 20})"
        opened.store.close()


def test_stored_values_and_keys_are_encrypted(tmp_path: Path) -> None:
    from llm_cache_mem.values.encryption import new_key

    path = tmp_path / "cache.db"
    with LLMCache(backend=f"tiered:memory,{path}", encryption_key=new_key()) as cache:
        cache.put("q", "CANARY")
        assert cache.get("q") == "CANARY"
        held = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert b"CANARY" not in held
        assert cache.key("q").encode() not in held


@pytest.mark.parametrize(
    "url",
    [
        "tiered:memory,sqlite:///a.db,redis://CANARY",
        "tiered:",
        "tiered:memory",
        "tiered:memory,",
        "tiered:memory,memory",
        "tiered:sqlite:///a.db,redis://CANARY",
        "tiered:memory,x.jsonl",
    ],
)
def test_tiers_that_make_no_sense_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"tiered:memory,|known are") as caught:
        LLMCache(backend=url)
    assert "CANARY" not in str(caught.value)


def test_wrong_tiers_and_wrong_bounds_are_refused(back: Plain) -> None:
    with pytest.raises(TypeError, match="front"):
        TieredStore(back, back)  # type: ignore[arg-type]
    for wrong in (MemoryStore(), tiered(back), "redis://"):
        with pytest.raises(TypeError, match="back"):
            TieredStore(MemoryStore(), wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="front_seconds"):
        tiered(back, front_seconds=None)
    with pytest.raises(ValueError, match="front_seconds"):
        tiered(back, front_seconds=0)
