"""The calls of a run: one request through the cache, at the pace and within the budget of all."""

from functools import partial
from threading import Event
from typing import Any, Final

from llm_cache_mem.engine.calls import Made
from llm_cache_mem.engine.choices import NO_CHOICES, Choices, choices_for
from llm_cache_mem.engine.circumstances import timeout_of
from llm_cache_mem.errors import BudgetSpent, ValueNotCacheable
from llm_cache_mem.evaluation.pace import retry_after
from llm_cache_mem.evaluation.run import Item, Outcome, Run
from llm_cache_mem.evaluation.store_retries import StoreRetries
from llm_cache_mem.keys.request import Request
from llm_cache_mem.values.entry import Entry

__all__ = ["Caller"]

_MOST_TRIES: Final = 10
"""How often a request is called that the provider asks to come back with later."""
_FIRST_CALL: Final = 0.02
"""Seconds between looks whether the first call of a run with a budget has a price."""


class Caller:
    """Makes the calls for the items of *run*. Thread-safe."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._engine = run.engine
        self._fn = run.fn
        self._retries = StoreRetries(run.engine)

    def answer(self, item: Item, stop: Event) -> Outcome:
        """The outcome of the call for *item*, when the pace allows it. Raises nothing. Where *stop*
        is set before it begins, no call is made."""
        outcome = Outcome()
        for _ in range(_MOST_TRIES):
            try:
                while (seconds := self._wait()) > 0:
                    stop.wait(seconds)
                    if stop.is_set():
                        return outcome
            except BudgetSpent as exc:
                return Outcome(error=exc)
            outcome = self._run.context.copy().run(self._call, item, stop)
            if not self._comes_back(outcome):
                break
        return outcome

    async def aanswer(self, item: Item) -> Outcome:
        """``answer`` for a coroutine function. Raises only when it is cancelled."""
        import asyncio

        outcome = Outcome()
        for _ in range(_MOST_TRIES):
            try:
                while (seconds := self._wait()) > 0:
                    await asyncio.sleep(seconds)
            except BudgetSpent as exc:
                return Outcome(error=exc)
            outcome = await self._acall(item)
            if not self._comes_back(outcome):
                break
        return outcome

    def verify(self) -> None:
        """Make the calls of hits that are to be verified again, in the background."""
        for item, verifier, entry in self._run.hits_to_verify():
            if item.request is not None:
                verifier.verify_call(item.request, entry, partial(self._ask, item))

    def averify(self) -> None:
        """``verify`` for a coroutine function."""
        for item, verifier, entry in self._run.hits_to_verify():
            if item.request is not None:
                verifier.averify_call(item.request, entry, partial(self._aask, item))

    def _wait(self) -> float:
        """For how many seconds to wait before a call; 0.0: it begins. BudgetSpent if it may not."""
        left = self._run.pace.seconds_left()
        return left or (0.0 if self._run.budget.reserve() else _FIRST_CALL)

    def _comes_back(self, outcome: Outcome) -> bool:
        """Settle *outcome* with the budget; whether its call is to be made again, later."""
        paid = outcome.error is None and not outcome.hit
        self._run.budget.settle(outcome.usd, paid=paid)
        seconds = None if outcome.error is None else retry_after(outcome.error)
        if seconds is None:
            return False
        self._run.pace.hold(seconds)
        return True

    def _call(self, item: Item, stop: Event) -> Outcome:
        request, params = item.request, item.params
        epoch, errors = self._engine.epoch, self._retries.errors()
        choices = NO_CHOICES

        def call() -> Any:
            value = self._ask(item, choices)
            return choices.join(value) if choices else value

        try:
            if request is None:
                return self._outcome(item, Made(call(), None))
            if "n" in params:
                choices = choices_for(self._engine, request, self._fn, item.messages, params)
            hit = self._engine.lookup(request, other=choices.other)
            if hit is None and self._retries.fails(errors):
                hit = self._retries.retry(lambda: self._engine.recheck(request), stop)
            if hit is not None:
                return Outcome(hit.value, hit=True)
            made_in = self._engine.circumstances(self._fn, request, params)
            made = self._engine.calls.make(
                request, call, choices.codec, circumstances=made_in, timeout=timeout_of(params)
            )
            if self._is_lost(request, made, epoch):
                self._retries.retry(lambda: self._store(request, made.value), stop)
            return self._outcome(item, made)
        except BaseException as exc:  # noqa: BLE001  # the run decides what it means
            return Outcome(error=exc)

    async def _acall(self, item: Item) -> Outcome:
        request, params = item.request, item.params
        epoch, errors = self._engine.epoch, self._retries.errors()
        choices = NO_CHOICES

        async def call() -> Any:
            value = await self._aask(item, choices)
            return choices.join(value) if choices else value

        try:
            if request is None:
                return self._outcome(item, Made(await call(), None))
            if "n" in params:
                choices = await self._engine.off_loop(
                    lambda: choices_for(self._engine, request, self._fn, item.messages, params)
                )
            hit = await self._engine.alookup(request, other=choices.other)
            if hit is None and self._retries.fails(errors):
                hit = await self._retries.aretry(lambda: self._engine.recheck(request))
            if hit is not None:
                return Outcome(hit.value, hit=True)
            made_in = self._engine.circumstances(self._fn, request, params)
            made = await self._engine.calls.amake(
                request, call, choices.codec, circumstances=made_in, timeout=timeout_of(params)
            )
            if self._is_lost(request, made, epoch):
                await self._retries.aretry(lambda: self._store(request, made.value))
            return self._outcome(item, made)
        except Exception as exc:  # noqa: BLE001  # as in _call
            return Outcome(error=exc)

    def _ask(self, item: Item, choices: Choices = NO_CHOICES) -> Any:
        value = self._fn(messages=item.messages, **choices.params(item.params))
        if hasattr(value, "__await__"):
            getattr(value, "close", bool)()  # or it is reported as never awaited
            raise TypeError("map takes a function that returns its answer; amap, an async one")
        return value

    async def _aask(self, item: Item, choices: Choices = NO_CHOICES) -> Any:
        value = self._fn(messages=item.messages, **choices.params(item.params))
        if not hasattr(value, "__await__"):
            raise TypeError("amap takes a function that returns an awaitable; map, any other")
        return await value

    def _is_lost(self, request: Request, made: Made, epoch: int) -> bool:
        """Whether the answer is worth storing, and the store has not taken it."""
        answer, settings = made.answer, self._engine.settings
        if request.depends_on is not None:  # a put would begin in the generations of today
            return False
        if answer is None or made.free or answer.entry is not None or answer.payload is None:
            return False
        writes = settings.current_mode() in ("on", "refresh") and epoch == self._engine.epoch
        return writes and answer.below is None and settings.admit(made.value) is None

    def _store(self, request: Request, value: Any) -> Entry | None:
        try:
            return self._engine.writer.put(request, value)
        except ValueNotCacheable:  # too large, which has been counted
            return None

    def _outcome(self, item: Item, made: Made) -> Outcome:
        if made.free:
            return Outcome(made.value, hit=True, answer=made.answer)
        entry = None if made.answer is None else made.answer.entry
        model = item.params.get("model")
        named = model if isinstance(model, str) else None
        usd = (
            self._engine.writer.billing.usd_of(named, made.value)
            if entry is None
            else entry.cost_usd
        )
        return Outcome(made.value, usd=usd, answer=made.answer)
