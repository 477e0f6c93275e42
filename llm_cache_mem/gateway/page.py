"""The live page under ``/_cache/``: its files, who may see it, and the JSON that it asks for."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.gateway.asgi import (
    Receive,
    Scope,
    Send,
    read_body,
    send_json,
    send_whole,
    until_gone,
)
from llm_cache_mem.gateway.call import is_token, without_port
from llm_cache_mem.gateway.config import LOOPBACK, GatewayConfig
from llm_cache_mem.gateway.inspection import Inspection
from llm_cache_mem.gateway.workers import Workers

__all__ = ["PREFIX", "Page"]

PREFIX: Final = "/_cache/"

_FILES: Final = {
    "": ("index.html", b"text/html; charset=utf-8"),
    "icon.svg": ("icon.svg", b"image/svg+xml"),
    "page.js": ("page.js", b"text/javascript; charset=utf-8"),
    "page.css": ("page.css", b"text/css; charset=utf-8"),
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_OWN_HEADER: Final = "x-llm-cache-page"
_MOST_BODY: Final = 64 * 1024
_IDLE_SECONDS: Final = 15.0
_LAST: Final = 50

_Answer = Callable[[dict[str, str]], Awaitable[Any]]


class Page:
    """Answers requests under PREFIX.

    It is for loopback, or behind the token. A request has to name a host of this gateway (against
    DNS rebinding), and those for data must come from the page itself: a header that no other site
    may send says so.
    """

    def __init__(
        self, config: GatewayConfig, inspection: Inspection, workers: Workers | None = None
    ) -> None:
        self._config = config
        self._workers = workers
        self._hosts = frozenset(name.lower() for name in (*LOOPBACK, "[::1]", *config.page_hosts))
        static = files("llm_cache_mem.gateway") / "static"
        self._files = {
            path: ((static / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()
        }
        self._reads: dict[str, _Answer] = {
            "summary": inspection.summary,
            "entries": inspection.entries,
            "entry": inspection.entry,
            "misses": inspection.misses,
            "health": inspection.health,
        }
        self._writes: dict[str, _Answer] = {
            "delete": inspection.delete,
            "clear": inspection.clear,
            "invalidate": inspection.invalidate,
        }

    async def answer(self, scope: Scope, receive: Receive, send: Send, path: str) -> int:
        """Answer a request to *path*, which begins with PREFIX; the status of the answer."""
        headers = {
            name.decode("latin-1"): text.decode("latin-1") for name, text in scope["headers"]
        }
        refused = self._refusal(scope, headers)
        if refused is not None:
            return await _send_refusal(send, 403, refused)
        rest = path.removeprefix(PREFIX)
        if rest in self._files and scope["method"] in ("GET", "HEAD"):
            body, kind = self._files[rest]
            length = (b"content-length", str(len(body)).encode())
            await send_whole(send, 200, [(b"content-type", kind), length, *_SECURITY], body)
            return 200
        if not rest.startswith("api/"):
            return await _send_refusal(send, 404, "there is no such page")
        if not is_token(self._config, headers.get("authorization", "").removeprefix("Bearer ")):
            return await _send_refusal(send, 401, "the token is missing or wrong")
        if headers.get(_OWN_HEADER) != "1":
            return await _send_refusal(
                send, 403, f"requests for data need the header {_OWN_HEADER}"
            )
        return await self._data(scope, receive, send, rest.removeprefix("api/"))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> str | None:
        """Why a request is refused whatever it asks for; None if it is not."""
        host = headers.get("host", "").lower()
        if without_port(host) not in self._hosts:
            return "this page is not served under that host name: see page_hosts"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host:
            return "another site may not ask this page for anything"
        client = scope.get("client")
        if not self._config.token and (client is None or client[0] not in LOOPBACK):
            return "without a token, this page is for the machine that the gateway runs on"
        return None

    async def _data(self, scope: Scope, receive: Receive, send: Send, name: str) -> int:
        if name == "feed" and scope["method"] == "GET":
            await _send_events(send, receive, self._events())
            return 200
        reads = scope["method"] == "GET"
        answer = (self._reads if reads else self._writes).get(name)
        if answer is None or scope["method"] not in ("GET", "POST"):
            return await _send_refusal(send, 404, "there is nothing under that name")
        try:
            asked = _query(scope) if reads else await _fields(receive)
            document = await answer(asked)
        except ValueError as exc:
            return await _send_refusal(send, 400, str(exc))
        except LookupError:
            return await _send_refusal(send, 404, "no such entry")
        except LLMCacheError as exc:  # of the store
            return await _send_refusal(send, 503, str(exc))
        await send_json(send, 200, document, _SECURITY)
        return 200

    async def _events(self) -> AsyncIterator[bytes]:
        if self._workers is None:
            return
        for call in self._workers.last()[-_LAST:]:
            yield _event(call)
        async for following in self._workers.follow(_IDLE_SECONDS):
            yield b": still here\n\n" if following is None else _event(following)


def _event(call: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(call).encode() + b"\n\n"


def _query(scope: Scope) -> dict[str, str]:
    query = parse_qs(scope["query_string"].decode("ascii", "replace"))
    return {name: values[-1] for name, values in query.items()}


async def _fields(receive: Receive) -> dict[str, str]:
    body = await read_body(receive, _MOST_BODY)
    fields = json.loads(body.start) if body.is_whole else None
    if not isinstance(fields, dict) or not all(isinstance(text, str) for text in fields.values()):
        raise ValueError("send a JSON object of strings")
    return fields


async def _send_events(send: Send, receive: Receive, events: AsyncIterator[bytes]) -> None:
    headers = [(b"content-type", b"text/event-stream"), *_SECURITY]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def pass_on() -> None:
        async for event in events:
            await send({"type": "http.response.body", "body": event, "more_body": True})

    tasks = [asyncio.ensure_future(pass_on()), asyncio.ensure_future(until_gone(receive))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    await send({"type": "http.response.body", "body": b""})


async def _send_refusal(send: Send, status: int, text: str) -> int:
    await send_json(send, status, {"error": text}, _SECURITY)
    return status
