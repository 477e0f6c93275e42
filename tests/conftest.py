"""What all tests share: a clock they advance, and the real data that lies beside the project."""

import os
from collections.abc import Iterator
from pathlib import Path

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

SHARED = Path(__file__).resolve().parents[2] / "shared"


class Clock:
    """Time as an argument: ``clock()`` is now, in Unix seconds; ``clock.advance(seconds)`` moves it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def _plain_environment() -> Iterator[None]:
    """What a developer has set for his programs, and a test runner for a terminal that is not there, decides no test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() & {"LLM_CACHE_MEM_URL", "LLM_CACHE_MEM_MODE", "LLM_CACHE_MEM_KEY", "COLUMNS"}:
            patch.delenv(name)
        yield


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recorded data; skips where it is absent, except in CI, where it must be there."""
    data = SHARED / "data"
    if not data.is_dir():
        if os.environ.get("CI"):
            pytest.fail("the shared data must be beside the project in CI")
        pytest.skip("the shared data folder is not beside this checkout")
    return data
