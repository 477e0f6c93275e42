"""Drive an exchange for embeddings: answer each text from the cache, and send those that are not
there in one request."""

import json
from typing import Any

from llm_cache_mem._util import strict_json
from llm_cache_mem.engine.batches import (
    Found,
    Made,
    Part,
    WaitTimeout,
    acall_many,
    call_many,
)
from llm_cache_mem.engine.layers import Above, Outcome
from llm_cache_mem.engine.streams import AsyncReplay, Replay
from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.http.answer import Head
from llm_cache_mem.http.core import Core, Texts, live_head, texts_head
from llm_cache_mem.http.embeddings import Row
from llm_cache_mem.http.exchange import AsyncExchange, Exchange, Live, Wire
from llm_cache_mem.http.headers import stored_headers
from llm_cache_mem.values.payload import Payload

__all__ = ["adrive_texts", "drive_texts"]


class _Response(Exception):
    """A response that goes to the caller as it came."""

    def __init__(self, head: Head, body: bytes) -> None:
        super().__init__("not to be shared")
        self.head = head
        self.body = body


class _Call:
    """The calls of one exchange: what to send, and what came."""

    def __init__(self, core: Core, texts: Texts) -> None:
        self.core = core
        self.texts = texts
        self.live: Live | None = None
        self._whole: bytes | None = None

    def body(self, numbers: list[int]) -> bytes | None:
        """The body to send for the texts with these *numbers*; None for the caller's own."""
        batch = self.texts.batch
        return None if batch.is_whole(numbers) else batch.body(numbers)

    def made(self, numbers: list[int], live: Live, raw: bytes) -> Made:
        """What the response *live*, whose bytes are *raw*, says of these texts. Raises _Response if
        that is no answer to them."""
        batch = self.texts.batch
        answer = _parsed(live, raw) if live.head.status == 200 else None
        headers = stored_headers(live.headers)
        rows = None if answer is None else batch.rows(numbers, answer, _unusual(headers))
        if rows is None or (None in rows and not batch.is_whole(numbers)):
            if live.head.status == 200:
                self.core.skip("malformed", "an answer was not stored: %s")
            raise _Response(live.head, raw)
        if batch.is_whole(numbers):
            self._whole = raw
        self.live = live
        return Made([row and _part(row) for row in rows], answer)

    def answer(self, found: list[Found | None], above: Above | None) -> tuple[Head, bytes] | None:
        """The head and body of the caller's response; None if they cannot be made."""
        known = [each for each in found if each is not None]
        outcome: Outcome = "miss" if self.live is not None else "hit"
        if outcome == "hit" and any(each.outcome == "coalesced" for each in known):
            outcome = "coalesced"
        if above is not None:
            above.answered(outcome, self.texts.requests[0].key, known[0] if known else None)
        if self._whole is not None and self.live is not None:
            return live_head(self.live.head, coalesced=False), self._whole
        if len(known) != len(found):
            return None
        zero = self.core.reports_zero(above)
        made = self.texts.batch.answer(
            [each.value for each in known],
            lambda number: not zero or known[number].outcome == "miss",
        )
        if made is None:
            return None
        body = json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()
        return texts_head(self.live, outcome, known), body


def _unusual(headers: list[list[str]]) -> list[list[str]]:
    """*headers*, if they say more than that the answer is JSON."""
    return [] if headers == [["content-type", "application/json"]] else headers


def _part(row: Row) -> Part:
    return Part(row, Payload.packed(row.stored()), row.rest)


def _parsed(live: Live, raw: bytes) -> Any:
    try:
        encoded = any(name.lower() == "content-encoding" for name, _ in live.headers)
        return strict_json.parse(live.decoder(raw) if encoded else raw)
    except Exception:  # noqa: BLE001  # of the HTTP library's decoders, or no JSON
        return None


def drive_texts(
    core: Core, exchange: Exchange, wire: Wire, texts: Texts, above: Above | None
) -> Any:
    """The response to *exchange*, which is for *texts*."""
    call = _Call(core, texts)

    def send(numbers: list[int]) -> Made:
        body = call.body(numbers)
        with core.engine.layers.in_hand():
            live = (exchange if body is None else exchange.with_body(body)).send()
        try:
            raw = b"".join(live.source)
        finally:
            live.source.close()
        return call.made(numbers, live, raw)

    try:
        found = call_many(core.engine, texts.requests, send, decode=Row.of, timeout=wire.timeout)
        answer = call.answer(found, above)
    except _Response as exc:
        answer = exc.head, exc.body
    except LLMCacheError as exc:
        return exchange.fail(exc)
    except WaitTimeout as exc:
        raise exchange.timed_out(str(exc)) from None
    if answer is None:
        with core.engine.layers.in_hand():
            return exchange.untouched()
    return exchange.respond(answer[0], Replay([answer[1]]))


async def adrive_texts(
    core: Core, exchange: AsyncExchange, wire: Wire, texts: Texts, above: Above | None = None
) -> Any:
    """``drive_texts`` for tasks."""
    call = _Call(core, texts)

    async def send(numbers: list[int]) -> Made:
        body = call.body(numbers)
        with core.engine.layers.in_hand():
            live = await (exchange if body is None else exchange.with_body(body)).send()
        try:
            raw = b"".join([piece async for piece in live.source])
        finally:
            await live.source.aclose()
        return call.made(numbers, live, raw)

    try:
        found = await acall_many(
            core.engine, texts.requests, send, decode=Row.of, timeout=wire.timeout
        )
        answer = call.answer(found, above)
    except _Response as exc:
        answer = exc.head, exc.body
    except LLMCacheError as exc:
        return exchange.fail(exc)
    except WaitTimeout as exc:
        raise exchange.timed_out(str(exc)) from None
    if answer is None:
        with core.engine.layers.in_hand():
            return await exchange.untouched()
    return exchange.respond(answer[0], AsyncReplay([answer[1]]))
