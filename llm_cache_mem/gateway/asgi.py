"""The few parts of ASGI that the gateway needs: start and end, read a body, send an answer, notice
that the client has gone."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

__all__ = [
    "Body",
    "ClientGone",
    "Receive",
    "Scope",
    "Send",
    "answer_lifespan",
    "read_body",
    "send_json",
    "send_whole",
    "until_gone",
]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientGone(Exception):
    """The client closed its connection before its request had arrived."""


class Body:
    """The body of a request: its *start*, and the rest if it is longer than what was read."""

    def __init__(self, start: bytes, rest: AsyncIterator[bytes] | None) -> None:
        self.start = start
        self._rest = rest
        self._arrived = None if rest is None else asyncio.Event()

    @property
    def is_whole(self) -> bool:
        """Whether *start* is all of it."""
        return self._rest is None

    async def arrived(self) -> None:
        """Wait until all of it has been read."""
        if self._arrived is not None:
            await self._arrived.wait()

    async def stream(self) -> AsyncIterator[bytes]:
        """All of it, piece by piece. ClientGone if the client leaves before its end."""
        if self.start:
            yield self.start
        if self._rest is not None:
            async for piece in self._rest:
                yield piece
        if self._arrived is not None:
            self._arrived.set()


async def _pieces(receive: Receive, message: MutableMapping[str, Any]) -> AsyncIterator[bytes]:
    """The pieces of a body, of which *message* brings the first."""
    while message["type"] != "http.disconnect":
        if piece := message.get("body", b""):
            yield piece
        if not message.get("more_body", False):
            return
        message = await receive()
    raise ClientGone


async def read_body(receive: Receive, limit: int) -> Body:
    """The body of a request: whole if it has at most *limit* bytes or came in one piece, else as a
    stream.

    Raises ClientGone if the client leaves before its end.
    """
    first = await receive()
    if first["type"] == "http.request" and not first.get("more_body", False):
        return Body(first.get("body", b""), None)  # most requests
    pieces, parts, size = _pieces(receive, first), [], 0
    async for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size > limit:
            return Body(b"".join(parts), pieces)
    return Body(b"".join(parts), None)


async def until_gone(receive: Receive) -> None:
    """Return when the client has closed its connection; for a request whose body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_whole(
    send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes
) -> None:
    """Send an answer that is all there."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def send_json(
    send: Send, status: int, document: Any, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send *document* as JSON, not to be kept by anything on its way."""
    body = json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    fields = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send_whole(send, status, fields, body)


async def answer_lifespan(
    receive: Receive,
    send: Send,
    close: Callable[[], Awaitable[object]],
    start: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Answer a server's messages about its start and end."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            if start is not None:
                await start()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await close()
            await send({"type": "lifespan.shutdown.complete"})
            return
