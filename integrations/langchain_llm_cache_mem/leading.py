"""Taking leads: of the tasks that ask LangChain for the same thing at once, one calls the model
while the others wait.

LangChain tells a cache of a lookup and of a success, not of a failure. But it runs each call of a
chat model in a task of its own, which ends either way, so the lead of a task is over when it says
so or when it ends. Nowhere else does a lookup say whose it is.
"""

import asyncio
from threading import Event, Lock, get_ident
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from langchain_core.callbacks import BaseCallbackHandler

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem._util.in_thread import running_loop

__all__ = ["ROUNDS", "Leads", "TaskLeads"]

_ONE_CALL = "_agenerate_with_cache"
ROUNDS = 2
"""How many calls of others a caller waits for: one, and one more by the first of those who waited
for it if it failed."""


class TaskLeads:
    """The tasks that lead, by event loop and key. Used in the thread of each loop only."""

    def __init__(self) -> None:
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _TaskLead]] = (
            WeakKeyDictionary()
        )

    async def take(self, key: str, wait_seconds: float) -> bool:
        """Return when this task may look *key* up, and call the model on a miss. It waits no longer
        than *wait_seconds*. False if this is no task of langchain-core's for one call."""
        task = asyncio.current_task()
        if task is None or getattr(task.get_coro(), "__name__", "") != _ONE_CALL:
            return False
        loop = task.get_loop()
        leads = self._loops.setdefault(loop, {})
        deadline = loop.time() + wait_seconds
        for _ in range(ROUNDS):
            lead = leads.get(key)
            if lead is None or lead.task is task or loop.time() >= deadline:
                break
            await lead.over(deadline - loop.time())
        if key not in leads:
            leads[key] = _TaskLead(task, leads, key)
        return True

    def give_up(self, key: str) -> None:
        """End the lead of this task: what it found or stored can be looked up."""
        task = asyncio.current_task()
        if task is not None:
            lead = self._loops.get(task.get_loop(), {}).get(key)
            if lead is not None and lead.task is task:
                lead.end()


class _TaskLead:
    def __init__(
        self, task: "asyncio.Task[object]", leads: "dict[str, _TaskLead]", key: str
    ) -> None:
        self.task = task
        self._leads = leads
        self._key = key
        self._waiters: list[asyncio.Future[None]] = []
        task.add_done_callback(self.end)

    async def over(self, seconds: float) -> None:
        """Wait for the end, at most *seconds*."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await asyncio.wait([waiter], timeout=seconds)

    def end(self, task: object = None) -> None:
        if self._leads.get(self._key) is self:
            del self._leads[self._key]
            self.task.remove_done_callback(self.end)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class Leads:
    """Which thread leads, by key: the others that miss the same key wait for its call to end.
    Thread-safe, fork-safe.

    LangChain tells a cache of a success only, but tells the handlers of the call of either end.
    """

    def __init__(self) -> None:
        self._after_fork()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = Lock()
        self._leads: dict[str, _Lead] = {}

    def take(self, key: str, run_manager: Any) -> bool:
        """Whether this thread leads from now on, until ``release`` or the end of the run of
        *run_manager*."""
        with self._lock:
            if key in self._leads:
                return False
            lead = self._leads[key] = _Lead(self, key, run_manager.run_id)
        run_manager.handlers = [*run_manager.handlers, lead]
        return True

    def wait(self, key: str, seconds: float) -> bool:
        """Wait until no thread leads, at most *seconds*; whether that is so.

        False at once where the wait could be for this thread: if it leads another call, of which
        this one is a part, or if it runs an event loop.
        """
        with self._lock:
            lead = self._leads.get(key)
            nested = any(each.thread == get_ident() for each in self._leads.values())
        if lead is None:
            return True
        return not nested and running_loop() is None and lead.over.wait(max(0.0, seconds))

    def release(self, key: str, run_id: object = None) -> None:
        """Let the threads go on that wait for *key*, if this thread, or the run *run_id*, leads."""
        with self._lock:
            lead = self._leads.get(key)
            if lead is None or (lead.thread != get_ident() and lead.run_id != run_id):
                return
            del self._leads[key]
        lead.over.set()


class _Lead(BaseCallbackHandler):
    """The lead of this thread, with the run *run_id*, at whose end it is released."""

    def __init__(self, leads: Leads, key: str, run_id: UUID) -> None:
        self.thread = get_ident()
        self.run_id = run_id
        self.over = Event()
        self._leads = leads
        self._key = key

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        if run_id == self.run_id:
            self._leads.release(self._key, run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        if run_id == self.run_id:
            self._leads.release(self._key, run_id)
