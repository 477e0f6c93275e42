"""What all tests share: a clock they advance, and the real data that lies beside the project."""

import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from stores.servers import (  # noqa: F401  # fixtures
    _cluster,
    memcached_server,
    memcached_url,
    redis_server,
    redis_url,
    three_masters,
    valkey_server,
    valkey_url,
)

from llm_cache_mem._util import fork

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure() -> None:
    """A shell starts what it runs in the background deaf to Ctrl-C, and so are the programs that a
    test starts and interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Each HTTP client loads the file of trusted authorities. A file of one saves 30 ms a client, and
    # no test needs the others.
    os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("no_authority.pem"))


def pytest_collection_finish() -> None:
    """Exempt the tests and the packages that they import from garbage collection, which would take
    half a second each time."""
    # It looks at what refers to the random generators of others, which it would not find later.
    importlib.import_module("hypothesis")
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Write what coverage has measured: pytest-xdist kills a worker that takes too long to exit."""
    measuring = sys.modules.get("coverage")
    measured = measuring.Coverage.current() if measuring else None
    if measured is not None:
        measured.save()


class Clock:
    """Time as an argument: ``clock()`` is now, in Unix seconds; ``clock.advance(seconds)`` moves
    it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def _plain_environment() -> Iterator[None]:
    """No test depends on what a developer has set for their programs, on what a test runner says
    of its terminal, or on whether coverage is measured in the processes that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() & {
            "LLM_CACHE_MEM_URL",
            "LLM_CACHE_MEM_MODE",
            "LLM_CACHE_MEM_KEY",
            "COLUMNS",
            "COVERAGE_PROCESS_CONFIG",
        }:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    """A store that a test leaves open is closed, or the garbage collector finds its connections
    some tests later, and that test fails."""
    before = WeakSet(fork._live)
    yield
    for left in set(fork._live) - set(before):
        if type(left).__module__.startswith("llm_cache_mem.stores.") and hasattr(left, "close"):
            left.close()


def _stores() -> Iterator[tuple[Any, str]]:
    """The stores that give up waiting, and the name of their timeout."""
    for module, name, timeout in (
        ("sqlite", "SQLiteStore", "lock_timeout"),
        ("redis", "RedisStore", "timeout"),
        ("memcached", "MemcachedStore", "timeout"),
    ):
        with contextlib.suppress(ImportError):
            yield getattr(importlib.import_module(f"llm_cache_mem.stores.{module}"), name), timeout


STORES = list(_stores())


@pytest.fixture
def usual_timeouts() -> None:
    """For tests of how long a store waits: it waits no longer than it does for users."""


@pytest.fixture(autouse=True)
def _long_timeouts(request: pytest.FixtureRequest) -> Iterator[None]:
    """Stores wait for a machine that is busy: a miss in half a second is right for users, and would
    be wrong in a test."""
    with pytest.MonkeyPatch.context() as patch:
        if "usual_timeouts" not in request.fixturenames:
            for store, timeout in STORES:
                patch.setitem(store.__init__.__kwdefaults__, timeout, 20.0)
        yield


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recorded data; skips where it is absent, except in CI, where it must be
    there."""
    data = SHARED / "data"
    if not data.is_dir():
        if os.environ.get("CI"):
            pytest.fail("the shared data must be beside the project in CI")
        pytest.skip("the shared data folder is not beside this checkout")
    return data
