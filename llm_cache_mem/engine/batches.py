"""Requests that one call can answer together, such as the texts of an embedding: each is looked up
by itself, and only those that miss are sent."""

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llm_cache_mem._util.in_thread import running_loop
from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.engine.claims import Claim
from llm_cache_mem.engine.reader import Defer, Hit, decoded, same
from llm_cache_mem.engine.writer import Answered
from llm_cache_mem.keys.request import Request
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

if TYPE_CHECKING:
    from llm_cache_mem.engine.engine import Engine
    from llm_cache_mem.engine.leases import Lease

__all__ = ["Found", "Made", "Part", "WaitTimeout", "acall_many", "call_many"]

_ROUNDS = 3
"""How often a caller claims what is left: those that it waited for may have failed."""


class WaitTimeout(TimeoutError):
    """Another caller's call took longer than this one has."""


@without_content
class Part(NamedTuple):
    """The answer to one request: its *value*, the *payload* to store, None if it has no stored
    form, and the *response* from which its usage is read."""

    value: Any
    payload: Payload | None
    response: Any


@without_content
class Made(NamedTuple):
    """What one call gave for the requests that were sent: a part for each, None where none came.
    *response* is the whole, from which usage and price are read; *below*: whether the HTTP layer
    has stored and counted it."""

    parts: Sequence[Part | None]
    response: Any
    below: bool = False


@without_content
class Found(NamedTuple):
    """The answer to a request, and where it came from. *age* is in seconds, that of a hit."""

    value: Any
    entry: Entry | None
    outcome: Literal["hit", "coalesced", "miss"]
    age: float = 0.0


Send = Callable[[list[int]], Made]
Steps = Generator[tuple[Any, ...], Any, list[Found | None]]


def call_many(
    engine: "Engine",
    requests: Sequence[Request],
    send: Send,
    *,
    decode: Callable[[Any], Any] = same,
    timeout: float | None = None,
    over_http: bool = False,
) -> list[Found | None]:
    """The answers to *requests*; None where ``send`` gave none. Of those with the same key, one is
    looked up and sent.

    Args:
        engine: Where they are looked up.
        requests: What ``Engine.request`` returned for each.
        send: Makes one call for the requests with these numbers. What it raises is raised.
        decode: Makes the value of what is stored.
        timeout: For how many seconds the caller may wait for the calls of others; WaitTimeout
            after that.
        over_http: Whether the HTTP layer may answer what ``send`` sends, while the cache is
            installed for the whole process: see ``Layers``.
    """
    steps = _steps(engine, requests, decode, timeout, coalesces=bool(engine.settings.coalesce))
    does = _Does(engine, decode, send, _Layer(engine, requests) if over_http else None)
    result: Any = None
    error: BaseException | None = None
    while True:
        try:
            name, *args = steps.send(result) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # of steps
        try:
            result, error = getattr(does, name)(*args), None
        except BaseException as exc:  # noqa: BLE001  # the steps raise it again
            result, error = None, exc


async def acall_many(
    engine: "Engine",
    requests: Sequence[Request],
    send: Callable[[list[int]], Awaitable[Made]],
    *,
    decode: Callable[[Any], Any] = same,
    timeout: float | None = None,
    over_http: bool = False,
) -> list[Found | None]:
    """``call_many`` for a coroutine function."""
    coalesces = bool(engine.settings.coalesce) and running_loop() is not None
    steps = _steps(engine, requests, decode, timeout, coalesces=coalesces)
    does = _DoesAsync(engine, decode, send, _Layer(engine, requests) if over_http else None)
    result: Any = None
    error: BaseException | None = None
    while True:
        try:
            name, *args = steps.send(result) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # as above
        try:
            result, error = await getattr(does, name)(*args), None
        except BaseException as exc:  # noqa: BLE001  # as above
            result, error = None, exc


def _steps(
    engine: "Engine",
    requests: Sequence[Request],
    decode: Callable[[Any], Any],
    timeout: float | None,
    *,
    coalesces: bool,
) -> Steps:
    """What to do, step by step, for both of the above."""
    numbers: dict[str, int] = {}
    for number, request in enumerate(requests):
        numbers.setdefault(request.key, number)
    left = list(numbers.values())
    found: list[Found | None] = [None] * len(requests)
    hits: list[Hit | None] = yield "look", [requests[number] for number in left]
    for number, hit in zip(left, hits, strict=True):
        found[number] = hit and Found(hit.value, hit.entry, "hit", hit.age)
    left = [number for number in left if found[number] is None]
    began = monotonic()
    if any(request.depends_on is not None for request in requests):
        coalesces = False  # another caller's answer may depend on other documents
    for _ in range(_ROUNDS if coalesces else 0):
        if not left:
            break
        claim, others = engine.claims.take(requests[number].key for number in left)
        answers: dict[str, Any] = {}
        try:
            if claim.keys:
                mine = [numbers[key] for key in claim.keys]
                yield from _answer(engine, requests, mine, found, answers, timeout)
        finally:
            claim.finish(answers)
        for other in dict.fromkeys(others.values()):
            yield "wait", other, engine.settings.wait_seconds, timeout
        left = []
        for key, other in others.items():
            number = numbers[key]
            if key not in other.answers:
                left.append(number)
                continue
            payload, entry = other.answers[key]
            value = decode(decoded(payload, requests[number]))
            engine.count_coalesced(requests[number], entry, monotonic() - began)
            found[number] = Found(value, entry, "coalesced")
    if left:
        yield from _answer(engine, requests, left, found, {}, timeout)
    return [found[numbers[request.key]] for request in requests]


def _answer(
    engine: "Engine",
    requests: Sequence[Request],
    mine: list[int],
    found: list[Found | None],
    answers: dict[str, Any],
    timeout: float | None,
) -> Generator[tuple[Any, ...], Any, None]:
    """Answer the requests *mine*: into *found*, and into *answers* for those who wait."""
    asked = [requests[number] for number in mine]
    lease = engine.sharing.lease(_together(asked), timeout)
    try:
        known: list[Hit | None] = yield "recheck", asked, lease
        for number, hit in zip(mine, known, strict=True):
            if hit is not None:
                found[number] = Found(hit.value, hit.entry, "coalesced", hit.age)
                engine.count_coalesced(requests[number], hit.entry, 0.0)
                answers[requests[number].key] = hit.entry.payload, hit.entry
        sent = [number for number in mine if found[number] is None]
        if not sent:
            return
        epoch, began = engine.epoch, monotonic()
        made: Made = yield "send", sent
        pairs = zip(sent, made.parts, strict=True)
        parts = [(number, part) for number, part in pairs if part is not None]
        stored = [(number, part) for number, part in parts if part.payload is not None]
        entries: list[Entry | None] = [None] * len(stored)
        if stored and not made.below:
            each = [Answered(requests[number], *part[1:]) for number, part in stored]
            entries = yield "store", each, made.response, monotonic() - began, epoch
        for number, part in parts:
            found[number] = Found(part.value, None, "miss")
        for (number, part), entry in zip(stored, entries, strict=True):
            found[number] = Found(part.value, entry, "miss")
            answers[requests[number].key] = part.payload, entry
    finally:
        if lease is not None:
            lease.release()


def _together(requests: Sequence[Request]) -> Request:
    """A request with the key of these together."""
    first, *more = requests
    if not more:
        return first
    place, _, _ = first.key.rpartition(":")
    names = "\n".join(sorted(request.key for request in requests))
    return first._replace(key=f"{place}:{sha256(names.encode()).hexdigest()}", older=())


class _Layer:
    """A layer above the HTTP layer, which may answer its calls."""

    def __init__(self, engine: "Engine", requests: Sequence[Request]) -> None:
        self._layers = engine.layers
        self._key = requests[0].key
        self._expects = engine.layers.active and not engine.layers.above_answers
        self._missed: list[Callable[[], None]] = []
        self.passes = engine.layers.above_answers

    @property
    def defer(self) -> Defer | None:
        """What counts the misses of lookups: when it is known who answers."""
        return self._missed.append if self._expects else None

    def expect(self) -> None:
        """Tell the HTTP layer that a call follows."""
        if self._expects:
            self._layers.expect(self._key, self._count, zero_usage=True)

    def settle(self, made: Made) -> Made:
        """*made*, with whether the HTTP layer has answered."""
        below = self._expects and self._layers.settle(self._key) is not None
        return made._replace(below=below)

    def _count(self) -> None:
        missed, self._missed = self._missed, []
        for count in missed:
            count()


class _Steps:
    """What the steps of both kinds need."""

    def __init__(
        self, engine: "Engine", decode: Callable[[Any], Any], send: Any, layer: _Layer | None
    ) -> None:
        self._engine = engine
        self._decode = decode
        self._send = send
        self._layer = layer
        self._defer = None if layer is None else layer.defer

    def _passing(self) -> AbstractContextManager[None]:
        passes = self._layer is not None and self._layer.passes
        return self._engine.layers.in_hand() if passes else nullcontext()

    def _hits(self, requests: Sequence[Request]) -> list[Hit | None]:
        reader = self._engine.reader
        entries = reader.recheck_many(requests)
        return [
            None if entry is None else reader.read(request, entry, self._decode)
            for request, entry in zip(requests, entries, strict=True)
        ]


class _Does(_Steps):
    """The steps that take time, for callers that may be blocked."""

    def look(self, requests: Sequence[Request]) -> list[Hit | None]:
        return self._engine.reader.lookup_many(requests, self._decode, defer=self._defer)

    def recheck(self, requests: Sequence[Request], lease: "Lease | None") -> list[Hit | None]:
        if lease is None:
            return self._hits(requests)
        return lease.acquire(lambda: _all(self._hits(requests))) or self._hits(requests)

    def send(self, numbers: list[int]) -> Made:
        if self._layer is not None:
            self._layer.expect()
        with self._passing():
            made: Made = self._send(numbers)
        return made if self._layer is None else self._layer.settle(made)

    def store(
        self, parts: list[Answered], response: Any, seconds: float, epoch: int
    ) -> list[Entry | None]:
        return self._engine.writer.store_parts(parts, response, seconds=seconds, epoch=epoch)

    def wait(self, claim: Claim, seconds: float, timeout: float | None) -> None:
        try:
            claim.wait(seconds if timeout is None else min(seconds, timeout))
        except TimeoutError:
            _give_up(seconds, timeout)


class _DoesAsync(_Steps):
    """The same for tasks."""

    async def look(self, requests: Sequence[Request]) -> list[Hit | None]:
        return await self._engine.reader.alookup_many(requests, self._decode, defer=self._defer)

    async def recheck(self, requests: Sequence[Request], lease: "Lease | None") -> list[Hit | None]:
        def hits() -> list[Hit | None]:
            return self._hits(requests)

        if lease is None:
            return await self._engine.off_loop(hits)
        found = await lease.aacquire(lambda: _all(hits()))
        return await self._engine.off_loop(hits) if found is None else found

    async def send(self, numbers: list[int]) -> Made:
        if self._layer is not None:
            self._layer.expect()
        with self._passing():
            made: Made = await self._send(numbers)
        return made if self._layer is None else self._layer.settle(made)

    async def store(
        self, parts: list[Answered], response: Any, seconds: float, epoch: int
    ) -> list[Entry | None]:
        writer = self._engine.writer
        await writer.billing.load_prices()
        return await self._engine.off_loop(
            lambda: writer.store_parts(parts, response, seconds=seconds, epoch=epoch)
        )

    async def wait(self, claim: Claim, seconds: float, timeout: float | None) -> None:
        try:
            await claim.await_(seconds if timeout is None else min(seconds, timeout))
        except TimeoutError:
            _give_up(seconds, timeout)


def _all(hits: list[Hit | None]) -> list[Hit | None] | None:
    return None if None in hits else hits


def _give_up(seconds: float, timeout: float | None) -> None:
    """After a wait for another's call: go on, or TimeoutError if the caller's time is over."""
    if timeout is not None and timeout < seconds:
        raise WaitTimeout(f"an identical call in progress took longer than {timeout:g} s")
