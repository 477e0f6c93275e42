"""Answer the calls of clients: from the cache, from a call in progress, or from their provider."""

import asyncio
import logging
from contextlib import suppress
from functools import lru_cache, partial
from typing import Final, NamedTuple

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.streams import AsyncReplay
from llm_cache_mem.errors import CacheMissError, LLMCacheError, RequestNotCacheable
from llm_cache_mem.gateway.asgi import (
    Body,
    ClientGone,
    Receive,
    Scope,
    Send,
    read_body,
    send_json,
    send_whole,
    until_gone,
)
from llm_cache_mem.gateway.call import Caller, CallRefused, RawHeaders, caller_of
from llm_cache_mem.gateway.config import GatewayConfig, Upstream
from llm_cache_mem.gateway.exchange import Answer, GatewayExchange
from llm_cache_mem.gateway.upstream import Client, UpstreamError
from llm_cache_mem.http.again import asend_again, seen
from llm_cache_mem.http.answer import Head, decode_whole
from llm_cache_mem.http.core import Core, Texts, Uncached, hit_head
from llm_cache_mem.http.drive import ashare
from llm_cache_mem.http.drive_texts import adrive_texts
from llm_cache_mem.http.headers import AGE, MARK
from llm_cache_mem.http.request import MAX_REQUEST_BYTES, is_generation
from llm_cache_mem.keys.request import Request

__all__ = ["Answered", "Answers", "send_error"]

_log = logging.getLogger(__name__)

_CLIENT_GONE: Final = 499
_CALLERS: Final = 256
_AGE: Final = AGE.encode()
_LENGTH: Final = b"content-length"
_MARK: Final = MARK.encode()


class Answered(NamedTuple):
    """What a client was sent: the *status*, the *mark* that says where it came from, and the *age*
    of a stored answer in seconds."""

    status: int
    mark: str = ""
    age: int | None = None


class Answers:
    """Answers calls from *cache*, as *config* says. It serves one event loop.

    *key* keeps the namespaces of credentials apart.
    """

    def __init__(self, cache: LLMCache, config: GatewayConfig, key: bytes) -> None:
        self._core = Core(cache, usage="keep")
        self._client: Client | None = None
        self._caller = lru_cache(_CALLERS)(partial(caller_of, config, key))

    async def close(self) -> None:
        """Close the connections to providers."""
        if self._client is not None:
            await self._client.close()

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, upstream: Upstream, path: str
    ) -> Answered:
        """Answer a request for *path* of *upstream*."""
        try:
            return await self._answer(scope, receive, send, upstream, path)
        except ClientGone:
            return Answered(_CLIENT_GONE)
        except CallRefused as exc:
            return Answered(await send_error(send, exc.status, str(exc)), "error")
        except UpstreamError as exc:
            return Answered(await send_error(send, 502, str(exc)), "error")
        except (CacheMissError, RequestNotCacheable) as exc:  # in mode replay
            return Answered(await send_error(send, 404, str(exc), "cache_miss"), "miss")
        except LLMCacheError as exc:
            return Answered(await send_error(send, 500, str(exc)), "error")

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, upstream: Upstream, path: str
    ) -> Answered:
        raw: RawHeaders = tuple([pair for pair in scope["headers"] if pair[0] != _LENGTH])
        query = scope["query_string"].decode("ascii", "replace")
        client = scope.get("client")
        caller = self._caller(raw, query, client[0] if client else None)
        exchange = await self._exchange(scope, receive, upstream, path, query, caller)
        with caller.options:
            wire = exchange.wire()
            found = self._core.cacheable(wire)
            if caller.is_signed and not isinstance(found, Uncached):
                found = self._core.pass_over("signature", "a signature is for one request alone")
            if isinstance(found, Request):
                hit = await self._core.engine.reader.alookup(found, decode_whole)
                if hit is not None:
                    verifier = self._core.engine.verifier_for(found)
                    if verifier is not None:
                        again = partial(asend_again, self._core, exchange)
                        verifier.aoffer(found, hit.entry, again, seen)
                    return await _send_stored(send, hit_head(hit, "hit"), hit.value.chunks)
            async with _WhileConnected(receive, exchange.body):
                if isinstance(found, Request):
                    answer = await ashare(self._core, exchange, wire, found)
                elif isinstance(found, Texts):
                    answer = await adrive_texts(self._core, exchange, wire, found)
                else:
                    answer = _marked(await exchange.untouched(), found)
                return await _send_answer(send, answer)

    async def _exchange(
        self,
        scope: Scope,
        receive: Receive,
        upstream: Upstream,
        path: str,
        query: str,
        caller: Caller,
    ) -> GatewayExchange:
        method = scope["method"]
        generates = is_generation(method, path, caller.content_type)
        body = await read_body(receive, MAX_REQUEST_BYTES if generates else 0)
        length = next((text for name, text in scope["headers"] if name == _LENGTH), b"")
        if self._client is None:
            self._client = Client()
        return GatewayExchange(
            self._client, upstream, method, path, query, caller, length.decode("latin-1"), body
        )


def _marked(answer: Answer, uncached: Uncached) -> Answer:
    """*answer*, with the reason for which its call was skipped, if it was."""
    if uncached.reason is None:
        return answer
    mark = f"skipped:{uncached.reason}".encode("latin-1", "replace")
    return answer._replace(head=answer.head._replace(headers=[*answer.head.headers, (_MARK, mark)]))


class _WhileConnected:
    """Cancels the block when the client leaves, which then raises ClientGone."""

    def __init__(self, receive: Receive, body: Body) -> None:
        self._gone = asyncio.get_running_loop().create_task(_until_gone(receive, body))
        self._block = asyncio.current_task()

    async def __aenter__(self) -> None:
        self._gone.add_done_callback(self._leave)

    def _leave(self, gone: "asyncio.Task[None]") -> None:
        if not gone.cancelled() and self._block is not None:
            self._block.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        left = self._gone.done() and not self._gone.cancelled()
        self._gone.remove_done_callback(self._leave)
        self._gone.cancel()
        if kind is asyncio.CancelledError and left and self._block is not None:
            self._block.uncancel()
            raise ClientGone from None


async def _until_gone(receive: Receive, body: Body) -> None:
    await body.arrived()  # what is received before that belongs to the body
    await until_gone(receive)


async def _send_stored(send: Send, head: Head, chunks: list[bytes]) -> Answered:
    """Send an answer that is all there in one write."""
    body = b"".join(chunks)
    headers = [pair for pair in head.headers if pair[0].lower() != _LENGTH]
    headers.append((_LENGTH, str(len(body)).encode()))
    with suppress(OSError):  # the client has gone
        await send_whole(send, head.status, headers, body)
    fields = dict(head.headers)
    age = fields.get(_AGE)
    return Answered(head.status, fields.get(_MARK, b"").decode(), None if age is None else int(age))


async def _send_answer(send: Send, answer: Answer) -> Answered:
    head, source = answer
    if isinstance(source, AsyncReplay):  # stored while this caller waited, or of embeddings
        return await _send_stored(send, head, [chunk async for chunk in source])
    mark = next((value.decode("latin-1") for name, value in head.headers if name == _MARK), "")
    try:
        start = {"type": "http.response.start", "status": head.status, "headers": head.headers}
        await send(start)
        async for chunk in source:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except UpstreamError as exc:
        # Without its end the client sees that the answer is broken off.
        _log.warning("an answer broke off: %s", exc)
    except OSError:  # the client has gone
        return Answered(_CLIENT_GONE, mark)
    finally:
        await source.aclose()
    return Answered(head.status, mark)


async def send_error(send: Send, status: int, text: str, kind: str = "gateway") -> int:
    """Answer with an error of the gateway's own, in the form that most SDKs show."""
    error = {"message": f"llm-cache-mem: {text}", "type": kind, "code": None, "param": None}
    with suppress(OSError):
        await send_json(send, status, {"error": error}, [(_MARK, b"error")])
    return status
