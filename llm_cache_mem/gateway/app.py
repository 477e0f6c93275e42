"""The gateway as an ASGI application: providers under their names, everything else is its own."""

import asyncio
import json
import logging
import os
from time import monotonic

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.gateway.answers import Answers, send_error
from llm_cache_mem.gateway.asgi import (
    Receive,
    Scope,
    Send,
    answer_lifespan,
    send_json,
    send_whole,
)
from llm_cache_mem.gateway.call import TOKEN, is_rebound, is_token
from llm_cache_mem.gateway.config import GatewayConfig
from llm_cache_mem.gateway.feed import Call, Feed
from llm_cache_mem.gateway.inspection import Findings, Inspection
from llm_cache_mem.gateway.metrics import CONTENT_TYPE, DIRECTORY, Metrics
from llm_cache_mem.gateway.page import PREFIX, Page
from llm_cache_mem.gateway.workers import Workers

__all__ = ["Gateway", "Viewer"]

_access = logging.getLogger("llm_cache_mem.gateway.access")


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
        self._cache = cache
        self._config = config
        self._feed = feed or Feed()
        self._answers = Answers(cache, config, key)
        self._workers = Workers(cache.engine, self._feed, os.environ.get(DIRECTORY))
        self._page = Page(config, Inspection(cache, self._workers, findings), self._workers)
        self._upstreams = config.all_upstreams()
        self._metrics = Metrics(cache)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await answer_lifespan(receive, send, self._close, self._workers.start)

    async def _close(self) -> None:
        await self._answers.close()
        await self._workers.stop()
        self._metrics.close()
        await asyncio.to_thread(self._cache.close)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["raw_path"].decode("ascii", "replace")
        name, _, rest = path[1:].partition("/")
        upstream = self._upstreams.get(name)
        if upstream is None:
            await self._answer_itself(scope, receive, send, path)
            return
        call, began = self._feed.begin(name, path[:200]), monotonic()
        asked = f"{upstream.path}/{rest}"
        call.status, mark, call.age = await self._answers.answer(
            scope, receive, send, upstream, asked
        )
        call.outcome, _, reason = mark.partition(":")
        call.reason = reason or call.reason
        call.ms = round((monotonic() - began) * 1000, 1)
        self._feed.end(call)
        if _access.isEnabledFor(logging.INFO):
            _log_access(scope["method"], call)

    async def _answer_itself(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        """Answer a request that is for no upstream."""
        if path == "/healthz":
            await send_json(send, 200, {"status": "ok"})
        elif path == "/metrics":
            await self._send_metrics(scope, send)
        elif path.startswith(PREFIX):
            await self._page.answer(scope, receive, send, path)
        else:
            known = ", ".join(f"/{name}/" for name in sorted(self._upstreams))
            name = path[1:].partition("/")[0]
            await send_error(send, 404, f"no upstream is named {name[:40]!r}; known are {known}")

    async def _send_metrics(self, scope: Scope, send: Send) -> None:
        headers = [(name, text.decode("latin-1")) for name, text in scope["headers"]]
        if any(name == b"host" and is_rebound(self._config, host) for name, host in headers):
            await send_error(send, 403, "metrics are not served under that host name")
            return
        given = [
            text.removeprefix("Bearer ")
            for name, text in headers
            if name in (b"authorization", TOKEN.encode())
        ]
        if not is_token(self._config, given[0] if given else ""):
            await send_error(send, 401, f"metrics need the token, as {TOKEN} or as a bearer token")
            return
        body = await asyncio.to_thread(self._metrics.text)
        length = (b"content-length", str(len(body)).encode())
        await send_whole(send, 200, [(b"content-type", CONTENT_TYPE.encode()), length], body)


class Viewer:
    """An ASGI application that shows *cache* on the live page, and nothing else."""

    def __init__(
        self, cache: LLMCache, config: GatewayConfig, *, findings: Findings | None = None
    ) -> None:
        self._cache = cache
        self._page = Page(config, Inspection(cache, None, findings))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send, lambda: asyncio.to_thread(self._cache.close))
        elif scope["type"] == "http":
            path = scope["raw_path"].decode("ascii", "replace")
            if path == "/":
                await send_whole(send, 307, [(b"location", PREFIX.encode())], b"")
            else:
                await self._page.answer(scope, receive, send, path)


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
