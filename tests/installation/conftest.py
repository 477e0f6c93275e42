"""What the tests of ``install`` share: a loopback provider, and nothing left installed."""

from collections.abc import Iterator

import pytest
from http_server import Provider, provider

from llm_cache_mem import uninstall
from llm_cache_mem.installation.active import active


@pytest.fixture
def server() -> Iterator[Provider]:
    with provider() as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_left_installed() -> Iterator[None]:
    yield
    uninstall()
    assert active() is None
