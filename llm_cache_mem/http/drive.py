"""Drive an exchange: answer it from the cache, or send it once for all who ask at the same time."""

from contextlib import ExitStack
from contextvars import copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any

from llm_cache_mem._util.in_thread import running_loop
from llm_cache_mem.engine.async_broadcast import AsyncBroadcast
from llm_cache_mem.engine.broadcast import Broadcast
from llm_cache_mem.engine.flight import Flight, is_nested
from llm_cache_mem.engine.layers import Above, RequestSeen, call_above
from llm_cache_mem.engine.reader import Hit
from llm_cache_mem.engine.streams import AsyncReplay, Replay
from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.http.answer import Recording, decode
from llm_cache_mem.http.core import Core, Texts, Uncached, depending, hit_head
from llm_cache_mem.http.drive_texts import adrive_texts, drive_texts
from llm_cache_mem.http.exchange import AsyncExchange, Exchange, Wire
from llm_cache_mem.http.parsing import settle, watch_parser
from llm_cache_mem.keys.request import Request

if TYPE_CHECKING:
    from llm_cache_mem.engine.leases import Lease

__all__ = ["adrive", "ashare", "drive"]

# How often a caller may find the call it wanted to join just ended, before it makes its own.
_ROUNDS = 8


def drive(core: Core, exchange: Exchange) -> Any:
    """The response to *exchange*: stored, shared with another caller, or from the provider.

    Raises what its library raises.
    """
    engine = core.engine
    if engine.layers.sees_only:
        return exchange.fail(RequestSeen(_seen(core, exchange)))
    if engine.layers.has_in_hand():
        return exchange.untouched()
    above = call_above(engine.layers)
    if above is not None and above.passes:
        return core.passed(above, exchange.untouched())
    try:
        wire = exchange.wire()
        request = core.cacheable(wire)
        core.tell(above, request)
        if isinstance(request, Uncached):
            with engine.layers.in_hand():
                return exchange.untouched()
        if isinstance(request, Texts):
            return drive_texts(core, exchange, wire, request, above)
        request = depending(request, above)
        watch_parser(engine, request)
        hit = engine.reader.lookup(request, decode)
    except LLMCacheError as exc:
        return exchange.fail(exc)
    if hit is not None:
        verifier = engine.verifier_for(request)
        if verifier is not None:
            from llm_cache_mem.http.again import seen, send_again  # few caches verify

            verifier.offer(request, hit.entry, lambda: send_again(core, exchange), seen)
        chunks = core.chunks(above, hit, "hit", request)
        return exchange.respond(hit_head(hit, "hit"), Replay(chunks))
    return _share(core, exchange, wire, request, above)


def _seen(core: Core, exchange: Exchange) -> Request | None:
    """The request, if it can be cached."""
    try:
        found = core.cacheable(exchange.wire())
    except LLMCacheError:
        return None
    return found if isinstance(found, Request) else None


def _share(
    core: Core, exchange: Exchange, wire: Wire, request: Request, above: Above | None
) -> Any:
    """Send the request, or join the call of another that has."""
    engine, lane, began = core.engine, ("threads", exchange.lane), monotonic()
    lease = engine.sharing.lease(request, wire.timeout)

    def count(broadcast: Broadcast[bytes]) -> None:
        engine.count_coalesced(request, broadcast.entry, monotonic() - began)

    for _ in range(_ROUNDS):
        try:
            found, coalesced = engine.sharing.share(
                request,
                lambda flight: _send(core, exchange, wire, request, flight, lease),
                lane,
                circumstances=core.circumstances(wire),
                timeout=wire.timeout,
            )
        except TimeoutError as exc:
            raise exchange.timed_out(str(exc)) from None
        if isinstance(found, Hit):
            engine.count_coalesced(request, found.entry, monotonic() - began)
            chunks = core.chunks(above, found, "coalesced", request)
            return exchange.respond(hit_head(found, "coalesced"), Replay(chunks))
        if coalesced and found.head.is_stream and found.timeout != wire.timeout:
            break  # its bytes come over a connection that waits longer or less long
        counts = coalesced and found.head.status == 200
        subscriber = found.attach(count if counts else None, joins=coalesced)
        if subscriber is not None:
            if above is not None and found.head.status == 200:
                above.answered("coalesced" if coalesced else "miss", request.key, found)
            head, body = core.live(found, subscriber, above, coalesced=coalesced)
            return exchange.respond(head, body)
        found.retire()
    with engine.layers.in_hand():
        return exchange.untouched()


def _send(
    core: Core,
    exchange: Exchange,
    wire: Wire,
    request: Request,
    flight: Flight,
    lease: "Lease | None",
) -> "Hit | Broadcast[bytes]":
    """Send the request; its response from the first byte on, for all who join *flight*."""
    engine, began, context = core.engine, monotonic(), copy_context()
    with ExitStack() as stack:
        if lease is not None:
            stack.callback(lease.release)
        alone = lease is None or is_nested(flight)
        stored = (
            engine.recheck(request, decode)
            if alone or lease is None
            else lease.acquire(lambda: engine.recheck(request, decode))
        )
        if stored is not None:
            return stored
        with engine.layers.in_hand():
            live = exchange.send()
        recording = core.recording(live, wire.path)

        def finish(broadcast: Broadcast[bytes], at_end: bool) -> None:
            try:
                if core.should_store(recording, at_end):
                    facts = _facts(recording, began, flight)
                    broadcast.entry = context.copy().run(
                        lambda: engine.store(request, recording.encode(), **facts)
                    )
            finally:
                flight.end()
                release()

        broadcast = Broadcast(live.head, live.source, recording, finish, exchange.lost, flight.end)
        broadcast.timeout = wire.timeout
        _share_from_now(flight, live.head.status)
        release = stack.pop_all().close  # by finish, when the body has ended
    return broadcast


async def adrive(core: Core, exchange: AsyncExchange) -> Any:
    """``drive`` for async clients under asyncio; under another event loop requests pass
    uncached."""
    engine = core.engine
    if engine.layers.has_in_hand():
        return await exchange.untouched()
    above = call_above(engine.layers)
    if above is not None and above.passes:
        return core.passed(above, await exchange.untouched())
    try:
        wire = exchange.wire()
        request = core.cacheable(wire)
        if running_loop() is None and not isinstance(request, Uncached):
            request = core.pass_over("event loop", "only under asyncio can it be answered")
        core.tell(above, request)
        if isinstance(request, Uncached):
            with engine.layers.in_hand():
                return await exchange.untouched()
        if isinstance(request, Texts):
            return await adrive_texts(core, exchange, wire, request, above)
        request = depending(request, above)
        watch_parser(engine, request)
        await settle(request)
        hit = await engine.reader.alookup(request, decode)
    except LLMCacheError as exc:
        return exchange.fail(exc)
    if hit is not None:
        verifier = engine.verifier_for(request)
        if verifier is not None:
            from llm_cache_mem.http.again import asend_again, seen  # as in drive

            verifier.aoffer(request, hit.entry, lambda: asend_again(core, exchange), seen)
        chunks = core.chunks(above, hit, "hit", request)
        return exchange.respond(hit_head(hit, "hit"), AsyncReplay(chunks))
    return await ashare(core, exchange, wire, request, above)


async def ashare(
    core: Core,
    exchange: AsyncExchange,
    wire: Wire,
    request: Request,
    above: Above | None = None,
) -> Any:
    """The response to an *exchange* whose *request* has missed: shared with another caller, or from
    the provider."""
    engine, lane, began = core.engine, (running_loop(), exchange.lane), monotonic()
    lease = engine.sharing.lease(request, wire.timeout)

    def count(broadcast: AsyncBroadcast[bytes]) -> None:
        engine.count_coalesced(request, broadcast.entry, monotonic() - began)

    for _ in range(_ROUNDS):
        try:
            found, coalesced = await engine.sharing.ashare(
                request,
                lambda flight: _asend(core, exchange, wire, request, flight, lease),
                lane,
                circumstances=core.circumstances(wire),
                timeout=wire.timeout,
            )
        except TimeoutError as exc:
            raise exchange.timed_out(str(exc)) from None
        if isinstance(found, Hit):
            engine.count_coalesced(request, found.entry, monotonic() - began)
            chunks = core.chunks(above, found, "coalesced", request)
            return exchange.respond(hit_head(found, "coalesced"), AsyncReplay(chunks))
        if coalesced and found.head.is_stream and found.timeout != wire.timeout:
            break  # its bytes come over a connection that waits longer or less long
        counts = coalesced and found.head.status == 200
        subscriber = found.attach(count if counts else None, joins=coalesced)
        if subscriber is not None:
            if above is not None and found.head.status == 200:
                above.answered("coalesced" if coalesced else "miss", request.key, found)
            head, body = core.live(found, subscriber, above, coalesced=coalesced)
            return exchange.respond(head, body)
        found.retire()
    with engine.layers.in_hand():
        return await exchange.untouched()


async def _asend(
    core: Core,
    exchange: AsyncExchange,
    wire: Wire,
    request: Request,
    flight: Flight,
    lease: "Lease | None",
) -> "Hit | AsyncBroadcast[bytes]":
    engine, began, context = core.engine, monotonic(), copy_context()
    with ExitStack() as stack:
        if lease is not None:
            stack.callback(lease.release)
        alone = lease is None or is_nested(flight)
        stored = await (
            engine.arecheck(request, decode)
            if alone or lease is None
            else lease.aacquire(lambda: engine.recheck(request, decode))
        )
        if stored is not None:
            return stored
        with engine.layers.in_hand():
            live = await exchange.send()
        recording = core.recording(live, wire.path)

        async def finish(broadcast: AsyncBroadcast[bytes], at_end: bool) -> None:
            try:
                if core.should_store(recording, at_end):
                    facts = _facts(recording, began, flight)
                    broadcast.entry = await engine.astore(request, recording.encode(), **facts)
            finally:
                flight.end()
                release()

        broadcast = AsyncBroadcast(
            live.head, live.source, recording, finish, exchange.lost, flight.end, context
        )
        broadcast.timeout = wire.timeout
        _share_from_now(flight, live.head.status)
        release = stack.pop_all().close  # by finish, when the body has ended
    return broadcast


def _facts(recording: Recording, began: float, flight: Flight) -> dict[str, Any]:
    """What to tell the engine about an answer to store."""
    return {"response": recording.response(), "seconds": monotonic() - began, "flight": flight}


def _share_from_now(flight: Flight, status: int) -> None:
    if status == 200:
        flight.outlast()
    else:
        flight.only_alike()
