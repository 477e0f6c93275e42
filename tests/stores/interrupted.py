"""A process whose signal handler raises at random moments, while threads use the same cache.

``python interrupted.py URL COALESCE INTERRUPTS SEED`` prints one JSON object: how many interrupts
there were, and what was not as it should be afterwards.
"""

import contextlib
import gc
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from llm_cache_mem import LLMCache
from llm_cache_mem.stores.sqlite import SQLiteStore

THREADS = 3
SLOW_SECONDS = 12.0  # for one operation; a lease whose holder is gone takes 7 of them


class Interrupt(BaseException):
    """What the signal handler raises."""


def model(messages: str, **params: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": messages.upper(), "finish_reason": "stop"}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


class Storm:
    def __init__(self, cache: LLMCache, seed: int) -> None:
        self.cache = cache
        self.rng = random.Random(seed)
        self.stopped = threading.Event()
        self.problems: list[str] = []
        self.progress = [time.monotonic()] * THREADS
        self.interrupts = 0

    def once(self, rng: random.Random) -> None:
        """One operation; what it gives is a function of what is asked."""
        text = f"{'shared' if rng.random() < 0.5 else threading.get_ident()} {rng.randrange(30)}"
        kind = rng.randrange(10)
        if kind < 6:
            found = self.cache.get_or_call(text, model, model="m")["content"]
        elif kind < 8:
            found = self.cache.get(text, model="m", default={"content": text.upper()})["content"]
        elif kind == 8:
            self.cache.put(text, model(text), model="m")
            return
        else:
            with contextlib.suppress(Exception):  # a failed delete is an error
                self.cache.delete(text, model="m")
            return
        if found != text.upper():
            self.problems.append(f"wrong answer to {text!r}")

    def work(self, number: int) -> None:
        rng = random.Random(number)
        while not self.stopped.is_set():
            self.once(rng)
            self.progress[number] = time.monotonic()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise inside of an operation, and nowhere else."""
        signal.setitimer(signal.ITIMER_REAL, self.rng.expovariate(1 / 150e-6) + 5e-6, 0.01)
        while frame is not None:
            if frame.f_code is Storm.once.__code__:
                self.interrupts += 1
                raise Interrupt
            frame = frame.f_back

    def rage(self, interrupts: int) -> None:
        """Use the cache until there have been so many interrupts."""
        signal.signal(signal.SIGALRM, self.handle)
        signal.setitimer(signal.ITIMER_REAL, 20e-6)
        while self.interrupts < interrupts and not self.hangs():
            try:
                self.once(self.rng)
            except Interrupt:
                continue
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    def hangs(self) -> list[int]:
        late = time.monotonic() - SLOW_SECONDS
        return [number for number, last in enumerate(self.progress) if last < late]

    def check_hangs(self, when: str) -> None:
        for number in self.hangs():
            self.problems.append(f"{when}: thread {number} made no progress for {SLOW_SECONDS} s")

    def check_after(self) -> None:
        """What works now that the interrupts are over."""
        for number in range(20):
            began = time.monotonic()
            self.once(random.Random(number))
            if time.monotonic() - began > SLOW_SECONDS:
                self.problems.append("an operation afterwards took too long")
        if not within(SLOW_SECONDS, self.stores):
            self.problems.append("nothing is stored afterwards")

    def stores(self) -> bool:
        key = f"afterwards {time.monotonic()}"
        self.cache.put(key, model(key), model="m")  # past the end of a bypass, it is stored
        return self.cache.get(key, model="m") is not None


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether ``holds()`` becomes true: what an interrupt has left stays as it is."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def main(url: str, coalesce: str, interrupts: int, seed: int) -> None:
    sys.unraisablehook = lambda _: None  # interrupts in callbacks, by the thousand
    with LLMCache(backend=url, coalesce="fleet" if coalesce == "fleet" else True) as cache:
        storm = Storm(cache, seed)
        for number in range(20):
            storm.once(random.Random(number))
        threads = [
            threading.Thread(target=storm.work, args=(n,), daemon=True) for n in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        storm.progress = [time.monotonic()] * THREADS
        storm.rage(interrupts)
        storm.check_hangs("in the storm")
        time.sleep(1.0)
        storm.check_hangs("afterwards")
        storm.stopped.set()
        for thread in threads:
            thread.join(SLOW_SECONDS)
        hung = any(thread.is_alive() for thread in threads)
        if hung:
            import faulthandler

            faulthandler.dump_traceback()
        if not hung:
            storm.check_after()
        gc.collect()
        store: Any = cache.engine.backend.inner
        pool = store._access.pool if isinstance(store, SQLiteStore) else vars(store).get("_pool")
        if pool is not None and not within(SLOW_SECONDS, lambda: pool.size == len(pool._idle)):
            storm.problems.append(f"{pool.size} connections are open, {len(pool._idle)} idle")
        if not within(SLOW_SECONDS, lambda: not lock_held(url)):
            storm.problems.append("the lock of the file is held")
        listed = cache.engine.flights._table._listed.values()
        flights = [flight for flight in listed if not flight.is_deserted]
        if flights:
            storm.problems.append(f"{len(flights)} calls seem to be under way")
        print(
            json.dumps(
                {
                    "interrupts": storm.interrupts,
                    "problems": storm.problems[:20],
                    "files": open_files(),
                    "errors": cache.stats().errors,
                }
            ),
            flush=True,
        )
        os._exit(0)


def lock_held(url: str) -> bool:
    """Whether another process could not write to the SQLite file."""
    path = Path(url.removeprefix("tiered:memory,").removeprefix("sqlite://") + ".lock")
    if not path.exists():
        return False
    import fcntl

    with path.open("r+b") as file:  # an open file of its own, so as another process
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
