"""Flights whose result goes on after the work has returned, and lanes: who may join whom."""

import asyncio
import gc
from typing import Any

import pytest

from llm_cache_mem.engine.flight import Flight
from llm_cache_mem.engine.single_flight import SingleFlight

KEY = "key"


class Result:
    """Something that can be held weakly."""


def lasting(flight: Flight) -> Result:
    flight.outlast()
    flights_of_results[result := Result()] = flight
    return result


flights_of_results: dict[Result, Flight] = {}


@pytest.fixture(autouse=True)
def _forget_results() -> Any:
    yield
    flights_of_results.clear()


@pytest.fixture
def flights() -> SingleFlight:
    return SingleFlight(5.0)


def test_a_long_stream_is_shared_until_it_ends(flights: SingleFlight) -> None:
    first, coalesced = flights.run(KEY, lasting)
    assert not coalesced
    assert flights.run(KEY, lasting) == (first, True)
    flights_of_results[first].end()
    assert flights.run(KEY, lasting)[1] is False


async def test_tasks_join_it_too(flights: SingleFlight) -> None:
    async def work(flight: Flight) -> Result:
        return lasting(flight)

    first, _ = await flights.arun(KEY, work)
    assert await asyncio.gather(*(flights.arun(KEY, work) for _ in range(3))) == [(first, True)] * 3
    assert flights.run(KEY, lasting) == (first, True)


def test_an_abandoned_stream_is_not_shared(flights: SingleFlight) -> None:
    flights.run(KEY, lasting)
    flights_of_results.clear()
    gc.collect()
    assert not flights._table._listed
    assert flights.run(KEY, lasting)[1] is False


def test_a_forgotten_flight_is_neither_shared_nor_stored(flights: SingleFlight) -> None:
    first, _ = flights.run(KEY, lasting)
    flights.forget(KEY)
    assert flights_of_results[first].commit(lambda: "stored") is None
    second, coalesced = flights.run(KEY, lasting)
    assert not coalesced
    assert flights_of_results[second].commit(lambda: "stored") == "stored"


def test_work_that_fails_does_not_outlast_its_flight(flights: SingleFlight) -> None:
    def fail(flight: Flight) -> Result:
        flight.outlast()
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        flights.run(KEY, fail)
    assert not flights._table._listed


def test_forgetting_a_key_reaches_every_circumstance(flights: SingleFlight) -> None:
    first, _ = flights.run(KEY, lasting, "threads")
    second, coalesced = flights.run(KEY, lasting, "loop")
    assert not coalesced
    assert flights.run(KEY, lasting, "threads") == (first, True)
    flights.forget(KEY)
    assert all(flights_of_results[result].commit(lambda: 1) is None for result in (first, second))
    assert not flights._table._listed


def test_a_solo_flight_is_never_shared_but_can_be_forgotten(flights: SingleFlight) -> None:
    flight = flights.solo(KEY)
    assert not flights._table._listed
    flights.forget()
    assert flight.commit(lambda: 1) is None
