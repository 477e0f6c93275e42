"""Single-flight for many keys at once: each key is in the hand of one caller at a time.

A caller claims those of its keys that are free, answers them in one call, and only then waits for
the others, so that no two callers wait for each other.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem._util.in_thread import running_loop

__all__ = ["Claim", "Claims"]


class Claim:
    """The *keys* in a caller's hand. *answers* has what came of them, once it is over."""

    def __init__(self, claims: "Claims", keys: list[str]) -> None:
        from concurrent.futures import Future

        self.keys = keys
        self.answers: dict[str, Any] = {}
        self._claims = claims
        self._owner: object = running_loop() or threading.get_ident()
        self._over: Future[None] = Future()
        self._over.set_running_or_notify_cancel()  # no waiter can cancel it

    def finish(self, answers: Mapping[str, Any]) -> None:
        """Give the keys back, with the *answers* to those that have one."""
        self.answers.update(answers)
        self._claims._drop(self)
        self._over.set_result(None)

    def wait(self, seconds: float) -> None:
        """Wait until it is over; TimeoutError if that takes longer. Returns at once where this
        thread or its event loop would wait for itself."""
        if self._owner not in (threading.get_ident(), running_loop()):
            self._over.result(seconds)

    async def await_(self, seconds: float) -> None:
        """``wait`` for a task."""
        import asyncio

        await asyncio.wait_for(asyncio.wrap_future(self._over), seconds)


class Claims:
    """The claims of one cache. Thread-safe; a forked child starts anew."""

    def __init__(self) -> None:
        self._held: dict[str, Claim] = {}
        self._lock = threading.RLock()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._held = {}

    def take(self, keys: Iterable[str]) -> tuple[Claim, dict[str, Claim]]:
        """A claim on those of *keys* that are free, and the claims of others on the rest."""
        keys = list(keys)
        with self._lock:
            others = {key: self._held[key] for key in keys if key in self._held}
            claim = Claim(self, [key for key in keys if key not in others])
            self._held.update(dict.fromkeys(claim.keys, claim))
        return claim, others

    def _drop(self, claim: Claim) -> None:
        with self._lock:
            for key in claim.keys:
                if self._held.get(key) is claim:
                    del self._held[key]
