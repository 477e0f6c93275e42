"""Verified hits: a sample of the hits is asked again in the background, and the answers compared.

No caller waits for it: hits beyond what the workers can do, or above the rate at which their work
would be felt, are left out of the sample. Only calls of models are made again, never those of tools
and functions; in mode ``replay`` none is.
"""

import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from contextvars import copy_context
from math import log
from queue import SimpleQueue
from random import Random
from threading import RLock, Thread
from typing import Any, Literal, NamedTuple, Protocol, TypeVar
from weakref import finalize

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem._util.in_thread import run_in_thread, running_loop
from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.accounting.bounded import bounded_name
from llm_cache_mem.accounting.verified import VerifiedStats
from llm_cache_mem.engine.layers import Layers
from llm_cache_mem.engine.reader import same
from llm_cache_mem.engine.settings import Settings
from llm_cache_mem.engine.streams import ChunkRecording
from llm_cache_mem.engine.writer import Writer
from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.keys.digest import namespace_prefix, parse
from llm_cache_mem.keys.request import FUNCTION, Keyer, Request
from llm_cache_mem.responses.agreement import Comparison, comparison, merged
from llm_cache_mem.stores.fail_open import FailOpenStore
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

__all__ = ["Fresh", "OnDrift", "Verifier", "texts_of"]

OnDrift = Literal["report", "replace", "invalidate_model"]

_log = logging.getLogger(__name__)

_WORKERS = 2
_MOST_PENDING = 8
_PER_SECOND = 2.0  # each takes 1 to 2 ms of CPU, for which callers in this process wait
_BURST = 100.0
_LONGEST_PAUSE = 200  # hits


T = TypeVar("T")


class Verified(Protocol):
    """The parts of an Engine that verification needs."""

    settings: Settings
    keyer: Keyer
    writer: Writer
    layers: Layers
    backend: FailOpenStore
    closed: bool

    @property
    def epoch(self) -> int: ...
    async def off_loop(self, call: Callable[[], T]) -> T: ...


@without_content
class Fresh(NamedTuple):
    """What a call gave that was made again: the *value* to store, what prices are read from
    (*reported*), and what admission is asked about (*judged*)."""

    value: Any
    reported: Any
    judged: Any


def texts_of(payload: Payload) -> Any:
    """The texts of a stored stream, wherever its chunks were cut."""
    return merged(payload.as_tree())


class _Job(NamedTuple):
    request: Request
    entry: Entry
    seen: Callable[[Payload], Any]
    epoch: int
    reserved_usd: float


class Verifier:
    """Verifies hits of *engine*. Thread-safe; a forked child starts with an empty queue.

    Args:
        engine: The cache's.
        rate: The share of hits to verify, from 0 to 1.
        verify_with: How answers are compared; None: exactly, where the temperature is 0.
        budget_usd: How many dollars all calls may cost; None for no limit.
        on_drift: What to do about an answer that disagrees.
        random: Chooses the sample.
    """

    def __init__(
        self,
        engine: Verified,
        *,
        rate: float,
        verify_with: Comparison | None,
        budget_usd: float | None,
        on_drift: OnDrift,
        random: Random | None = None,
    ) -> None:
        self._engine = engine
        self._mean_gap = 0.0 if rate >= 1 else 1 / log(1.0 - rate)
        self._agree = comparison("exact" if verify_with is None else verify_with)
        self._may_block = callable(verify_with)
        self._at_zero_only = verify_with is None
        self._budget_usd = budget_usd
        self._on_drift: OnDrift = on_drift
        self._random = (random or Random()).random
        self._left = self._gap()
        self._spent = 0.0
        self._has_failed = False
        self._stats: dict[str, VerifiedStats] = {}
        self._start()
        reset_after_fork(self)

    def _start(self) -> None:
        self._lock = RLock()
        self._pending = 0
        self._tokens, self._filled_at = _BURST, 0.0
        self._tasks: set[Any] = set()
        self._queue: SimpleQueue[Callable[[], None] | None] | None = None

    _after_fork = _start

    def stats(self) -> dict[str, VerifiedStats]:
        """What came of it so far, by model and kind of entry: ``"gpt-4.1-mini value"``."""
        with self._lock:
            return dict(self._stats)

    # -- What the layers call, on a hit

    def due(self, request: Request) -> bool:
        """Whether this hit on *request* is in the sample: what is more than the workers can do, or
        more often than their work goes unnoticed, is not."""
        self._left -= 1
        if self._left >= 0:
            return False
        self._left = self._gap()
        if self._pending >= _MOST_PENDING or not self._is_allowed():
            self._left += int(self._random() * _LONGEST_PAUSE)  # looking costs callers time as well
            return False
        return self._is_wanted(request)

    def _gap(self) -> int:
        """How many hits to pass until the next of the sample, each of which is in it with the same
        chance."""
        return int(log(1.0 - self._random()) * self._mean_gap)

    def _is_allowed(self) -> bool:
        """Whether another hit may be verified now: the level of a token bucket."""
        now = self._engine.settings.clock()
        if now != self._filled_at:
            gained = max(0.0, now - self._filled_at) * _PER_SECOND
            self._tokens, self._filled_at = min(_BURST, self._tokens + gained), now
        return self._tokens >= 1.0

    def offer(
        self,
        request: Request,
        entry: Entry,
        again: Callable[[], Fresh],
        seen: Callable[[Payload], Any] = Payload.as_tree,
    ) -> None:
        """Verify the hit that is due: *entry* answered *request*. *again* makes the call, in a
        thread; *seen* makes of a stored value what is compared."""
        job = self._job(request, entry, seen)
        if job is None:
            return
        context = copy_context()
        self._put(lambda: context.run(self._verify, job, again))

    def aoffer(
        self,
        request: Request,
        entry: Entry,
        again: Callable[[], Awaitable[Fresh]],
        seen: Callable[[Payload], Any] = Payload.as_tree,
    ) -> None:
        """``offer`` where *again* returns an awaitable: a task of the running event loop."""
        loop = running_loop()
        job = None if loop is None else self._job(request, entry, seen)
        if loop is None or job is None:
            return
        task = loop.create_task(self._averify(job, again))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- Calls of an Engine

    def verify_call(
        self,
        request: Request,
        entry: Entry,
        fn: Callable[[], Any],
        encode: Any = same,
        report: Any = same,
        seen: Callable[[Payload], Any] = Payload.as_tree,
    ) -> None:
        """``offer`` where ``fn()`` makes the call; *encode* and *report* as in ``Engine.call``."""
        self.offer(request, entry, lambda: self._fresh(fn(), encode, report), seen)

    def averify_call(
        self,
        request: Request,
        entry: Entry,
        fn: Callable[[], Awaitable[Any]],
        encode: Any = same,
        report: Any = same,
        seen: Callable[[Payload], Any] = Payload.as_tree,
    ) -> None:
        """``verify_call`` for a coroutine function."""

        async def again() -> Fresh:
            return self._fresh(await fn(), encode, report)

        self.aoffer(request, entry, again, seen)

    def verify_stream(
        self,
        request: Request,
        entry: Entry,
        fn: Callable[[], Iterable[Any]],
        recording: Callable[[], ChunkRecording] = ChunkRecording,
        seen: Callable[[Payload], Any] = texts_of,
    ) -> None:
        """``offer`` where ``fn()`` returns the chunks of a stream; *recording* as in
        ``Engine.share_stream``."""

        def again() -> Fresh:
            recorded = recording()
            for chunk in fn():
                recorded.add(chunk)
            return _fresh_stream(recorded)

        self.offer(request, entry, again, seen)

    def averify_stream(
        self,
        request: Request,
        entry: Entry,
        fn: Callable[[], Awaitable[AsyncIterable[Any]]],
        recording: Callable[[], ChunkRecording] = ChunkRecording,
        seen: Callable[[Payload], Any] = texts_of,
    ) -> None:
        """``verify_stream`` for an async iterable."""

        async def again() -> Fresh:
            recorded = recording()
            async for chunk in await fn():
                recorded.add(chunk)
            return _fresh_stream(recorded)

        self.aoffer(request, entry, again, seen)

    def _fresh(self, response: Any, encode: Any, report: Any) -> Fresh:
        reported = response if report is same else report(response)
        judged = response if self._engine.settings.own_admit else reported
        return Fresh(response if encode is same else encode(response), reported, judged)

    # -- The sample

    def _is_wanted(self, request: Request) -> bool:
        return (
            FUNCTION not in request.params
            and self._engine.settings.current_mode() == "on"
            and not self._engine.closed
        )

    def _job(self, request: Request, entry: Entry, seen: Callable[[Payload], Any]) -> _Job | None:
        """The job, with its cost taken from the budget; None if that is used up, or the cost
        unknown."""
        cost = 0.0
        with self._lock:
            if self._budget_usd is not None:
                if entry.cost_usd is None or self._spent + entry.cost_usd > self._budget_usd:
                    return None
                if not self._budget_usd:
                    return None
                cost = entry.cost_usd
                self._spent += cost
            self._pending += 1
            self._tokens -= 1.0
        return _Job(request, entry, seen, self._engine.epoch, cost)

    def _put(self, work: Callable[[], None]) -> None:
        with self._lock:
            if self._queue is None:
                self._queue = SimpleQueue()
                for _ in range(_WORKERS):
                    Thread(
                        target=_run, args=(self._queue,), name="llm-cache-mem-verify", daemon=True
                    ).start()
                finalize(self, _stop, self._queue)
            self._queue.put(work)

    # -- The work

    def _verify(self, job: _Job, again: Callable[[], Fresh]) -> None:
        try:
            if not self._compares(job):
                self._unreserve(job)
                return
            began = self._engine.settings.clock()
            with self._engine.layers.in_hand():
                fresh = again()
            self._settle(job, fresh, self._engine.settings.clock() - began)
        except BaseException as exc:  # noqa: BLE001  # no caller waits for it; the thread goes on
            self._fail(job, exc)
        finally:
            self._done()

    async def _averify(self, job: _Job, again: Callable[[], Awaitable[Fresh]]) -> None:
        try:
            if not self._compares(job):
                self._unreserve(job)
                return
            began = self._engine.settings.clock()
            with self._engine.layers.in_hand():
                fresh = await again()
            seconds = self._engine.settings.clock() - began
            await self._engine.writer.billing.load_prices()
            off_loop = run_in_thread if self._may_block else self._engine.off_loop
            await off_loop(lambda: self._settle(job, fresh, seconds))
        except Exception as exc:  # noqa: BLE001  # as above
            self._fail(job, exc)
        finally:
            self._done()

    def _done(self) -> None:
        with self._lock:
            self._pending -= 1

    def _compares(self, job: _Job) -> bool:
        """Whether another answer to this request can be compared: it is still the same, its model
        is not meant to vary, and the cache is open."""
        request, params = job.request, job.request.params
        if self._engine.closed:
            return False
        if self._at_zero_only:
            if request.view is not None:
                _, params = request.view(request.messages, params)
            temperature = params.get("temperature")
            if not isinstance(temperature, (int, float)) or temperature != 0:
                return False
        return self._is_unchanged(request)

    def _is_unchanged(self, request: Request) -> bool:
        """Whether the caller's own messages still make the key: it may have gone on with them."""
        keyer, kept = self._engine.keyer, parse(request.key).digest
        return any(
            kept
            in keyer.stored_digests(
                keyer.digest(request.messages, request.params, request.view, exact=exact)
            )
            for exact in (False, True)
        )

    def _unreserve(self, job: _Job) -> None:
        with self._lock:
            self._spent -= job.reserved_usd

    def _settle(self, job: _Job, fresh: Fresh, seconds: float) -> None:
        engine, request = self._engine, job.request
        spent = engine.writer.billing.count(request, fresh.reported, seconds).bill.usd
        with self._lock:
            self._spent += (spent or 0.0) - (job.reserved_usd if spent is not None else 0.0)
        payload = engine.writer.encode(request, fresh.value)
        refused = payload is None or engine.settings.admit(fresh.judged) is not None
        if payload is None or refused or not self._is_unchanged(request):
            self._count(job, failed=1, spent_usd=spent or 0.0)
            return
        agreed = self._agree(job.seen(job.entry.payload), job.seen(payload))
        replaced = 0 if agreed else self._act(job, payload, fresh, seconds)
        self._count(job, checked=1, agreed=int(agreed), replaced=replaced, spent_usd=spent or 0.0)

    def _act(self, job: _Job, payload: Payload, fresh: Fresh, seconds: float) -> int:
        """Do what is to be done about an answer that disagrees; how many entries it replaced."""
        writer, request = self._engine.writer, job.request
        if self._on_drift == "replace" and job.epoch == writer.epoch:
            return int(writer.replace(request, job.entry, payload, fresh.reported, seconds))
        if self._on_drift == "invalidate_model":
            self._delete_all_of(job)
        return 0

    def _delete_all_of(self, job: _Job) -> None:
        """Delete what the model of *job* has answered up to now in its namespace."""
        engine, model = self._engine, job.entry.model
        until = engine.settings.clock()
        for key, entry in list(engine.backend.entries(namespace_prefix(job.request.key))):
            if entry.model == model and entry.stored_at <= until:
                engine.backend.delete(key, stored_at=entry.stored_at)

    # -- Counting

    def _fail(self, job: _Job, exc: BaseException) -> None:
        level = logging.DEBUG if self._has_failed else logging.WARNING
        self._has_failed = True
        text = "a hit could not be verified: %s"
        _log.log(level, text, exc if isinstance(exc, LLMCacheError) else type(exc).__name__)
        self._count(job, failed=1)

    def _count(self, job: _Job, *, spent_usd: float = 0.0, **counts: int) -> None:
        name = f"{job.entry.model or job.request.model or ''} {parse(job.request.key).kind}"
        with self._lock:
            name = bounded_name(self._stats, name)
            before = self._stats.get(name, VerifiedStats())
            added = {what: getattr(before, what) + by for what, by in counts.items()}
            after = before._replace(**added, spent_usd=before.spent_usd + spent_usd)
            first = after.drifted and before.drift_since is None
            if first:
                after = after._replace(drift_since=self._engine.settings.clock())
            self._stats[name] = after
        if first:
            text = "%s: the model's answers have drifted: %d of %d verified hits disagree"
            _log.warning(text, name.strip(), after.drifted, after.checked)


def _fresh_stream(recording: ChunkRecording) -> Fresh:
    value, response = recording.entry()
    return Fresh(value, response, response)


def _run(queue: "SimpleQueue[Callable[[], None] | None]") -> None:
    while (work := queue.get()) is not None:
        work()
        del work  # it holds the engine


def _stop(queue: "SimpleQueue[Callable[[], None] | None]") -> None:
    for _ in range(_WORKERS):
        queue.put(None)
