"""Batches: requests that have no answer go to a provider's batch API, once, at its lower price."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from threading import Event
from typing import Any, Final, Literal, NamedTuple

from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.errors import BatchFailed, RequestNotCacheable, StoreError
from llm_cache_mem.evaluation.intents import Intent, Intents, custom_id_of
from llm_cache_mem.evaluation.live import HttpCalls, MethodCalls
from llm_cache_mem.evaluation.providers import Job, Provider, provider_of
from llm_cache_mem.evaluation.reading import check_requests, read_request
from llm_cache_mem.evaluation.results import MapResult
from llm_cache_mem.evaluation.run import CHUNK, OnError
from llm_cache_mem.evaluation.store_retries import StoreRetries
from llm_cache_mem.keys import digest as keys
from llm_cache_mem.keys.request import Request
from llm_cache_mem.options import to_seconds

__all__ = ["PRICE_RATE", "BatchRun", "OnUnknown", "batch_requests"]

OnUnknown = Literal["wait", "resubmit"]

PRICE_RATE: Final = 0.5
"""What a request costs in a batch, of what it costs alone: the same at both providers."""

_log = logging.getLogger(__name__)


@without_content
class _Result(NamedTuple):
    value: Any
    hit: bool
    usd: float | None = 0.0
    error: Exception | None = None


def batch_requests(
    engine: Engine,
    client: Any,
    requests: Iterable[Mapping[str, Any]],
    on_error: OnError,
    on_unknown: OnUnknown,
    poll_seconds: float,
) -> Iterator[MapResult]:
    """See ``LLMCache.batch``."""
    if on_error not in ("raise", "collect"):
        raise ValueError(f"on_error must be 'raise' or 'collect', not {on_error!r}")
    if on_unknown not in ("wait", "resubmit"):
        raise ValueError(f"on_unknown must be 'wait' or 'resubmit', not {on_unknown!r}")
    check_requests(requests)
    provider = provider_of(client)
    through_http = client in engine.layers.clients
    run = BatchRun(
        engine,
        provider,
        HttpCalls(engine, provider) if through_http else MethodCalls(engine, provider),
        on_error=on_error,
        on_unknown=on_unknown,
        poll_seconds=to_seconds(poll_seconds, "poll_seconds") or 60.0,
    )
    run.start(requests)
    return run.results()


class BatchRun:
    """The batches for some requests: ``start`` submits what is missing, ``results`` waits."""

    def __init__(
        self,
        engine: Engine,
        provider: Provider,
        calls: MethodCalls,
        *,
        on_error: OnError,
        on_unknown: OnUnknown,
        poll_seconds: float,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._engine = engine
        self._provider = provider
        self._calls = calls
        self._on_error = on_error
        self._on_unknown = on_unknown
        self._poll_seconds = poll_seconds
        self._sleep = sleep
        self._intents = Intents(engine)
        self._retries = StoreRetries(engine)
        self._order: list[str | Exception] = []  # keys, or what is wrong with the request
        self._requests: dict[str, Request] = {}  # those without an answer
        self._found: dict[str, _Result] = {}
        self._open: list[Intent] = []
        self._warned = False
        self._context = copy_context()  # the options of where the run was asked for

    # -- Submitting

    def start(self, requests: Iterable[Mapping[str, Any]]) -> None:
        """Look up *requests*, attach to batches that already hold some, and submit the others."""
        self._read(requests)
        if not self._requests:
            return
        self._attach()
        covered = {key for intent in self._open for key in intent.keys}
        self._submit([request for key, request in self._requests.items() if key not in covered])

    def _read(self, requests: Iterable[Mapping[str, Any]]) -> None:
        asked: dict[str, Request] = {}
        for index, given in enumerate(requests):
            try:
                request = self._request(given)
            except (TypeError, ValueError) as exc:
                if self._on_error == "raise":
                    exc.add_note(f"request {index}")
                    raise
                self._order.append(exc)
                continue
            self._order.append(request.key)
            asked[request.key] = request
        missing = list(asked.values())
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK]
            for request, hit in zip(
                part, self._engine.reader.lookup_many(part, self._calls.decode), strict=True
            ):
                if hit is None:
                    self._requests[request.key] = request
                else:
                    self._found[request.key] = _Result(hit.value, hit=True)

    def _request(self, given: Mapping[str, Any]) -> Request:
        messages, params = read_request(given)
        if wrong := params.keys() & {"extra_headers", "extra_query"}:
            raise ValueError(f"a request in a batch has no {min(wrong)} of its own")
        if self._engine.is_off:
            raise ValueError('the cache is off here (mode="off"), and a batch goes through it')
        request = self._calls.request(messages, params)
        if request is None:
            raise RequestNotCacheable("request", "it has no key by which to find its answer")
        # all that is sent, routing hints too
        return request._replace(messages=messages, params=params)

    def _attach(self) -> None:
        """Open the batches under way that hold some of the requests."""
        for intent in self._intents.all(self._provider.name):
            if not self._requests.keys().isdisjoint(intent.keys):
                self._open.append(intent)

    def _submit(self, requests: Sequence[Request], instead_of: Intent | None = None) -> None:
        jobs = {custom_id_of(request.key): request for request in requests}
        made = (Job(custom_id, _body_of(request)) for custom_id, request in jobs.items())
        for group in self._provider.groups(made):
            for part in _by_size(group, self._provider.most_bytes):
                self._submit_part(part, [jobs[job.custom_id].key for job in part], instead_of)

    def _submit_part(
        self, jobs: Sequence[Job], keys_: Sequence[str], instead_of: Intent | None
    ) -> None:
        """Write the intent, and submit it, but for the requests that another process has just
        intended too."""
        intent = Intent(self._provider.name, keys_, self._engine.settings.clock())
        needs = self._requests[keys_[0]].depends_on
        intent.generation = None if needs is None else needs.mark
        self._intents.write(intent)
        others = [
            other
            for other in self._intents.all(self._provider.name)
            if other.rank < intent.rank
            and not set(other.keys).isdisjoint(keys_)
            and not (instead_of is not None and other.mark == instead_of.mark)
        ]
        if others:
            self._open.extend(other for other in others if other not in self._open)
            theirs = {key for other in others for key in other.keys}
            intent.keys = [key for key in keys_ if key not in theirs]
            jobs = [job for job, key in zip(jobs, keys_, strict=True) if key not in theirs]
            self._intents.write(intent) if jobs else self._intents.remove(intent)
        if not jobs:
            return
        self._open.append(intent)
        try:
            intent.batch = self._provider.submit(jobs, intent.mark)
        except Exception as exc:
            if _is_refusal(exc):
                self._intents.remove(intent)
                raise
            _log.warning(
                "whether a batch of %d requests was submitted is unknown (%s): looking for it",
                len(jobs),
                type(exc).__name__,
            )
            return
        self._intents.write(intent)

    # -- Results

    def results(self) -> Iterator[MapResult]:
        """The results in the order of the requests, waited for."""
        seen: set[str] = set()
        for index, asked in enumerate(self._order):
            while not isinstance(asked, Exception) and asked not in self._found:
                self._context.run(self._poll, asked)
            if isinstance(asked, Exception):
                result = _Result(None, hit=False, error=asked)
            elif asked in seen and self._found[asked].error is None:
                result = self._context.run(self._again, asked)
            else:
                result = self._found[asked]
                seen.add(asked)
            if result.error is not None and self._on_error == "raise":
                raise result.error
            yield MapResult(result.value, result.hit, 0.0, result.usd, result.error, index)

    def _again(self, key: str) -> _Result:
        """The answer for a request that equals an earlier one: a copy, where it is stored."""
        first = self._found[key]
        request = self._requests.get(key)
        hit = None if request is None else self._engine.reader.lookup(request, self._calls.decode)
        return _Result(first.value if hit is None else hit.value, hit=True)

    def _poll(self, wanted: str) -> None:
        """Look after each open batch; wait if *wanted* is not answered by that."""
        for intent in list(self._open):
            try:
                if self._is_over(intent):
                    self._collect(intent)
                    self._open.remove(intent)
            except Exception as exc:
                if not self._passes(exc):
                    raise
                _log.warning("checking a batch failed (%s); trying again", type(exc).__name__)
        if wanted not in self._found:
            self._sleep(self._poll_seconds)

    def _passes(self, exc: Exception) -> bool:
        """Whether *exc* is a fault of the network or the provider that may pass: hours of waiting
        should not end with it."""
        status = getattr(exc, "status_code", None)
        is_theirs = type(exc).__module__.partition(".")[0] == self._provider.name
        return is_theirs and (status is None or status in (408, 409, 429) or status >= 500)

    def _is_over(self, intent: Intent) -> bool:
        if intent.batch is None:
            self._find(intent)
        return intent.batch is not None and self._provider.is_over(intent.batch)

    def _find(self, intent: Intent) -> None:
        """Look for the batch of *intent* at the provider; submit it again if that was asked for."""
        listed = self._intents.all(self._provider.name)
        known = [other.batch for other in listed if other.batch]
        ids = {custom_id_of(key) for key in intent.keys}
        found = self._provider.find(intent.mark, intent.at, ids, known)
        if found.batch is not None:
            intent.batch = found.batch
            self._intents.write(intent)
            return
        age = self._engine.settings.clock() - intent.at
        withdrawn = all(
            other.mark != intent.mark for other in listed
        )  # by the process that made it
        asked = self._on_unknown == "resubmit" and found.settled and age >= self._poll_seconds
        if withdrawn or asked:
            self._submit(self._unanswered(intent), instead_of=intent)
            self._open.remove(intent)
            self._intents.remove(intent)
        elif not self._warned:
            self._warned = True
            _log.warning(
                "the provider lists no batch for %d requests that were about to be submitted:"
                " waiting for it to appear; on_unknown='resubmit' submits them again",
                len(intent.keys),
            )

    def _unanswered(self, intent: Intent) -> list[Request]:
        """The requests of *intent* that are ours and still without an answer."""
        missing = []
        for request in (self._requests[key] for key in intent.keys if key in self._requests):
            stored = self._engine.recheck(request, self._calls.decode)
            if stored is None:
                missing.append(request)
            else:
                self._found[request.key] = _Result(stored.value, hit=True)
        return missing

    def _collect(self, intent: Intent) -> None:
        """Store the results of *intent*, which is over, and forget it when all of them are."""
        assert intent.batch is not None
        by_id = {custom_id_of(key): key for key in intent.keys}
        is_lost = False
        for row in self._provider.results(intent.batch):
            key = by_id.pop(row.custom_id, None)
            if key is None:
                continue
            if row.reason:
                self._fail(key, row.reason)
            else:
                is_lost |= not self._store(key, row.answer, intent)
        if by_id:
            reason = self._provider.ended(intent.batch)
            for key in by_id.values():
                self._fail(key, reason)
        if is_lost:
            raise StoreError(
                self._engine.backend.name, "put", "results are not stored: run this again to fetch"
            )
        self._intents.remove(intent)

    def _fail(self, key: str, reason: str) -> None:
        self._found[key] = _Result(None, hit=False, error=BatchFailed(reason))

    def _store(self, key: str, answer: Any, intent: Intent) -> bool:
        """Store *answer*, at the price of a batch, unless it has been; whether it is there, or not
        worth storing."""
        if key in self._found:  # by a look that was cut off
            return True
        request = self._requests.get(key) or Request(key, None, None, {})
        engine, needs = self._engine, request.depends_on
        if needs is not None:
            needs.mark = intent.generation
        stored = engine.recheck(request, self._calls.decode)
        if stored is not None:  # by a process that was killed before it was through
            self._found[key] = _Result(stored.value, hit=True)
            return True
        value = self._calls.encode(answer)
        entry = engine.writer.store(request, value, response=answer, price_rate=PRICE_RATE)
        usd = engine.writer.billing.usd_of(request.model, answer, price_rate=PRICE_RATE)
        self._found[key] = _Result(answer, hit=False, usd=usd)
        if entry is not None or engine.settings.admit(answer) is not None:
            return True
        if needs is not None:  # a put would begin in the generations of today
            return True
        put = engine.writer.put
        return self._retries.retry(lambda: put(request, value), Event()) is not None


def _body_of(request: Request) -> dict[str, Any]:
    """The JSON that the SDK would send for *request*."""
    params = {
        name: value for name, value in request.params.items() if name not in keys.DEFAULT_IGNORE
    }
    extra = params.pop("extra_body", None) or {}
    body: dict[str, Any] = json.loads(keys.canonical_json(request.messages, params))
    return {**body, **extra}


def _by_size(jobs: Sequence[Job], most: int) -> Iterator[Sequence[Job]]:
    """*jobs* in parts of fewer than *most* bytes."""
    part: list[Job] = []
    size = 0
    for job in jobs:
        length = len(json.dumps(job.body)) + 200
        if part and size + length > most:
            yield part
            part, size = [], 0
        part.append(job)
        size += length
    if part:
        yield part


def _is_refusal(exc: Exception) -> bool:
    """Whether the provider has said that it did not take the batch; not for a time-out, a broken
    connection or a fault of the server."""
    status = getattr(exc, "status_code", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 409)
