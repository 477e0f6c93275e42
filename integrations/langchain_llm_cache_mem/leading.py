"""Taking turns: of the tasks that ask LangChain for the same thing at once, one calls the model
while the others wait.

LangChain tells a cache of a lookup and of a success, not of a failure. But it runs each call of a
chat model in a task of its own, which ends either way, so the turn of a task is over when it says
so or when it ends. Nowhere else does a lookup say whose it is.
"""

import asyncio
from weakref import WeakKeyDictionary

__all__ = ["Turns"]

_ONE_CALL = "_agenerate_with_cache"
# the first who waited tries again where a call has failed; after that everybody does
_HANDED_ON = 2


class Turns:
    """Whose turn it is, by event loop and key. Turns are taken in a loop's thread only."""

    def __init__(self) -> None:
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Turn]] = (
            WeakKeyDictionary()
        )

    async def take(self, key: str, wait_seconds: float) -> None:
        """Return when this task may look *key* up, and call the model on a miss. It waits no longer
        than *wait_seconds*."""
        task = asyncio.current_task()
        if task is None or getattr(task.get_coro(), "__name__", "") != _ONE_CALL:
            return
        loop = task.get_loop()
        turns = self._loops.setdefault(loop, {})
        deadline = loop.time() + wait_seconds
        for _ in range(_HANDED_ON):
            turn = turns.get(key)
            if turn is None or turn.task is task or loop.time() >= deadline:
                break
            await turn.over(deadline - loop.time())
        if key not in turns:
            turns[key] = _Turn(task, turns, key)

    def give_up(self, key: str) -> None:
        """The turn of this task is over: what it found or stored can be looked up."""
        task = asyncio.current_task()
        if task is not None:
            turn = self._loops.get(task.get_loop(), {}).get(key)
            if turn is not None and turn.task is task:
                turn.end()


class _Turn:
    def __init__(self, task: "asyncio.Task[object]", turns: "dict[str, _Turn]", key: str) -> None:
        self.task = task
        self._turns = turns
        self._key = key
        self._waiters: list[asyncio.Future[None]] = []
        task.add_done_callback(self.end)

    async def over(self, seconds: float) -> None:
        """Wait for the end, at most *seconds*."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await asyncio.wait([waiter], timeout=seconds)

    def end(self, task: object = None) -> None:
        if self._turns.get(self._key) is self:
            del self._turns[self._key]
            self.task.remove_done_callback(self.end)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
