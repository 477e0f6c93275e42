"""A loopback provider with a prompt cache by the documented rules of Anthropic and OpenAI, on a
clock of the test's; a token is a word.

Anthropic: at most four breakpoints; each prefix that ends at one and is long enough is written,
with its lifetime; a read looks for what was written up to 20 blocks before a breakpoint, longest
first, and prolongs it. OpenAI: from gpt-5.6 on at breakpoints and at the end of the last message,
reported; before in steps of 128 tokens, from 1,024 on.
"""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Block = tuple[str, int, dict[str, Any] | None]  # content without marker, tokens, marker

SYSTEM = " ".join(f"rule{number}" for number in range(2000))
CLAUDE, GPT, OLDER_GPT = "claude-sonnet-5", "gpt-5.6", "gpt-4o"
PRICES = {
    CLAUDE: (3.0, 15.0, 0.30, 3.75, 6.0),
    GPT: (2.0, 8.0, 0.20, 2.50),
    OLDER_GPT: (2.5, 10.0, 1.25),
}
LIFETIMES = {"5m": 300.0, "1h": 3600.0}


class BadRequest(Exception):
    pass


def tokens(value: Any) -> int:
    return len(json.dumps(value).split()) if not isinstance(value, str) else len(value.split())


def block_of(value: Any, marker_name: str) -> Block:
    marker = value.get(marker_name) if isinstance(value, dict) else None
    bare = (
        {key: item for key, item in value.items() if key != marker_name}
        if isinstance(value, dict)
        else value
    )
    text = bare.get("text") if isinstance(bare, dict) else None
    return json.dumps(bare), tokens(text if isinstance(text, str) else bare), marker


def blocks_of(content: Any, marker_name: str, kind: str = "text") -> list[Block]:
    content = [{"type": kind, "text": content}] if isinstance(content, str) else content
    return [block_of(block, marker_name) for block in content or []]


class PromptCacheServer:
    """Answers in threads until closed. ``requests``: bodies, in order. ``fail``: statuses to answer
    next, instead of an answer."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        minimum: int = 1024,
        caching: bool = True,
        refuse_zero: bool = False,
    ) -> None:
        self.clock, self.minimum, self.caching, self.refuse_zero = (
            clock,
            minimum,
            caching,
            refuse_zero,
        )
        self.written: dict[
            tuple[str, ...], tuple[float, float]
        ] = {}  # prefix: expires at, lifetime
        self.requests: list[dict[str, Any]] = []
        self.fail: list[int] = []
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    # -- The cache itself

    def _live(self, prefix: tuple[str, ...], now: float) -> bool:
        return prefix in self.written and now < self.written[prefix][0]

    def _touch(self, prefix: tuple[str, ...], now: float, lifetime: float) -> None:
        self.written[prefix] = (now + lifetime, lifetime)

    def explicit(
        self,
        blocks: list[Block],
        lifetime_of: Callable[[dict[str, Any]], float],
        lookback: int = 20,
    ) -> tuple[int, int, int]:
        """Tokens read, written, and written for an hour, for *blocks* with their markers."""
        now = self.clock()
        marked = [i for i, (_, _, marker) in enumerate(blocks) if marker]
        if len(marked) > 4:
            raise BadRequest("A maximum of 4 blocks with cache_control may be provided.")
        texts = tuple(text for text, _, _ in blocks)
        upto = [0]
        for _, count, _ in blocks:
            upto.append(upto[-1] + count)
        read = 0
        for end in reversed(marked):
            candidates = range(end + 1, max(0, end + 1 - lookback), -1)
            found = next((n for n in candidates if self._live(texts[:n], now)), 0)
            if found:
                read = found
                self._touch(texts[:found], now, self.written[texts[:found]][1])
                break
        written = hour = 0
        position = read
        for end in marked:
            lifetime = lifetime_of(blocks[end][2] or {})
            if end + 1 > read and upto[end + 1] >= self.minimum:
                self._touch(texts[: end + 1], now, lifetime)
                written += upto[end + 1] - upto[position]
                hour += (upto[end + 1] - upto[position]) if lifetime == 3600.0 else 0
                position = end + 1
        return upto[read], written, hour

    def automatic(self, blocks: list[Block]) -> int:
        """Tokens read in steps of 128, for a model that writes by itself and says nothing of it."""
        now = self.clock()
        words = " ".join(text for text, _, _ in blocks).split()
        steps = range(len(words) // 128 * 128, 1023, -128)
        read = next((n for n in steps if self._live((" ".join(words[:n]),), now)), 0)
        for n in steps:
            self._touch((" ".join(words[:n]),), now, 300.0)
        return read

    # -- The three APIs

    def messages(self, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        if body["max_tokens"] == 0 and (
            body.get("stream") or body.get("thinking") or self.refuse_zero
        ):
            raise BadRequest("max_tokens: 0 is not allowed here")
        if body["max_tokens"] <= (body.get("thinking") or {}).get("budget_tokens", -1):
            raise BadRequest("`max_tokens` must be greater than `thinking.budget_tokens`")
        blocks = [block_of(tool, "cache_control") for tool in body.get("tools", [])]
        blocks += blocks_of(body.get("system"), "cache_control")
        for message in body["messages"]:
            blocks += [
                (message["role"] + text, n, marker)
                for text, n, marker in blocks_of(message["content"], "cache_control")
            ]
        if body.get("cache_control"):  # automatic caching: the last block
            text, count, _ = blocks[-1]
            blocks[-1] = (text, count, body["cache_control"])
        order = [(marker.get("ttl") or "5m") for _, _, marker in blocks if marker]
        if "5m" in order and "1h" in order[order.index("5m") :]:
            raise BadRequest(
                "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block"
            )
        blocks = [(body["model"] + text, n, marker) for text, n, marker in blocks]
        read, written, hour = (
            self.explicit(blocks, lambda m: LIFETIMES[m.get("ttl") or "5m"])
            if self.caching
            else (0, 0, 0)
        )
        whole, output = sum(n for _, n, _ in blocks), min(body["max_tokens"], 7)
        creation = {"ephemeral_5m_input_tokens": written - hour, "ephemeral_1h_input_tokens": hour}
        usage = {
            "input_tokens": whole - read - written,
            "output_tokens": output,
            "cache_read_input_tokens": read,
        }
        usage |= {"cache_creation_input_tokens": written, "cache_creation": creation}
        text = [{"type": "text", "text": "word " * output}] if output else []
        stop = "max_tokens" if body["max_tokens"] < 7 else "end_turn"
        answer = {
            "id": self._id("msg"),
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": text,
        }
        return {**answer, "stop_reason": stop, "stop_sequence": None, "usage": usage}, output

    def _prompt(
        self, body: dict[str, Any], turns: list[dict[str, Any]], kind: str
    ) -> tuple[int, int, int]:
        """Input, read and written tokens of an OpenAI request."""
        name = "prompt_cache_breakpoint"
        blocks = [block_of(tool, name) for tool in body.get("tools", [])]
        for turn in turns:
            blocks += [
                (turn["role"] + text, n, marker)
                for text, n, marker in blocks_of(turn["content"], name, kind)
            ]
        blocks = [(body["model"] + text, n, marker) for text, n, marker in blocks]
        whole = sum(n for _, n, _ in blocks)
        if not self.caching:
            return whole, 0, 0
        if "gpt-5.6" not in body["model"]:
            return whole, self.automatic(blocks), 0
        if (body.get("prompt_cache_options") or {}).get("mode") != "explicit":
            text, count, marker = blocks[-1]
            blocks[-1] = (text, count, marker or {"mode": "implicit"})
        read, written, _ = self.explicit(blocks, lambda marker: 1800.0, lookback=1000)
        return whole, read, written

    def chat(self, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        whole, read, written = self._prompt(body, body["messages"], "text")
        output = min(body.get("max_completion_tokens") or 7, 7)
        details = {"cached_tokens": read} | ({"cache_write_tokens": written} if written else {})
        usage = {
            "prompt_tokens": whole,
            "completion_tokens": output,
            "total_tokens": whole + output,
            "prompt_tokens_details": details,
        }
        message = {"role": "assistant", "content": "word " * output}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {
            "id": self._id("chatcmpl"),
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
        }
        return {**answer, "choices": [choice], "usage": usage}, output

    def responses(self, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        given = body["input"]
        turns = [{"role": "user", "content": given}] if isinstance(given, str) else given
        whole, read, written = self._prompt(body, turns, "input_text")
        output = (
            0
            if (body.get("prompt_cache_options") or {}).get("prewarm")
            else min(body.get("max_output_tokens") or 7, 7)
        )
        details = {"cached_tokens": read, "cache_write_tokens": written}
        usage = {
            "input_tokens": whole,
            "input_tokens_details": details,
            "output_tokens": output,
            "total_tokens": whole + output,
        }
        usage |= {"output_tokens_details": {"reasoning_tokens": 0}}
        part = {"type": "output_text", "text": "word " * output, "annotations": []}
        item = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
        answer = {
            "id": self._id("resp"),
            "object": "response",
            "created_at": 1,
            "model": body["model"],
            "status": "completed",
        }
        answer |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
        return {**answer, "output": [item] if output else [], "usage": usage}, output

    def _id(self, kind: str) -> str:
        return f"{kind}_{len(self.requests)}"

    # -- HTTP

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.requests.append(body)
            if self.fail:
                return self.fail.pop(0), {
                    "type": "error",
                    "error": {"type": "api_error", "message": "as told"},
                }
            apis = {
                "/v1/messages": self.messages,
                "/v1/chat/completions": self.chat,
                "/v1/responses": self.responses,
            }
            try:
                return 200, apis[path](body)[0]
            except BadRequest as exc:
                return 400, {
                    "type": "error",
                    "error": {"type": "invalid_request_error", "message": str(exc)},
                }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, answer = server.answer(self.path, body)
                streams = status == 200 and body.get("stream")
                data = (
                    b"".join(events_of(self.path, answer))
                    if streams
                    else json.dumps(answer).encode()
                )
                self.send_response(status)
                self.send_header(
                    "content-type", "text/event-stream" if streams else "application/json"
                )
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


def events_of(path: str, answer: dict[str, Any]) -> Iterator[bytes]:
    """A whole answer as the events of a stream."""
    if path == "/v1/messages":
        text = "".join(block["text"] for block in answer["content"])
        begun = {
            **answer,
            "content": [],
            "stop_reason": None,
            "usage": {**answer["usage"], "output_tokens": 1},
        }
        yield from (
            _event(event)
            for event in (
                {"type": "message_start", "message": begun},
                {
                    "type": "content_block_start",
                    "index": 0,
                    "content_block": {"type": "text", "text": ""},
                },
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "text_delta", "text": text},
                },
                {"type": "content_block_stop", "index": 0},
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn"},
                    "usage": answer["usage"],
                },
                {"type": "message_stop"},
            )
        )
    elif path == "/v1/responses":
        yield _event(
            {
                "type": "response.created",
                "sequence_number": 0,
                "response": {**answer, "usage": None, "status": "in_progress"},
            }
        )
        yield _event({"type": "response.completed", "sequence_number": 1, "response": answer})
    else:
        head = {key: answer[key] for key in ("id", "created", "model")} | {
            "object": "chat.completion.chunk"
        }
        for word in answer["choices"][0]["message"]["content"].split():
            yield _event(
                {
                    **head,
                    "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}],
                },
                named=False,
            )
        yield _event(
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, named=False
        )
        yield _event({**head, "choices": [], "usage": answer["usage"]}, named=False)
        yield b"data: [DONE]\n\n"


def _event(event: dict[str, Any], *, named: bool = True) -> bytes:
    name = f"event: {event['type']}\n" if named else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()
