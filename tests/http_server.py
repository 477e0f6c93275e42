"""A loopback provider: answers POSTs with what a test sets, in pieces, cut off or held back as it
says, and counts connections."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Asked", "Provider", "Reply", "Row", "provider", "reply_of", "rows"]

Row = dict[str, Any]


class Asked(NamedTuple):
    """A request as it reached the server."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Reply(NamedTuple):
    """An answer. *piece*: bytes per chunk (None: all at once, with a length); *cut*: hang up after
    so many bytes; *until_close*: the end of the connection is the end of the body, so that a cut
    looks clean; *gate* is asked before each piece with its number."""

    body: bytes
    kind: str | None = "application/json"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    piece: int | None = None
    cut: int | None = None
    gate: Callable[[int], object] | None = None
    until_close: bool = False


class Provider:
    """The server. *answer* makes the reply to a request; *asked* are the requests so far;
    *connections* those open now."""

    def __init__(self) -> None:  # noqa: C901  # a handler of five small methods
        self.answer: Callable[[Asked], Reply] = lambda asked: Reply(b'{"text": "unset"}')
        self.asked: list[Asked] = []
        self.connections = 0
        self._changed = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                outer._count(1)

            def finish(self) -> None:
                try:
                    super().finish()
                except OSError:
                    pass
                finally:
                    outer._count(-1)

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers.get("content-length") or 0)))

            def _answer(self, body: bytes | None) -> None:
                try:
                    parsed = json.loads(body) if body else None
                except ValueError:
                    parsed = body
                asked = Asked(
                    self.command,
                    self.path,
                    {name.lower(): value for name, value in self.headers.items()},
                    parsed,
                )
                outer.asked.append(asked)
                self._send(outer.answer(asked))

            def _send(self, reply: Reply) -> None:
                self.send_response(reply.status)
                if reply.kind is not None:
                    self.send_header("content-type", reply.kind)
                for name, value in reply.headers:
                    self.send_header(name, value)
                if reply.until_close:
                    self.send_header("connection", "close")
                elif reply.piece is None:
                    self.send_header("content-length", str(len(reply.body)))
                else:
                    self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                body = reply.body if reply.cut is None else reply.body[: reply.cut]
                step = reply.piece or max(1, len(body))
                for number, start in enumerate(range(0, len(body), step)):
                    if reply.gate is not None:
                        reply.gate(number)
                    data = body[start : start + step]
                    self.wfile.write(
                        data if reply.piece is None else b"%x\r\n%b\r\n" % (len(data), data)
                    )
                if reply.cut is not None or reply.until_close:
                    self.close_connection = True
                elif reply.piece is not None:
                    self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *args: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()

    @property
    def calls(self) -> int:
        return len(self.asked)

    def gives(self, reply: Reply) -> None:
        self.answer = lambda asked: reply

    def wait_for_connections(self, most: int, seconds: float = 10.0) -> bool:
        """Whether the open connections came down to *most* in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self.connections <= most, seconds)

    def _count(self, change: int) -> None:
        with self._changed:
            self.connections += change
            self._changed.notify_all()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def provider() -> Iterator[Provider]:
    server = Provider()
    try:
        yield server
    finally:
        server.close()


def rows(shared_data: Path) -> list[Row]:
    """Every recorded exchange."""
    return [
        json.loads(line)
        for line in (shared_data / "real_interactions.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]


_KINDS = ("text/event-stream", "application/x-ndjson", "application/json")


def reply_of(row: Row, **changes: Any) -> Reply:
    """The recorded answer; where its Content-Type was lost, the one that its body shows."""
    response = row["response"]
    body = (
        base64.b64decode(response["body_b64"])
        if "body_b64" in response
        else response["body"].encode()
    )
    kind = {name.lower(): value for name, value in response["headers"].items()}.get(
        "content-type", ""
    )
    if "/" not in kind:
        if "body_b64" in response:
            kind = "application/vnd.amazon.eventstream"
        else:
            kind = (
                _KINDS[0]
                if body.startswith((b"data:", b"event:", b":"))
                else _KINDS[1]
                if b"}\n{" in body
                else _KINDS[2]
            )
    return Reply(body, kind, response["status"])._replace(**changes)
