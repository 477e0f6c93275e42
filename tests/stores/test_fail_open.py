"""Fail-open: what a failing store costs, when it is left alone, and when it is tried again."""

import contextlib
import gc
import logging
import weakref

import pytest
from conftest import Clock

from llm_cache_mem.errors import StoreError, ValueNotCacheable
from llm_cache_mem.stores import MemoryStore, Removed
from llm_cache_mem.stores.circuit_breaker import CircuitBreaker
from llm_cache_mem.stores.fail_open import FailOpenStore
from llm_cache_mem.stores.failures import NotAsked
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

ENTRY = Entry(Payload.of(1), 0.0)


class Flaky(MemoryStore):
    """A store that raises *fault* while there is one, and counts how often it was tried."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: BaseException | None = None
        self.write_fault: BaseException | None = None
        self.delay = lambda: None
        self.tries = 0

    def _try(self):
        self.tries += 1
        self.delay()
        if self.fault is not None:
            raise self.fault

    def get(self, key):
        self._try()
        return super().get(key)

    def put(self, key, entry):
        self._try()
        if self.write_fault is not None:
            raise self.write_fault
        return super().put(key, entry)

    def delete(self, key, *, stored_at=None):
        self._try()
        return super().delete(key, stored_at=stored_at)

    def size(self, prefix=""):
        self._try()
        return super().size(prefix)


@pytest.fixture
def flaky():
    return Flaky()


@pytest.fixture
def timer():
    return Clock(0.0)


@pytest.fixture
def errors():
    return []


@pytest.fixture
def fail_open(flaky, timer, errors):
    return FailOpenStore(flaky, strict=False, on_error=errors.append, timer=timer)


FAULTS = [
    OSError(28, "full"),
    MemoryError(),
    RecursionError(),
    UnicodeError(),
    OverflowError(),
    StoreError("S", "get", "x"),
    ValueError(),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_whatever_a_store_raises_costs_a_miss_or_a_dropped_write(fail_open, flaky, errors, fault):
    flaky.fault = fault
    assert fail_open.get("k") is None
    assert fail_open.put("k", ENTRY) is None
    assert errors == ["get", "put"]
    flaky.fault = None
    assert fail_open.put("k", ENTRY) == Removed()
    assert fail_open.get("k") is ENTRY


def test_three_failures_open_the_breaker_until_a_probe_succeeds(fail_open, flaky, timer):
    flaky.fault = OSError()
    for _ in range(10):
        fail_open.get("k")
    assert flaky.tries == 3
    timer.advance(1.0)
    fail_open.get("k")
    fail_open.get("k")
    assert flaky.tries == 4
    flaky.fault = None
    timer.advance(2.0)
    fail_open.put("k", ENTRY)
    assert fail_open.get("k") is ENTRY


def test_an_unstorable_value_does_not_close_the_breaker(fail_open, flaky, timer):
    fail_open.put("k", ENTRY)
    flaky.fault = OSError("down")
    for _ in range(3):
        fail_open.get("k")
    timer.advance(1)
    flaky.fault = ValueNotCacheable("value", "too large")  # found out before the server is asked
    with pytest.raises(ValueNotCacheable):
        fail_open.put("k", ENTRY)
    assert fail_open.circuit_open
    flaky.fault = None
    assert fail_open.get("k") is ENTRY  # the next call is the probe
    assert not fail_open.circuit_open


def test_slow_answers_count_as_failures(flaky, timer, errors):
    flaky.slow_seconds = 0.5
    fail_open = FailOpenStore(flaky, strict=False, on_error=errors.append, timer=timer)
    flaky.delay = lambda: timer.advance(0.6)
    fail_open.put("k", ENTRY)
    assert fail_open.get("k") is ENTRY  # it came, after all
    assert errors == ["put", "get"]
    assert fail_open.get("k") is None  # two such calls are enough
    assert flaky.tries == 2


def test_counting_may_take_its_time(flaky, timer, errors):
    flaky.slow_seconds = 0.5
    fail_open = FailOpenStore(flaky, strict=False, on_error=errors.append, timer=timer)
    flaky.delay = lambda: timer.advance(5)
    for _ in range(5):
        assert fail_open.size() == 0
    assert errors == []


def test_a_store_that_does_not_say_when_it_is_slow_is_waited_for(fail_open, flaky, timer, errors):
    flaky.delay = lambda: timer.advance(60)
    for _ in range(5):
        fail_open.put("k", ENTRY)
        assert fail_open.get("k") is ENTRY
    assert errors == []


def test_one_probe_at_a_time_and_interruption_frees_it(fail_open, flaky, timer):
    flaky.fault = OSError()
    for _ in range(3):
        fail_open.get("k")
    flaky.fault = KeyboardInterrupt()
    timer.advance(1.0)
    with pytest.raises(KeyboardInterrupt):
        fail_open.get("k")
    flaky.fault = None
    timer.advance(5.0)
    fail_open.get("k")
    assert flaky.tries == 5


def test_interrupted_call_is_gone_at_once(fail_open, flaky):
    """What it had, such as its turn to write, ends with its frames: no garbage is collected."""
    flaky.fault = KeyboardInterrupt()

    class Turn:
        pass

    def interrupted():
        turn = Turn()
        held.append(weakref.ref(turn))
        fail_open.get("k")

    held = []
    gc.disable()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            interrupted()
        flaky.fault = None
        assert held[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("moment", ["allows", "succeeded"])
def test_interrupt_around_a_probe_frees_it(fail_open, flaky, timer, monkeypatch, moment):
    """A signal handler may raise when the probe is allowed and not yet made, or over."""
    flaky.fault = OSError()
    for _ in range(3):
        fail_open.get("k")
    flaky.fault = None
    timer.advance(1.0)
    step = getattr(CircuitBreaker, moment)

    def interrupted(breaker):
        if moment == "allows":
            step(breaker)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CircuitBreaker, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            fail_open.get("k")
    tries = flaky.tries
    fail_open.get("k")
    assert flaky.tries == tries + 1


def test_a_failure_and_a_recovery_are_logged_once_each(fail_open, flaky, timer, caplog):
    caplog.set_level(logging.WARNING)
    for _ in range(20):
        flaky.fault = OSError()
        fail_open.get("k")
        flaky.fault = None
        fail_open.get("k")
    assert len(caplog.records) == 1
    timer.advance(61)
    flaky.fault = OSError()
    fail_open.get("k")
    assert len(caplog.records) == 2


def test_strict_raises_a_store_error_from_the_cause(flaky, errors):
    fail_open = FailOpenStore(flaky, strict=True, on_error=errors.append)
    flaky.fault = OSError(28, "secret path")
    with pytest.raises(StoreError, match="Flaky: get failed: OSError") as caught:
        fail_open.get("k")
    assert isinstance(caught.value.__cause__, OSError)
    assert "secret" not in str(caught.value)


def test_a_named_peer_that_fails_raises(fail_open, flaky):
    flaky.fault = OSError()
    with pytest.raises(StoreError, match="delete"):
        fail_open.delete("k")
    assert fail_open.discard("k", 0.0) is False
    assert fail_open.size() == 0


def test_entries_stop_where_the_store_stops(fail_open, flaky):
    fail_open.put("a", ENTRY)
    assert list(fail_open.entries()) == [("a", ENTRY)]


def test_interrupts_are_no_failures_of_the_store(fail_open, flaky):
    fail_open.put("k", ENTRY)
    flaky.fault = KeyboardInterrupt()
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            fail_open.get("k")
    flaky.fault = None
    assert fail_open.get("k") is ENTRY


def test_failing_writes_are_bypassed_while_reads_go_on(fail_open, flaky, timer, errors):
    """Another process holds SQLite's write lock: each write would wait for it in vain."""
    fail_open.put("k", ENTRY)
    flaky.write_fault = StoreError("SQLiteStore", "put", "the write lock is held elsewhere")
    for _ in range(10):
        assert fail_open.get("k") is ENTRY
        assert fail_open.put("new", ENTRY) is None
    assert errors == ["put", "put", "put"]
    assert fail_open.circuit_open
    timer.advance(1.0)
    flaky.write_fault = None
    assert fail_open.put("new", ENTRY) == Removed()
    assert not fail_open.circuit_open


def test_failing_reads_bypass_writes_too(fail_open, flaky):
    flaky.fault = OSError()
    for _ in range(3):
        fail_open.get("k")
    assert fail_open.put("k", ENTRY) is None
    assert flaky.tries == 3


def test_a_hanging_store_costs_a_read_and_a_write(flaky, timer, errors):
    flaky.slow_seconds = 0.5
    fail_open = FailOpenStore(flaky, strict=False, on_error=errors.append, timer=timer)
    flaky.delay = lambda: timer.advance(0.25)
    flaky.fault = OSError("timed out")
    fail_open.get("k")
    fail_open.put("k", ENTRY)
    fail_open.get("k")
    fail_open.put("k", ENTRY)
    assert timer() == 0.5


def test_writes_may_succeed_while_no_read_is_made(fail_open, flaky, timer):
    flaky.fault = OSError()
    for _ in range(3):
        fail_open.get("k")
    flaky.fault = None
    timer.advance(1.0)
    for _ in range(3):
        assert fail_open.put("k", ENTRY) == Removed()


def test_the_log_names_the_bypass_time_and_the_cause(fail_open, flaky, timer, caplog):
    caplog.set_level(logging.WARNING)
    flaky.name = "redis://cache:6379/0"
    flaky.fault = TimeoutError("secret")
    for _ in range(3):
        fail_open.get("k")
    timer.advance(1.0)
    flaky.fault = None
    fail_open.get("k")
    assert [record.getMessage() for record in caplog.records] == [
        "redis://cache:6379/0: get failed, continuing without the cache (TimeoutError)",
        "redis://cache:6379/0: 3 consecutive failures, bypassing the cache for 1 s"
        " (last error: TimeoutError)",
        "redis://cache:6379/0: working again",
    ]


def test_the_log_tells_bypassed_writes_from_a_bypassed_cache(fail_open, flaky, caplog):
    caplog.set_level(logging.WARNING)
    flaky.name = "sqlite:///cache.db"
    flaky.write_fault = StoreError("SQLiteStore", "put", "the write lock is held elsewhere")
    for _ in range(3):
        fail_open.get("k")
        fail_open.put("k", ENTRY)
    assert caplog.records[-1].getMessage() == (
        "sqlite:///cache.db: 3 consecutive failed writes, bypassing writes for 1 s"
        " (last error: the write lock is held elsewhere)"
    )


def test_a_call_that_never_asked_the_store_is_no_failure(fail_open, flaky, errors):
    fail_open.put("k", ENTRY)
    flaky.fault = NotAsked("Flaky", "get", "no connection came free")
    for _ in range(10):
        assert fail_open.get("k") is None
    assert errors == ["get"] * 10
    flaky.fault = None
    assert fail_open.get("k") is ENTRY


def test_a_flapping_store_is_logged_once_a_minute(fail_open, flaky, timer, caplog):
    caplog.set_level(logging.WARNING)
    for _ in range(10):
        flaky.fault = OSError()
        for _ in range(3):
            fail_open.get("k")
        timer.advance(1.0)
        flaky.fault = None
        fail_open.get("k")
    assert [record.getMessage().split(": ")[1].split()[0] for record in caplog.records] == [
        "get",
        "3",
        "working",
    ]
