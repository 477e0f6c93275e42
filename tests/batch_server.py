"""A loopback provider of batches, which keeps the rules that OpenAI and Anthropic document for
theirs, and moves on when a test says so."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["BatchServer", "Refused", "batch_server", "chat_answer", "message_answer"]

CREATED = 1_800_000_000


class Refused(Exception):
    """A request against the rules: an HTTP status and a code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(status, code)
        self.status, self.code = status, code


def chat_answer(body: Any, finish: str = "stop") -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": CREATED,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": body["messages"][0]["content"].upper()},
                "finish_reason": finish,
            }
        ],
        "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3},
    }


def message_answer(body: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": body["messages"][0]["content"].upper()}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 2, "output_tokens": 1},
    }


class BatchServer:
    """The server. *bought* are the contents of all requests that batches held; *live*, those of
    plain calls. A request whose text is ``bad`` fails, ``late`` expires, and at OpenAI the answers
    to ``cut`` and ``empty`` are that, and that to ``list`` is none.

    *finishes*: whether batches end as soon as they are looked at. *before_create* and *after_create*
    run around the making of a batch; what they raise cuts the connection. *fails*: how many GETs
    are answered with a 500.
    """

    def __init__(self) -> None:
        self.bought: list[str] = []
        self.live: list[str] = []
        self.batches: dict[str, dict[str, Any]] = {}
        self.finishes = True
        self.fails = 0
        self.before_create: Callable[[], object] = bool
        self.after_create: Callable[[], object] = bool
        self._files: dict[str, bytes] = {}
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers.get("content-length") or 0)))

            def _answer(self, body: bytes | None) -> None:
                status, content = 200, b""
                try:
                    with outer._lock:
                        found = outer._route(self.path, body, self.headers.get("content-type", ""))
                    content = found if isinstance(found, bytes) else json.dumps(found).encode()
                except Refused as exc:
                    error = {"type": exc.code, "code": exc.code, "message": exc.code}
                    status = exc.status
                    content = json.dumps({"type": "error", "error": error}).encode()
                except ConnectionError:  # the test's: hang up
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def finish(self) -> None:
        """End all batches."""
        for batch in self.batches.values():
            self._end(batch)

    # -- Routes

    def _route(self, path: str, body: bytes | None, kind: str) -> Any:
        if body is None and self.fails:
            self.fails -= 1
            raise Refused(500, "internal")
        parts = urlsplit(path)
        names = parts.path.strip("/").split("/")
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if names[:3] == ["v1", "messages", "batches"]:
            return self._anthropic(names[3:], body, query)
        if names == ["v1", "messages"]:
            return self._live(body, message_answer)
        if names == ["chat", "completions"]:
            return self._live(body, chat_answer)
        if names == ["files"]:
            return self._upload(body or b"", kind)
        if names[0] == "files" and names[2:] == ["content"]:
            return self._files[names[1]]
        if names[0] == "batches":
            return self._openai(names[1:], body, query)
        raise Refused(404, "not_found")

    def _live(self, body: bytes | None, answer: Callable[[Any], Any]) -> Any:
        request = json.loads(body or b"")
        self.live.append(request["messages"][0]["content"])
        return answer(request)

    def _upload(self, body: bytes, kind: str) -> Any:
        message = BytesParser(policy=HTTP).parsebytes(
            b"content-type: " + kind.encode() + b"\n\n" + body
        )
        fields = {
            part.get_param("name", header="content-disposition"): part
            for part in message.iter_parts()
        }  # type: ignore[attr-defined]
        if fields["purpose"].get_content().strip() != "batch":
            raise Refused(400, "invalid_purpose")
        data = fields["file"].get_payload(decode=True)
        name = f"file-{len(self._files)}"
        self._files[name] = data
        return {
            "id": name,
            "object": "file",
            "bytes": len(data),
            "created_at": CREATED,
            "filename": "requests.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    # -- OpenAI

    def _openai(self, names: list[str], body: bytes | None, query: dict[str, str]) -> Any:
        if body is not None:
            return self._openai_create(json.loads(body))
        if names:
            if names[0] not in self.batches:
                raise Refused(404, "not_found")
            batch = self.batches[names[0]]
            if self.finishes:
                self._end(batch)
            return batch["shown"]
        return self._page(query, "after")

    def _openai_create(self, asked: Any) -> Any:
        if asked["completion_window"] != "24h" or asked["endpoint"] != "/v1/chat/completions":
            raise Refused(400, "invalid_request")
        metadata = asked.get("metadata") or {}
        if len(metadata) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in metadata.items()):
            raise Refused(400, "invalid_metadata")
        rows = [json.loads(line) for line in self._files[asked["input_file_id"]].splitlines()]
        self.before_create()
        batch = self._new("batch", rows, [row["body"] for row in rows])
        batch["shown"] = {
            "id": batch["id"],
            "object": "batch",
            "endpoint": asked["endpoint"],
            "input_file_id": asked["input_file_id"],
            "completion_window": "24h",
            "status": "in_progress",
            "created_at": CREATED,
            "metadata": metadata,
        }
        batch["end"] = self._openai_end
        code = self._openai_fault(rows)
        if code:  # found when it is validated: nothing is bought
            batch["shown"] |= {
                "status": "failed",
                "errors": {"object": "list", "data": [{"code": code, "message": code}]},
            }
            batch["ended"] = True
            return batch["shown"]
        self.bought += [row["body"]["messages"][0]["content"] for row in rows]
        self.after_create()
        return batch["shown"]

    @staticmethod
    def _openai_fault(rows: list[Any]) -> str | None:
        if len({row["custom_id"] for row in rows}) < len(rows):
            return "duplicate_custom_id"
        if len(rows) > 50_000:
            return "too_many_tasks"
        if len({row["body"]["model"] for row in rows}) > 1:
            return "mismatched_model"
        if any(row["method"] != "POST" or row["url"] != "/v1/chat/completions" for row in rows):
            return "invalid_url"
        return None

    def _openai_end(self, batch: dict[str, Any]) -> None:
        done, failed = [], []
        for row in reversed(batch["rows"]):
            text = row["body"]["messages"][0]["content"]
            result: dict[str, Any] = {"id": "r", "custom_id": row["custom_id"], "error": None}
            if text == "late":
                result |= {"response": None, "error": {"code": "batch_expired", "message": "-"}}
            elif text == "bad":
                error = {"error": {"code": "context_length_exceeded", "message": "bad"}}
                result |= {"response": {"status_code": 400, "request_id": "q", "body": error}}
            else:
                answer = chat_answer(row["body"], "length" if text == "cut" else "stop")
                answer = {"empty": {}, "list": ["-"]}.get(text, answer)
                result |= {"response": {"status_code": 200, "request_id": "q", "body": answer}}
            (failed if text in ("bad", "late") else done).append(result)
        batch["shown"]["status"] = "expired" if "late" in json.dumps(batch["rows"]) else "completed"
        for name, results in (("output_file_id", done), ("error_file_id", failed)):
            if results:
                file = f"{name}-{batch['id']}"
                self._files[file] = b"".join(json.dumps(one).encode() + b"\n" for one in results)
                batch["shown"][name] = file

    # -- Anthropic

    def _anthropic(self, names: list[str], body: bytes | None, query: dict[str, str]) -> Any:
        if body is not None:
            return self._anthropic_create(json.loads(body)["requests"])
        if not names:
            return self._page(query, "after_id")
        batch = self.batches[names[0]]
        if self.finishes:
            self._end(batch)
        if names[1:] == ["results"]:
            if not batch["ended"]:
                raise Refused(404, "not_found_error")
            return batch["results"]
        return batch["shown"]

    def _anthropic_create(self, rows: list[Any]) -> Any:
        ids = [row["custom_id"] for row in rows]
        wrong = [one for one in ids if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", one)]
        if wrong or len(set(ids)) < len(ids) or not 0 < len(ids) <= 100_000:
            raise Refused(400, "invalid_request_error")
        if any("max_tokens" not in row["params"] or row["params"].get("stream") for row in rows):
            raise Refused(400, "invalid_request_error")
        self.before_create()
        batch = self._new("msgbatch", rows, [row["params"] for row in rows])
        batch["shown"] = {
            "id": batch["id"],
            "type": "message_batch",
            "processing_status": "in_progress",
            "created_at": "2027-01-15T08:00:00Z",
            "expires_at": "2027-01-16T08:00:00Z",
            "request_counts": _counts(processing=len(rows)),
            "results_url": None,
        }
        batch["end"] = self._anthropic_end
        self.bought += [row["params"]["messages"][0]["content"] for row in rows]
        self.after_create()
        return batch["shown"]

    def _anthropic_end(self, batch: dict[str, Any]) -> None:
        lines, kinds = [], {"bad": "errored", "late": "expired"}
        counts = dict.fromkeys(("succeeded", "errored", "expired"), 0)
        for row in reversed(batch["rows"]):
            kind = kinds.get(row["params"]["messages"][0]["content"], "succeeded")
            counts[kind] += 1
            result: dict[str, Any] = {"type": kind}
            if kind == "succeeded":
                result["message"] = message_answer(row["params"])
            elif kind == "errored":
                error = {"type": "invalid_request_error", "message": "bad"}
                result["error"] = {"type": "error", "error": error, "request_id": "q"}
            lines.append(json.dumps({"custom_id": row["custom_id"], "result": result}))
        batch["results"] = "\n".join(lines).encode() + b"\n"
        batch["shown"] |= {
            "processing_status": "ended",
            "ended_at": "2027-01-15T09:00:00Z",
            "request_counts": _counts(**counts),
            "results_url": f"{self.url}/v1/messages/batches/{batch['id']}/results",
        }

    # -- Both

    def _new(self, prefix: str, rows: list[Any], bodies: list[Any]) -> dict[str, Any]:
        batch = {"id": f"{prefix}_{len(self.batches)}", "rows": rows, "ended": False}
        self.batches[str(batch["id"])] = batch
        return batch

    def _end(self, batch: dict[str, Any]) -> None:
        if not batch["ended"]:
            batch["ended"] = True
            batch["end"](batch)

    def _page(self, query: dict[str, str], after: str) -> Any:
        """Two at a time, the newest first."""
        ids = list(reversed(self.batches))
        start = ids.index(query[after]) + 1 if after in query else 0
        page = ids[start : start + 2]
        return {
            "object": "list",
            "data": [self.batches[name]["shown"] for name in page],
            "has_more": start + 2 < len(ids),
            "first_id": page[0] if page else None,
            "last_id": page[-1] if page else None,
        }


def _counts(**counts: int) -> dict[str, int]:
    names = ("processing", "succeeded", "errored", "canceled", "expired")
    return {name: counts.get(name, 0) for name in names}


@contextmanager
def batch_server() -> Iterator[BatchServer]:
    server = BatchServer()
    try:
        yield server
    finally:
        server.close()
