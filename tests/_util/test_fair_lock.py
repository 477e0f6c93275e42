"""FairLock: one thread has it at a time, in order, and a caller that ends releases it."""

import contextlib
import threading
from time import monotonic

from threads import until

from llm_cache_mem._util.fair_lock import FairLock


def test_one_holds_the_lock_at_a_time_in_order_of_arrival() -> None:
    lock, order = FairLock(), []
    first = lock.acquire(0)
    assert first is not None

    def work(number: int) -> None:
        place = lock.acquire(60)
        assert place is not None
        order.append(number)
        lock.release(place)

    threads = []
    for number in range(20):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        until(lambda number=number: len(lock._queue) == number + 2)
    assert order == []
    lock.release(first)
    for thread in threads:
        thread.join(60)
    assert order == list(range(20))


def test_a_lease_wait_that_times_out_leaves_the_queue() -> None:
    lock = FairLock()
    held = lock.acquire(0)
    assert held is not None
    began = monotonic()
    assert lock.acquire(0.02) is None
    assert monotonic() - began >= 0.02
    assert len(lock._queue) == 1


def test_lock_is_free_when_its_caller_is_gone() -> None:
    lock = FairLock()

    def interrupted() -> None:
        place = lock.acquire(0)
        assert place is not None
        raise KeyboardInterrupt

    for _ in range(3):
        with contextlib.suppress(KeyboardInterrupt):
            interrupted()
    assert lock.acquire(0) is not None


def test_a_waiting_thread_gets_the_lease_of_a_dead_holder() -> None:
    lock = FairLock()
    held = [lock.acquire(0)]
    got = []
    thread = threading.Thread(target=lambda: got.append(lock.acquire(60)))
    thread.start()
    until(lambda: len(lock._queue) == 2)
    held.clear()
    thread.join(60)
    assert got[0] is not None
