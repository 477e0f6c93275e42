"""What the tests of the HTTP layer share: a loopback provider, and both HTTP libraries by name."""

from collections.abc import Iterator

import pytest
from http_server import Provider, provider


@pytest.fixture
def server() -> Iterator[Provider]:
    with provider() as server:
        yield server
