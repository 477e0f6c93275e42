"""One process of the demo: asks its questions through a cache, and tells its parent what each took,
line by line.

Its orders come as JSON on stdin; what it says on stdout is one JSON object a line: ``{"phase":
...}`` when one begins, ``{"record": ...}`` for each question, ``{"note": ...}`` for a person.
"""

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from time import perf_counter
from typing import Any

import anthropic
import openai

from examples.demo import questions
from examples.demo.orders import Orders
from examples.demo.providers import Call, Providers, fingerprint, text_of
from llm_cache_mem import Event, LLMCache, Price
from llm_cache_mem.accounting.pricing import resolve
from llm_cache_mem.responses.usage import read_usage

__all__ = ["Session", "main"]

_BURST_THREADS = 8
_BURST_TASKS = 12
_PAID_CALLS = 42  # in a whole run, when nothing is left out
_heard: ContextVar[list[Event]] = ContextVar("heard")


class Session:
    """Runs the phases of one process and says what happened through *say*."""

    def __init__(self, orders: Orders, say: Callable[[dict[str, Any]], None]) -> None:
        self._orders = orders
        self._say = say
        self._providers = Providers(orders.models, orders.url)
        self._max_tokens = 48 if orders.url else 400
        self._prices = (
            None
            if orders.price is None
            else dict.fromkeys(orders.models.values(), Price(*orders.price))
        )
        self._price = resolve(self._prices)
        self._scale = 1.0 if orders.scale is None else orders.scale
        self._give_up = perf_counter() + orders.limit
        self._phase = ""

    def run(self) -> None:
        if self._orders.number == 1:
            self._choose_scale()
            with self._cache("memory") as cache:
                self._agent(cache)
                self._threads(cache)
                asyncio.run(self._tasks(cache))
        with self._cache(f"sqlite:///{self._orders.database}") as cache:
            after = self._orders.number == 2
            self._evaluation(
                cache, "evaluation, restarted" if after else "evaluation set", with_new=after
            )
            self._streams(
                cache,
                "streams, restarted" if after else "streamed answers",
                rounds=1 if after else 2,
            )
            if not after:
                self._truncated(cache)
        self._providers.close()

    def _cache(self, backend: str) -> LLMCache:
        return LLMCache(
            max_size=500, ttl_seconds=3600, backend=backend, prices=self._prices, on_event=_hear
        )

    def _choose_scale(self) -> None:
        """Ask a few questions without the cache, and fit the number of the others to how long that
        takes."""
        if self._orders.url is not None and self._orders.scale is None:
            self._say({"phase": "warming up", "total": 2})
            for question in ("Is tea a drink?", "Name a kind of tea."):
                began = perf_counter()
                call = self._providers.call("openai", question, max_tokens=self._max_tokens)
                call.fn(messages=call.messages, **call.params)
                took = (
                    perf_counter() - began
                )  # the second counts: the system prompt has been read by then
                self._say({"tick": True})
            self._scale = min(1.0, self._orders.seconds / (_PAID_CALLS * took))
        self._say({"scale": self._scale})

    # -- The phases

    def _agent(self, cache: LLMCache) -> None:
        """Every ticket comes from two customers."""
        steps = [
            step
            for ticket in self._some(questions.TICKETS)
            for step in questions.ticket_steps(ticket)
        ]
        self._one_by_one(cache, "support agent", "anthropic", steps + steps)

    def _threads(self, cache: LLMCache) -> None:
        asked = self._begin("8 threads ask at once", questions.BURSTS[:2], _BURST_THREADS)
        for question in asked:
            barrier = threading.Barrier(_BURST_THREADS)

            def ask(question: str = question, barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                self._ask(cache, "openai", question, at_once=True)

            _run_threads([ask] * _BURST_THREADS)

    async def _tasks(self, cache: LLMCache) -> None:
        for question in self._begin("12 tasks ask at once", questions.BURSTS[2:], _BURST_TASKS):
            await asyncio.gather(
                *(self._ask_in_task(cache, "anthropic", question) for _ in range(_BURST_TASKS))
            )
        await self._providers.aclose()

    def _evaluation(self, cache: LLMCache, phase: str, *, with_new: bool) -> None:
        """The same cases as ever, some of them twice, and after the restart a few that are new."""
        cases = self._some(questions.EVALUATION)
        new = questions.NEW_CASES if with_new else ()
        self._one_by_one(cache, phase, "openai", [*cases, *cases[::3], *new])

    def _streams(self, cache: LLMCache, phase: str, *, rounds: int) -> None:
        self._one_by_one(
            cache, phase, "anthropic", list(self._some(questions.STREAMED)) * rounds, stream=True
        )

    def _truncated(self, cache: LLMCache) -> None:
        """Answers cut off at the token limit are not kept: who asks again may get a whole one."""
        self._one_by_one(cache, "answers cut off", "openai", [questions.LONG] * 2, max_tokens=12)

    # -- Asking

    def _some(self, items: Sequence[str]) -> Sequence[str]:
        return items[: max(2, round(len(items) * self._scale))]

    def _begin(self, phase: str, asked: Sequence[str], times: int = 1) -> Iterable[str]:
        """The questions of *phase*; on a machine that has become too slow, it ends early and says
        so."""
        self._phase = phase
        self._say({"phase": phase, "total": len(asked) * times})
        for place, question in enumerate(asked):
            if perf_counter() > self._give_up:
                self._say(
                    {
                        "note": (
                            f"{phase}: {len(asked) - place} of {len(asked)} questions left out, to"
                            " end in time"
                        )
                    }
                )
                return
            yield question

    def _one_by_one(
        self, cache: LLMCache, phase: str, provider: str, asked: Sequence[str], **how: Any
    ) -> None:
        for question in self._begin(phase, asked):
            self._ask(cache, provider, question, **how)

    def _ask(
        self, cache: LLMCache, provider: str, question: str, *, at_once: bool = False, **how: Any
    ) -> None:
        """Ask through the cache; a stream is read to its end."""
        provider = self._providers.or_other(provider)
        call = self._providers.call(provider, question, **{"max_tokens": self._max_tokens, **how})
        paid: list[float] = []

        def counted(**request: Any) -> Any:
            paid.append(perf_counter())
            return call.fn(**request)

        events: list[Event] = []
        _heard.set(events)
        began = perf_counter()
        answer = cache.get_or_call(call.messages, counted, **call.params)
        if how.get("stream"):
            answer = list(answer)
        took = perf_counter() - began
        self._record(cache, call, answer, took, len(paid), events, at_once)

    async def _ask_in_task(self, cache: LLMCache, provider: str, question: str) -> None:
        """``_ask`` with the async SDK; what differs is the await."""
        provider = self._providers.or_other(provider)
        call = self._providers.call(provider, question, max_tokens=self._max_tokens, in_tasks=True)
        paid: list[float] = []

        async def counted(**request: Any) -> Any:
            paid.append(perf_counter())
            return await call.fn(**request)

        events: list[Event] = []
        _heard.set(events)
        began = perf_counter()
        answer = await cache.aget_or_call(call.messages, counted, **call.params)
        self._record(cache, call, answer, perf_counter() - began, len(paid), events, at_once=True)

    def _record(
        self,
        cache: LLMCache,
        call: Call,
        answer: Any,
        took: float,
        paid: int,
        events: list[Event],
        at_once: bool,
    ) -> None:
        by_name = {event.name: event for event in events}
        saved = by_name.get("hit") or by_name.get("coalesced")
        skipped = by_name.get("skipped")
        record: dict[str, Any] = {
            "session": self._orders.number,
            "phase": self._phase,
            "outcome": "paid" if paid else "coalesced" if "coalesced" in by_name else "hit",
            "paid": paid,
            "seconds": took,
            "at_once": at_once,
            "store": "memory" if "memory" in repr(cache) else "SQLite",
            "skipped": None if skipped is None else skipped.reason,
            "request": cache.key(call.messages, **call.params),
            "answer": fingerprint(answer),
            "question": call.messages[-1]["content"],
            "text": text_of(answer),
        }
        if paid or saved is None:
            record |= self._cost(answer, call.params["model"])
        else:  # as the cache tells it: what the stored call cost
            record |= {"tokens": saved.tokens, "usd": saved.usd, "saved_seconds": saved.seconds}
        self._say({"record": record})

    def _cost(self, answer: Any, model: str) -> dict[str, Any]:
        used = read_usage(answer)
        if used is None:
            return {"tokens": None, "usd": None}
        return {"tokens": used.input_tokens + used.output_tokens, "usd": self._price(model, used)}


def _hear(event: Event) -> None:
    """Events come in the thread or task that asked, or in one that it started."""
    heard = _heard.get(None)
    if heard is not None:
        heard.append(event)


def _run_threads(work: Sequence[Callable[[], None]]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(work)) as pool:
        for future in [pool.submit(one) for one in work]:
            future.result()


class _ToParent(logging.Handler):
    """Log lines become notes, so that they do not break the parent's progress display."""

    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say({"note": record.getMessage()})


def main() -> int:
    lock = threading.Lock()

    def say(said: dict[str, Any]) -> None:
        with lock:
            print(json.dumps(said), flush=True)  # noqa: T201  # the protocol

    logging.getLogger("llm_cache_mem").addHandler(_ToParent(say))
    orders = Orders(**json.loads(sys.stdin.read()))
    try:
        Session(orders, say).run()
    except (anthropic.AnthropicError, openai.OpenAIError) as exc:
        status = getattr(exc, "status_code", None)
        say(
            {
                "error": (
                    f"{type(exc).__module__.partition('.')[0]}:"
                    f" {type(exc).__name__}{f' ({status})' if status else ''}"
                )
            }
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
