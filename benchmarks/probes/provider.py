"""A provider of chat completions on loopback: it counts its calls and answers as a probe tells it
to."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

__all__ = ["HOLD_SECONDS", "NOT_SENT", "Provider", "ProviderError", "Reply", "complete", "stream"]

HOLD_SECONDS = 20.0
NOT_SENT = ("base_url", "api_key", "timeout")  # arguments of a client, not of a request's body


class Reply(NamedTuple):
    """What the provider says: *texts*, one for each choice, or a *status* that is an error; *cut*
    breaks a stream off in its middle."""

    texts: tuple[str, ...]
    finish: str = "stop"
    refusal: str | None = None
    status: int = 200
    cut: bool = False
    hold: threading.Event | None = None


class ProviderError(RuntimeError):
    """The provider answered with an error, or a stream of its broke off."""


class Provider:
    """A server of its own port. ``calls`` is how many requests arrived; *script* makes the reply to
    the n-th, by default ``answer n``."""

    def __init__(
        self, name: str = "answer", script: Callable[[int, dict[str, Any]], Reply] | None = None
    ) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.arrived = threading.Condition()
        self.script = script or (
            lambda number, body: Reply(
                tuple(f"{name} {number}" for _ in range(int(body.get("n") or 1)))
            )
        )
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                provider._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a caller that was cancelled, or killed, left

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    @property
    def calls(self) -> int:
        with self.arrived:
            return len(self.bodies)

    def wait_for(self, calls: int, seconds: float) -> bool:
        """Wait until *calls* requests have arrived; whether they did within *seconds*."""
        with self.arrived:
            return self.arrived.wait_for(lambda: len(self.bodies) >= calls, seconds)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.arrived:
            self.bodies.append(body)
            number = len(self.bodies)
            self.arrived.notify_all()
        reply = self.script(number, body)
        if reply.hold is not None:
            reply.hold.wait(HOLD_SECONDS)
        if body.get("stream") and reply.status == 200:
            _send_stream(handler, reply, body)
        else:
            _send(
                handler,
                reply.status,
                _completion(number, reply, body)
                if reply.status == 200
                else {"error": {"message": "overloaded"}},
            )


def _send(handler: BaseHTTPRequestHandler, status: int, document: dict[str, Any]) -> None:
    data = json.dumps(document).encode()
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def _completion(number: int, reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": reply.refusal},
            "finish_reason": reply.finish,
            "logprobs": None,
        }
        for index, text in enumerate(reply.texts)
    ]
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    model = body.get("model", "gpt-4o-mini")
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": choices,
        "usage": usage,
        "system_fingerprint": None,
    }


def _send_stream(handler: BaseHTTPRequestHandler, reply: Reply, body: dict[str, Any]) -> None:
    handler.close_connection = True
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("connection", "close")
    handler.end_headers()
    words = [word + " " for word in reply.texts[0].split()]
    deltas: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "content": words[0]}, None)
    ]
    deltas += [({"content": word}, None) for word in words[1:]]
    if reply.cut:
        deltas = deltas[: len(deltas) // 2]
    else:
        deltas.append(({}, reply.finish))
    for delta, finish in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": body.get("model", ""),
            "choices": [choice],
        }
        handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
    if not reply.cut:
        handler.wfile.write(b"data: [DONE]\n\n")
    handler.wfile.flush()


def _post(
    base_url: str, api_key: str, body: dict[str, Any]
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    address = urlsplit(base_url)
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=2 * HOLD_SECONDS
    )
    headers = {"content-type": "application/json", "authorization": f"Bearer {api_key}"}
    connection.request(
        "POST", f"{address.path}/chat/completions", json.dumps(body, default=_wire), headers
    )
    response = connection.getresponse()
    if response.status != 200:
        connection.close()
        raise ProviderError(f"status {response.status}")
    return connection, response


def _wire(value: Any) -> Any:
    """What an SDK makes of an object in a request."""
    return (
        value.model_dump(mode="json", exclude_none=True)
        if hasattr(value, "model_dump")
        else value.wire()
    )


def complete(
    *, base_url: str, api_key: str = "sk-probe", timeout: float | None = None, **body: Any
) -> dict[str, Any]:
    """One call, as a program without an SDK makes it: the completion as a dict."""
    body.update(body.pop("extra_body", None) or {})
    connection, response = _post(base_url, api_key, body)
    try:
        return json.loads(response.read())  # type: ignore[no-any-return]
    finally:
        connection.close()


def stream(
    *, base_url: str, api_key: str = "sk-probe", timeout: float | None = None, **body: Any
) -> Iterator[str]:
    """The texts of a streamed call, as they come; ProviderError where the stream breaks off."""
    body.update(body.pop("extra_body", None) or {})
    connection, response = _post(base_url, api_key, {**body, "stream": True})
    try:
        for line in response:
            data = line.decode().removeprefix("data: ").strip()
            if data == "[DONE]":
                return
            if data and (text := json.loads(data)["choices"][0]["delta"].get("content")):
                yield text
        raise ProviderError("the stream broke off")
    finally:
        connection.close()
