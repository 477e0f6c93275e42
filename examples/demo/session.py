"""One process of the demo: ask the questions through a cache and report each to the parent process.

The configuration arrives as JSON on stdin. Each line on stdout is one JSON object: ``{"phase":
...}`` when a phase begins, ``{"record": ...}`` for each question, ``{"note": ...}`` for the user.
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
from examples.demo.config import SessionConfig
from examples.demo.providers import Call, Providers, fingerprint, text_of
from llm_cache_mem import Event, LLMCache, Price
from llm_cache_mem.accounting.pricing import resolve
from llm_cache_mem.responses.usage import read_usage

__all__ = ["Session", "main"]

_BURST_THREADS = 8
_BURST_TASKS = 12
_PAID_CALLS = 42  # in a complete run
_events: ContextVar[list[Event]] = ContextVar("events")


class Session:
    """The phases of one process; each message goes to *send*."""

    def __init__(self, config: SessionConfig, send: Callable[[dict[str, Any]], None]) -> None:
        self._config = config
        self._send = send
        self._providers = Providers(config.models, config.url)
        self._max_tokens = 48 if config.url else 400
        self._prices = (
            None
            if config.price is None
            else dict.fromkeys(config.models.values(), Price(*config.price))
        )
        self._price = resolve(self._prices)
        self._scale = 1.0 if config.scale is None else config.scale
        self._give_up = perf_counter() + config.limit
        self._phase = ""

    def run(self) -> None:
        if self._config.number == 1:
            self._choose_scale()
            with self._cache("memory") as cache:
                self._agent(cache)
                self._threads(cache)
                asyncio.run(self._tasks(cache))
        with self._cache(f"sqlite:///{self._config.database}") as cache:
            after = self._config.number == 2
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
            max_size=500, ttl_seconds=3600, backend=backend, prices=self._prices, on_event=_collect
        )

    def _choose_scale(self) -> None:
        """Time two questions without the cache, and choose the share of the others to ask."""
        if self._config.url is not None and self._config.scale is None:
            self._send({"phase": "warming up", "total": 2})
            for question in ("Is tea a drink?", "Name a kind of tea."):
                began = perf_counter()
                call = self._providers.call("openai", question, max_tokens=self._max_tokens)
                call.fn(messages=call.messages, **call.params)
                took = (
                    perf_counter() - began
                )  # the second counts: the server has read the system prompt by then
                self._send({"tick": True})
            self._scale = min(1.0, self._config.seconds / (_PAID_CALLS * took))
        self._send({"scale": self._scale})

    # -- The phases

    def _agent(self, cache: LLMCache) -> None:
        """Answer every ticket twice: two customers send it."""
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
        """Ask the same cases, some of them twice, and after the restart a few new ones."""
        cases = self._some(questions.EVALUATION)
        new = questions.NEW_CASES if with_new else ()
        self._one_by_one(cache, phase, "openai", [*cases, *cases[::3], *new])

    def _streams(self, cache: LLMCache, phase: str, *, rounds: int) -> None:
        self._one_by_one(
            cache, phase, "anthropic", list(self._some(questions.STREAMED)) * rounds, stream=True
        )

    def _truncated(self, cache: LLMCache) -> None:
        """Ask for answers cut off at the token limit: they are not stored, as the next call may
        return a complete one."""
        self._one_by_one(cache, "answers cut off", "openai", [questions.LONG] * 2, max_tokens=12)

    # -- Asking

    def _some(self, items: Sequence[str]) -> Sequence[str]:
        return items[: max(2, round(len(items) * self._scale))]

    def _begin(self, phase: str, asked: Sequence[str], times: int = 1) -> Iterable[str]:
        """Yield the questions of *phase*, and leave out the rest with a note when time runs
        out."""
        self._phase = phase
        self._send({"phase": phase, "total": len(asked) * times})
        for place, question in enumerate(asked):
            if perf_counter() > self._give_up:
                self._send(
                    {
                        "note": (
                            f"{phase}: {len(asked) - place} of {len(asked)} questions left out, to"
                            " finish in time"
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
        """Ask through the cache and read a stream to its end."""
        provider = self._providers.or_other(provider)
        call = self._providers.call(provider, question, **{"max_tokens": self._max_tokens, **how})
        paid: list[float] = []

        def counted(**request: Any) -> Any:
            paid.append(perf_counter())
            return call.fn(**request)

        events: list[Event] = []
        _events.set(events)
        began = perf_counter()
        answer = cache.get_or_call(call.messages, counted, **call.params)
        if how.get("stream"):
            answer = list(answer)
        took = perf_counter() - began
        self._record(cache, call, answer, took, len(paid), events, at_once)

    async def _ask_in_task(self, cache: LLMCache, provider: str, question: str) -> None:
        """Do the same with the async SDK."""
        provider = self._providers.or_other(provider)
        call = self._providers.call(provider, question, max_tokens=self._max_tokens, in_tasks=True)
        paid: list[float] = []

        async def counted(**request: Any) -> Any:
            paid.append(perf_counter())
            return await call.fn(**request)

        events: list[Event] = []
        _events.set(events)
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
            "session": self._config.number,
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
        else:  # the cost of the stored call, from the cache's event
            record |= {"tokens": saved.tokens, "usd": saved.usd, "saved_seconds": saved.seconds}
        self._send({"record": record})

    def _cost(self, answer: Any, model: str) -> dict[str, Any]:
        used = read_usage(answer)
        if used is None:
            return {"tokens": None, "usd": None}
        return {"tokens": used.input_tokens + used.output_tokens, "usd": self._price(model, used)}


def _collect(event: Event) -> None:
    """Collect the cache's events of the current call: they arrive in its thread or task, or in one
    that it started."""
    events = _events.get(None)
    if events is not None:
        events.append(event)


def _run_threads(work: Sequence[Callable[[], None]]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(work)) as pool:
        for future in [pool.submit(one) for one in work]:
            future.result()


class _NoteHandler(logging.Handler):
    """Sends log lines as notes, so that they do not break the parent's progress display."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send({"note": record.getMessage()})


def main() -> int:
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with lock:
            print(json.dumps(message), flush=True)  # noqa: T201  # the protocol

    logging.getLogger("llm_cache_mem").addHandler(_NoteHandler(send))
    config = SessionConfig(**json.loads(sys.stdin.read()))
    try:
        Session(config, send).run()
    except (anthropic.AnthropicError, openai.OpenAIError) as exc:
        status = getattr(exc, "status_code", None)
        send(
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
