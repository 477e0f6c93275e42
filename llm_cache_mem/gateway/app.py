"""The gateway as an ASGI application: providers under their names, everything else is its own."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from time import monotonic
from typing import Final

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.streams import AsyncReplay
from llm_cache_mem.errors import CacheMissError, LLMCacheError
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
from llm_cache_mem.gateway.call import TOKEN, Caller, CallRefused, caller_of, is_token, options_of
from llm_cache_mem.gateway.config import GatewayConfig, Upstream
from llm_cache_mem.gateway.exchange import Answer, GatewayExchange
from llm_cache_mem.gateway.feed import Call, Feed
from llm_cache_mem.gateway.inspection import Findings, Inspection
from llm_cache_mem.gateway.metrics import CONTENT_TYPE, Metrics
from llm_cache_mem.gateway.page import PREFIX, Page
from llm_cache_mem.gateway.upstream import Client, UpstreamError
from llm_cache_mem.http.core import Core
from llm_cache_mem.http.drive import adrive
from llm_cache_mem.http.headers import MARK
from llm_cache_mem.http.request import MAX_REQUEST_BYTES, is_generation

__all__ = ["Gateway", "Viewer"]

_access = logging.getLogger("llm_cache_mem.gateway.access")
_CLIENT_GONE: Final = 499
_MARK: Final = MARK.encode()


_skipped: "ContextVar[list[str] | None]" = ContextVar("llm_cache_mem.gateway.skipped", default=None)


class _Core(Core):
    """The decisions of the HTTP layer, with the reason for which a call was skipped."""

    def skip(self, reason: str, text: str, *args: object) -> None:
        super().skip(reason, text, *args)
        reasons = _skipped.get()
        if reasons is not None:
            reasons.append(reason)


class Gateway:
    """An ASGI application that answers generation requests from *cache* and sends the rest on.

    *key* keeps the namespaces of credentials apart; see ``gateway_key``. *feed* is what the cache's
    ``on_event`` tells of its calls; *findings* checks the store for the live page. It serves one
    event loop.
    """

    def __init__(
        self,
        cache: LLMCache,
        config: GatewayConfig,
        *,
        key: bytes,
        feed: Feed | None = None,
        findings: Findings | None = None,
    ) -> None:
        self._feed = feed or Feed()
        self._core = _Core(cache)
        self._page = Page(config, Inspection(cache, self._feed, findings), self._feed)
        self._config = config
        self._key = key
        self._upstreams = config.all_upstreams()
        self._client: Client | None = None
        self._metrics = Metrics(cache)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send, self._close)
        elif scope["type"] == "websocket":
            await _refuse_websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _close(self) -> None:
        if self._client is not None:
            await self._client.close()
        self._metrics.close()
        await asyncio.to_thread(self._core.cache.close)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["raw_path"].decode("ascii", "replace")
        if path == "/healthz":
            await send_json(send, 200, {"status": "ok"})
            return
        if path == "/metrics":
            await self._send_metrics(scope, send)
            return
        if path.startswith(PREFIX):
            await self._page.answer(scope, receive, send, path)
            return
        name, _, rest = path[1:].partition("/")
        upstream = self._upstreams.get(name)
        if upstream is None:
            known = ", ".join(f"/{name}/" for name in sorted(self._upstreams))
            await _send_error(send, 404, f"no upstream is named {name[:40]!r}; known are {known}")
            return
        call, began = self._feed.begin(name, path[:200]), monotonic()
        call.status, mark = await self._serve(scope, receive, send, upstream, f"/{rest}", call)
        call.outcome, _, reason = mark.partition(":")
        call.reason = reason or call.reason
        call.ms = round((monotonic() - began) * 1000, 1)
        self._feed.end(call)
        if _access.isEnabledFor(logging.INFO):
            _log_access(scope["method"], call)

    async def _send_metrics(self, scope: Scope, send: Send) -> None:
        given = [
            text.decode("latin-1").removeprefix("Bearer ")
            for name, text in scope["headers"]
            if name in (b"authorization", TOKEN.encode())
        ]
        if not is_token(self._config, given[0] if given else ""):
            await _send_error(send, 401, f"metrics need the token, as {TOKEN} or as a bearer token")
            return
        body = await asyncio.to_thread(self._metrics.text)
        length = (b"content-length", str(len(body)).encode())
        await send_whole(send, 200, [(b"content-type", CONTENT_TYPE.encode()), length], body)

    async def _serve(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        upstream: Upstream,
        rest: str,
        call: Call,
    ) -> tuple[int, str]:
        """Answer a request for *upstream*; the status and the mark of the answer."""
        client = scope.get("client")
        raw = tuple([tuple(pair) for pair in scope["headers"] if pair[0] != b"content-length"])
        caller = caller_of(raw)
        query = scope["query_string"].decode("ascii", "replace")
        try:
            address = client[0] if client else None
            asked = options_of(self._config, self._key, caller, query, address)
            exchange = await self._exchange(scope, receive, upstream, rest, query, caller)
            async with _while_connected(receive, exchange.body):
                reasons: list[str] = []
                _skipped.set(reasons)
                with asked:
                    answer = await adrive(self._core, exchange)
                call.age = _age(answer)
                return await _send_answer(send, _marked(answer, reasons))
        except ClientGone:
            return _CLIENT_GONE, ""
        except CallRefused as exc:
            return await _send_error(send, exc.status, str(exc)), "error"
        except UpstreamError as exc:
            return await _send_error(send, 502, str(exc)), "error"
        except CacheMissError as exc:
            return await _send_error(send, 404, str(exc), "cache_miss"), "miss"
        except LLMCacheError as exc:
            return await _send_error(send, 500, str(exc)), "error"

    async def _exchange(
        self,
        scope: Scope,
        receive: Receive,
        upstream: Upstream,
        rest: str,
        query: str,
        caller: Caller,
    ) -> GatewayExchange:
        method, path = scope["method"], upstream.path + rest
        generates = is_generation(method, path, caller.content_type)
        body = await read_body(receive, MAX_REQUEST_BYTES if generates else 0)
        passed = caller.passed
        if not body.is_whole:  # streamed on with the length that the client gave
            lengths = [text for name, text in scope["headers"] if name == b"content-length"]
            passed = [*passed, *(("content-length", text.decode("latin-1")) for text in lengths)]
        if self._client is None:
            self._client = Client()
        return GatewayExchange(self._client, upstream, method, path, query, passed, body)


class Viewer:
    """An ASGI application that shows *cache* on the live page, and nothing else."""

    def __init__(
        self, cache: LLMCache, config: GatewayConfig, *, findings: Findings | None = None
    ) -> None:
        self._cache = cache
        self._page = Page(config, Inspection(cache, None, findings))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send, lambda: asyncio.to_thread(self._cache.close))
        elif scope["type"] == "websocket":
            await _refuse_websocket(scope, receive, send)
        elif scope["type"] == "http":
            path = scope["raw_path"].decode("ascii", "replace")
            if path == "/":
                await send_whole(send, 307, [(b"location", PREFIX.encode())], b"")
            else:
                await self._page.answer(scope, receive, send, path)


async def _live(receive: Receive, send: Send, close: Callable[[], Awaitable[object]]) -> None:
    """Answer a server's messages about its start and end."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await close()
            await send({"type": "lifespan.shutdown.complete"})
            return


def _age(answer: Answer) -> int | None:
    """For how many seconds *answer* has been stored; None if it comes from the provider."""
    if not isinstance(answer.source, AsyncReplay):
        return None
    return next((int(value) for name, value in answer.head.headers if name == b"age"), None)


def _marked(answer: Answer, skipped: list[str]) -> Answer:
    """*answer*, with the reason for which its call was skipped, if it was."""
    if not skipped:
        return answer
    mark = f"skipped:{skipped[0]}".encode("latin-1", "replace")
    return answer._replace(head=answer.head._replace(headers=[*answer.head.headers, (_MARK, mark)]))


@asynccontextmanager
async def _while_connected(receive: Receive, body: Body) -> AsyncIterator[None]:
    """Cancel the block when the client leaves, which then raises ClientGone."""
    block = asyncio.current_task()
    gone = asyncio.ensure_future(_until_gone(receive, body))

    def leave(gone: "asyncio.Future[None]") -> None:
        if not gone.cancelled() and block is not None:
            block.cancel()

    gone.add_done_callback(leave)
    try:
        yield
    except asyncio.CancelledError:
        if not gone.done() or gone.cancelled() or block is None:
            raise
        block.uncancel()
        raise ClientGone from None
    finally:
        gone.remove_done_callback(leave)
        gone.cancel()


async def _until_gone(receive: Receive, body: Body) -> None:
    await body.read.wait()  # what is received before that belongs to the body
    await until_gone(receive)


async def _send_answer(send: Send, answer: Answer) -> tuple[int, str]:
    head, source = answer
    mark = next((value.decode("latin-1") for name, value in head.headers if name == _MARK), "")
    start = {"type": "http.response.start", "status": head.status, "headers": head.headers}
    try:
        if isinstance(source, AsyncReplay):  # it is all there: one write
            body = b"".join([chunk async for chunk in source])
            start["headers"] = [*head.headers, (b"content-length", str(len(body)).encode())]
            await send(start)
            await send({"type": "http.response.body", "body": body})
            return head.status, mark
        await send(start)
        async for chunk in source:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except UpstreamError as exc:
        # Without its end the client sees that the answer is broken off.
        logging.getLogger(__name__).warning("an answer broke off: %s", exc)
    except OSError:  # the client has gone
        return _CLIENT_GONE, mark
    finally:
        await source.aclose()
    return head.status, mark


async def _send_error(send: Send, status: int, text: str, kind: str = "gateway") -> int:
    """Answer with an error of the gateway's own, in the form that most SDKs show."""
    error = {"message": f"llm-cache-mem: {text}", "type": kind, "code": None, "param": None}
    with suppress(OSError):
        await send_json(send, status, {"error": error}, [(b"x-llm-cache-mem", b"error")])
    return status


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    text = b"llm-cache-mem: websockets do not pass this gateway; connect to the provider itself\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "websocket.http.response.start", "status": 501, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": text})


def _log_access(method: str, call: Call) -> None:
    """One line of JSON; the query is left out, because some providers take a key there."""
    fields = {
        "method": method,
        "path": call.path,
        "status": call.status,
        "cache": call.outcome or None,
        "ms": call.ms,
    }
    _access.info("%s", json.dumps(fields))
