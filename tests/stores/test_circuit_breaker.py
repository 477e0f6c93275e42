"""The circuit breaker: how long it stays open, and what opens it."""

import pytest
from conftest import Clock

from llm_cache_mem.stores.circuit_breaker import CircuitBreaker


@pytest.fixture
def timer():
    return Clock(0.0)


def test_the_wait_grows_to_five_seconds_and_no_longer(timer):
    breaker = CircuitBreaker(timer=timer)
    for _ in range(3):
        breaker.failed()
    for _ in range(10):
        timer.advance(5.0)
        assert breaker.allows()
        breaker.failed()
    timer.advance(5.0)
    assert breaker.allows()


def test_earlier_failures_do_not_extend_the_open_state(timer):
    breaker = CircuitBreaker(timer=timer)
    for _ in range(50):
        breaker.failed()
    timer.advance(1.0)
    assert breaker.allows()
