"""Calls of those who missed: one calls the model, and the others get copies of its answer."""

from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.engine.flight import Flight, is_nested
from llm_cache_mem.engine.layers import Above
from llm_cache_mem.engine.reader import decoded, same
from llm_cache_mem.engine.sharing import Sharing
from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.keys.request import Request
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

if TYPE_CHECKING:
    from llm_cache_mem.engine.leases import Lease

__all__ = ["PLAIN", "Answer", "Calls", "Codec", "Made"]


@without_content
class Answer(NamedTuple):
    """What a flight ends with: the leader's *response*, and what followers copy theirs from."""

    response: Any
    payload: Payload | None
    entry: Entry | None
    rechecked: bool = False  # another leader had just stored it
    below: Above | None = None  # how the HTTP layer answered it


@without_content
class Made(NamedTuple):
    """What ``Calls.make`` gives: the *value* for this caller, the *answer* that it is of, and
    whether it was *free*, since another caller's call or the HTTP layer's store gave it. *answer*
    is None where no copy could be made and this caller made a call of its own."""

    value: Any
    answer: Answer | None
    free: bool = False


class Codec(NamedTuple):
    """How an integration's responses are stored, read back, and judged."""

    encode: Callable[[Any], Any] = same
    decode: Callable[[Any], Any] = same
    report: Callable[[Any], Any] = same


PLAIN: Final = Codec()


class Calls:
    """Makes the calls of one cache and stores their answers. Thread-safe."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._settings = sharing.settings
        self._writer = sharing.writer

    def make(
        self,
        request: Request,
        fn: Callable[[], Any],
        codec: Codec = PLAIN,
        *,
        circumstances: Hashable,
        timeout: float | None = None,
    ) -> Made:
        """The rest of ``Engine.call`` for a caller whose ``lookup`` has missed. *circumstances*,
        here a value, and *timeout* are as there."""
        if not self._settings.coalesce:
            return self._own(request, self._call(request, fn, codec, None), codec)
        lease, began = self._sharing.lease(request, timeout), self._settings.clock()
        answer, coalesced = self._sharing.share(
            request,
            lambda flight: self._lead(request, fn, codec, flight, lease),
            circumstances=(circumstances, self._sharing.keyer.unkeyed(request)),
            timeout=timeout,
        )
        if not coalesced and not answer.rechecked:
            return self._own(request, answer, codec)
        try:
            return Made(self.copy(request, answer, codec, began=began), answer, free=True)
        except Exception:  # noqa: BLE001  # no copy can be made: this caller makes its own call
            return Made(fn(), None)

    async def amake(
        self,
        request: Request,
        fn: Callable[[], Awaitable[Any]],
        codec: Codec = PLAIN,
        *,
        circumstances: Hashable,
        timeout: float | None = None,
    ) -> Made:
        """``make`` for a coroutine function."""
        if not self._sharing.tasks_coalesce:
            return self._own(request, await self._acall(request, fn, codec, None), codec)
        lease, began = self._sharing.lease(request, timeout), self._settings.clock()
        answer, coalesced = await self._sharing.ashare(
            request,
            lambda flight: self._alead(request, fn, codec, flight, lease),
            circumstances=(circumstances, self._sharing.keyer.unkeyed(request)),
            timeout=timeout,
        )
        if not coalesced and not answer.rechecked:
            return self._own(request, answer, codec)
        try:
            return Made(self.copy(request, answer, codec, began=began), answer, free=True)
        except Exception:  # noqa: BLE001  # as in make
            return Made(await fn(), None)

    def copy(self, request: Request, answer: Answer, codec: Codec = PLAIN, *, began: float) -> Any:
        """A copy of *answer* for a caller that has waited for it since *began*, counted as
        coalesced. Raises if none can be made."""
        if answer.payload is None:  # only the object that the leader's caller may be changing
            raise EntryUnreadable("the answer has no stored form")
        copy = codec.decode(decoded(answer.payload, request))
        if answer.below is not None and answer.below.outcome == "hit" and answer.entry is not None:
            self._sharing.layers.drop(request.key)
            key = answer.below.key or request.key
            self._sharing.ledger.hit(key, answer.entry, request.tags)
        else:
            self._sharing.count_coalesced(request, answer.entry, self._settings.clock() - began)
        return copy

    def _recheck(self, request: Request) -> Answer | None:
        entry = self._sharing.reader.recheck(request)
        return None if entry is None else Answer(None, entry.payload, entry, rechecked=True)

    def _own(self, request: Request, answer: Answer, codec: Codec) -> Made:
        """What the caller gets that has made the call: the response, or as a hit reads in its layer
        if the HTTP layer has answered without a call."""
        free = answer.below is not None and answer.below.is_hit
        if not free or answer.payload is None:
            return Made(answer.response, answer, free)
        try:
            return Made(codec.decode(decoded(answer.payload, request)), answer, free)
        except Exception:  # noqa: BLE001  # the response is there
            return Made(answer.response, answer, free)

    def _lead(
        self,
        request: Request,
        fn: Callable[[], Any],
        codec: Codec,
        flight: Flight,
        lease: "Lease | None",
    ) -> Answer:
        if lease is None or is_nested(flight):
            return self._recheck(request) or self._call(request, fn, codec, flight)
        try:
            found = lease.acquire(lambda: self._recheck(request))
            return found or self._call(request, fn, codec, flight)
        finally:
            lease.release()

    async def _alead(
        self,
        request: Request,
        fn: Callable[[], Awaitable[Any]],
        codec: Codec,
        flight: Flight,
        lease: "Lease | None",
    ) -> Answer:
        if lease is None or is_nested(flight):
            found = await self._sharing.off_loop(lambda: self._recheck(request))
            return found or await self._acall(request, fn, codec, flight)
        try:
            found = await lease.aacquire(lambda: self._recheck(request))
            return found or await self._acall(request, fn, codec, flight)
        finally:
            lease.release()

    def _call(
        self, request: Request, fn: Callable[[], Any], codec: Codec, flight: Flight | None
    ) -> Answer:
        """Call the model, and store the answer."""
        began = self._settings.clock()
        with self._sharing.passing():
            response = fn()
        seconds = max(0.0, self._settings.clock() - began)
        payload = self._writer.encode(request, response, codec.encode)
        below = self._sharing.answered_below(request)
        if below is not None:
            return Answer(response, payload, below.entry, below=below)
        entry = self._writer.store_encoded(
            request, payload, response, codec.report, seconds, flight
        )
        return Answer(response, payload, entry)

    async def _acall(
        self,
        request: Request,
        fn: Callable[[], Awaitable[Any]],
        codec: Codec,
        flight: Flight | None,
    ) -> Answer:
        began = self._settings.clock()
        with self._sharing.passing():
            response = await fn()
        seconds = max(0.0, self._settings.clock() - began)
        payload = self._writer.encode(request, response, codec.encode)
        below = self._sharing.answered_below(request)
        if below is not None:
            return Answer(response, payload, below.entry, below=below)
        await self._writer.billing.load_prices()
        entry = await self._sharing.off_loop(
            lambda: self._writer.store_encoded(
                request, payload, response, codec.report, seconds, flight
            )
        )
        return Answer(response, payload, entry)
