"""Turns go to one thread at a time, in order, and end with the caller that had them."""

import contextlib
import threading
from time import monotonic

from threads import until

from llm_cache_mem._util.turns import Turns


def test_one_has_the_turn_at_a_time_in_order_of_arrival() -> None:
    turns, order = Turns(), []
    first = turns.take(0)
    assert first is not None

    def work(number: int) -> None:
        turn = turns.take(60)
        assert turn is not None
        order.append(number)
        turns.end(turn)

    threads = []
    for number in range(20):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        until(lambda number=number: len(turns._queue) == number + 2)
    assert order == []
    turns.end(first)
    for thread in threads:
        thread.join(60)
    assert order == list(range(20))


def test_a_lease_wait_that_times_out_leaves_the_queue() -> None:
    turns = Turns()
    held = turns.take(0)
    assert held is not None
    began = monotonic()
    assert turns.take(0.02) is None
    assert monotonic() - began >= 0.02
    assert len(turns._queue) == 1


def test_turn_ends_with_the_caller_that_had_it() -> None:
    turns = Turns()

    def interrupted() -> None:
        turn = turns.take(0)
        assert turn is not None
        raise KeyboardInterrupt

    for _ in range(3):
        with contextlib.suppress(KeyboardInterrupt):
            interrupted()
    assert turns.take(0) is not None


def test_a_waiting_thread_gets_the_lease_of_a_dead_holder() -> None:
    turns = Turns()
    held = [turns.take(0)]
    got = []
    thread = threading.Thread(target=lambda: got.append(turns.take(60)))
    thread.start()
    until(lambda: len(turns._queue) == 2)
    held.clear()
    thread.join(60)
    assert got[0] is not None
