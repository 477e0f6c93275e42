"""Everything at once: threads and loops that call, fail, die, are cancelled, call again inside,
while others forget."""

import asyncio
import faulthandler
import gc
import random
import sys
import threading
import time
from collections import Counter
from typing import Any

import pytest

from llm_cache_mem.engine.flight import Flight
from llm_cache_mem.engine.single_flight import SingleFlight

KEYS = ["a", "b", "c", "d"]


class Boom(Exception):
    pass


EVENTS = (
    "coalesced",
    "acoalesced",
    "error",
    "death",
    "deleted",
    "cleared",
    "cancelled",
    "not stored",
)


class World:
    """A small cache around one SingleFlight, and the books that say whether it kept its
    promises."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.flights = SingleFlight(600)  # longer than the test: nobody may need it
        self.store: dict[str, tuple[str, int]] = {}
        self.locks = {key: threading.Lock() for key in KEYS}
        self.generation = dict.fromkeys(KEYS, 0)
        self.calls: Counter[tuple[str, int]] = Counter()
        self.excused: Counter[tuple[str, int]] = (
            Counter()
        )  # calls that did not end in a store: errors, deaths, calls inside
        self.events: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.end = time.monotonic() + 3

    def running(self) -> bool:
        """For some seconds, or on a busy machine until everything has happened."""
        return time.monotonic() < self.end + (
            60 if min(map(self.events.__getitem__, EVENTS)) == 0 else 0
        )

    def begin(self, key: str, flight: Flight, *, inside: bool = False) -> int:
        """Count a call to the model; the generation that it belongs to."""
        with self.locks[key]:
            generation = self.generation[key]
            if not flight._forgotten:
                self.calls[key, generation] += 1
                self.excused[key, generation] += inside
            return generation

    def excuse(self, key: str, generation: int, event: str) -> None:
        self.events[event] += 1
        with self.locks[key]:
            self.excused[key, generation] += 1

    def finish(self, key: str, generation: int, flight: Flight) -> tuple[str, int]:
        def store() -> bool:
            if self.generation[key] != generation:
                self.wrong.append(
                    f"{key}: an answer of generation {generation} came back in"
                    f" {self.generation[key]}"
                )
            self.store[key] = (key, generation)
            return True

        self.events["stored" if flight.commit(store) else "not stored"] += 1
        return key, generation

    def delete(self, key: str) -> None:
        with self.locks[key]:
            self.flights.forget(key)
            self.generation[key] += 1
            self.store.pop(key, None)
        self.events["deleted"] += 1

    def clear(self) -> None:
        for lock in self.locks.values():
            lock.acquire()
        self.flights.forget()
        for key in KEYS:
            self.generation[key] += 1
        self.store.clear()
        for lock in self.locks.values():
            lock.release()
        self.events["cleared"] += 1

    # -- Callers

    def call(self, rng: random.Random, key: str) -> None:
        own_death = None

        def work(flight: Flight) -> tuple[str, int]:
            nonlocal own_death
            if (found := self.store.get(key)) is not None:
                return found
            generation = self.begin(key, flight)
            time.sleep(rng.choice([0, 0, 0.0005, 0.003]))
            match rng.randrange(10):
                case 0:
                    self.excuse(key, generation, "error")
                    raise Boom(key)
                case 1:
                    self.excuse(key, generation, "death")
                    own_death = rng.choice([KeyboardInterrupt, SystemExit])()
                    raise own_death
                case 2:
                    self.flights.run(
                        key,
                        lambda inner: self.finish(key, self.begin(key, inner, inside=True), inner),
                    )
            return self.finish(key, generation, flight)

        try:
            result, coalesced = (self.store.get(key), False)
            if result is None:
                result, coalesced = self.flights.run(key, work)
            self.events["coalesced" if coalesced else "led or hit"] += 1
            self.check(result[0] == key, f"{key} got {result}")
        except Boom as exc:
            self.check(exc.args == (key,), f"{key} got {exc!r}")
        except (KeyboardInterrupt, SystemExit) as exc:
            self.check(exc is own_death, f"a thread was killed by another's {exc!r}")

    async def acall(self, rng: random.Random, key: str) -> None:
        async def work(flight: Flight) -> tuple[str, int]:
            if (found := self.store.get(key)) is not None:
                return found
            generation = self.begin(key, flight)
            try:
                await asyncio.sleep(rng.choice([0, 0, 0.0005, 0.003]))
            except asyncio.CancelledError:
                self.excuse(key, generation, "death")
                raise
            match rng.randrange(60):
                case 0 | 1 | 2 | 3 | 4:
                    self.excuse(key, generation, "error")
                    raise Boom(key)
                case 5:
                    self.excuse(key, generation, "death")
                    raise SystemExit
                case 6 | 7 | 8 | 9:

                    async def again(inner: Flight) -> tuple[str, int]:
                        return self.finish(key, self.begin(key, inner, inside=True), inner)

                    await self.flights.arun(key, again)
            return self.finish(key, generation, flight)

        try:
            result, coalesced = await self.flights.arun(key, work)
            self.events["acoalesced" if coalesced else "aled"] += 1
            self.check(result[0] == key, f"{key} got {result}")
        except Boom as exc:
            self.check(exc.args == (key,), f"{key} got {exc!r}")

    def check(self, good: bool, otherwise: str) -> None:
        self.events["answered"] += 1
        if not good:
            self.wrong.append(otherwise)

    # -- Actors

    def thread(self, rng: random.Random) -> None:
        while self.running():
            self.call(rng, rng.choice(KEYS))
            time.sleep(rng.choice([0, 0.001]))

    def loop(self, rng: random.Random) -> None:
        while self.running():
            try:
                asyncio.run(self.life_of_a_loop(rng))
            except (
                SystemExit,
                RuntimeError,
            ):  # RuntimeError: killed once more while asyncio.run was ending it
                self.events["loop killed"] += 1

    def report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "SingleFlight" in repr(
            context
        ):  # of the callers' own tasks, those that a kill has cut off are reported rightly
            self.wrong.append(repr(context))

    async def life_of_a_loop(self, rng: random.Random) -> None:
        asyncio.get_running_loop().set_exception_handler(self.report)
        callers: set[asyncio.Task[None]] = set()
        for _ in range(rng.randrange(30)):
            callers |= {
                asyncio.create_task(self.acall(rng, rng.choice(KEYS)))
                for _ in range(rng.randrange(12))
            }
            await asyncio.sleep(rng.choice([0, 0.001]))
            pool = [*callers, *self.ours()] if rng.random() < 0.5 else []
            for task in rng.sample(pool, min(len(pool), rng.randrange(4))):
                task.cancel()
                self.events["cancelled"] += 1
            callers = {task for task in callers if not task.done()}
        if rng.random() < 0.7:  # else leave them to the end of the loop
            await asyncio.gather(*callers, return_exceptions=True)

    def ours(self) -> "list[asyncio.Task[None]]":
        here = asyncio.get_running_loop()
        return [task for task in self.flights._tasks.copy() if task.get_loop() is here]

    def remover(self, rng: random.Random) -> None:
        while self.running():
            if rng.random() < 0.1:
                self.clear()
            else:
                self.delete(rng.choice(KEYS))
            time.sleep(rng.choice([0, 0.001, 0.004]))


def test_no_caller_hangs_and_no_key_is_called_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    # Those of the callers' own tasks that a kill has cut off; a traceback would keep their flights.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    seed = random.SystemRandom().randrange(2**32)
    print(f"{seed=}")
    world = World(seed)
    actors = [world.thread] * 8 + [world.loop] * 3 + [world.remover] * 2
    threads = [
        threading.Thread(target=actor, args=(random.Random(f"{seed} {i}"),), daemon=True)
        for i, actor in enumerate(actors)
    ]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        stuck = [thread for thread in threads if thread.is_alive()]
        if stuck:
            faulthandler.dump_traceback(all_threads=True)
    finally:
        sys.setswitchinterval(interval)
    # Closing a coroutine whose loop was killed runs its own ends, which leaves more to collect, as
    # often as a lead was handed on to another one of them.
    for _ in range(50):
        gc.collect()
        if not world.flights._table._known:
            break
    print(dict(world.events))
    assert not stuck
    assert not world.wrong
    assert {at: calls for at, calls in world.calls.items() if calls > 1 + world.excused[at]} == {}
    assert min(map(world.events.__getitem__, EVENTS)) > 0
    assert not world.flights._table._listed
    assert not world.flights._tasks
    assert not world.flights._table._known
