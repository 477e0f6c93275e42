"""Exchanges that are made again, to verify a hit."""

from contextlib import aclosing, closing
from typing import Any

from llm_cache_mem.engine.verification import Fresh
from llm_cache_mem.errors import ValueNotCacheable
from llm_cache_mem.http.answer import Recording, decode_whole
from llm_cache_mem.http.core import Core
from llm_cache_mem.http.exchange import AsyncExchange, Exchange
from llm_cache_mem.responses.agreement import merged
from llm_cache_mem.values.payload import Payload

__all__ = ["asend_again", "seen", "send_again"]


def send_again(core: Core, exchange: Exchange) -> Fresh:
    """What the provider answers now. ValueNotCacheable if that is no whole answer."""
    live = exchange.send()
    recording = core.recording(live, exchange.wire().path)
    with closing(live.source):
        for chunk in live.source:
            recording.add(chunk)
    return _fresh(recording)


async def asend_again(core: Core, exchange: AsyncExchange) -> Fresh:
    """``send_again`` for asyncio."""
    live = await exchange.send()
    recording = core.recording(live, exchange.wire().path)
    async with aclosing(live.source):
        async for chunk in live.source:
            recording.add(chunk)
    return _fresh(recording)


def _fresh(recording: Recording) -> Fresh:
    if not recording.finish(at_end=True):
        raise ValueNotCacheable("response", f"not a whole answer (status {recording.status})")
    response = recording.response()
    return Fresh(recording.encode(), response, response)


def seen(payload: Payload) -> Any:
    """The answer in a stored response as JSON, to be compared: of a stream, its texts."""
    stored = decode_whole(payload.decode())
    recording = Recording(stored.status, stored.headers, bytes)
    for chunk in stored.chunks:
        recording.add(chunk)
    recording.finish(at_end=True)
    answer = recording.response()
    return merged(list(answer)) if isinstance(answer, list) else answer
