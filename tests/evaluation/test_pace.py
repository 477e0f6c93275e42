"""Pace: when a provider that says how long to wait may be called again."""

from typing import Any

import pytest
from conftest import Clock

from llm_cache_mem.evaluation.pace import Pace, retry_after


class Refused(Exception):
    def __init__(self, status: int, headers: Any) -> None:
        super().__init__("no")
        self.response = type("Response", (), {"status_code": status, "headers": headers})()


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {"retry-after": "2"}, 2.0),
        (429, {"Retry-After": "0.5"}, 0.5),
        (429, {"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        (429, {"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30.0),
        (429, {}, None),
        (429, {"retry-after": "soon"}, None),
        (429, {"retry-after": "-1"}, None),
        (429, {"retry-after": "nan"}, None),
        (429, {"retry-after": "86400"}, None),
        (429, None, None),
        (503, {"retry-after": "2"}, None),
    ],
)
def test_a_wait_is_read_from_a_429_alone(status: int, headers: Any, seconds: float | None) -> None:
    assert retry_after(Refused(status, headers), Clock()) == seconds


def test_the_longest_hold_counts_for_every_call(clock: Clock) -> None:
    pace = Pace(clock)
    assert pace.seconds_left() == 0
    pace.hold(10)
    pace.hold(2)
    assert pace.seconds_left() == 10
    clock.advance(10)
    assert pace.seconds_left() == 0
