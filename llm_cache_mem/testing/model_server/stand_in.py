"""A stand-in for a model: a deterministic server on loopback with the OpenAI and Anthropic APIs,
streaming included.

Run it as a child process, like smollm: its first line on stdout is ``{"url": ...}``, and it serves
until stdin closes.
"""

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, cast

__all__ = ["MODEL", "StandInServer", "main"]

MODEL = "stand-in"
_SHORTEST_TEXT = 400  # characters: less is a question alone
_COMMON = (
    "what|which|when|where|that|this|with|from|have|does|they|them|there|their|into|than|then|your"
)
_WORD = re.compile(rf"\b(?!(?:{_COMMON})\b)[a-z_]{{4,}}")
_WORDS = (
    "tea",
    "leaf",
    "cup",
    "steam",
    "water",
    "kettle",
    "morning",
    "honey",
    "lemon",
    "mint",
    "amber",
    "quiet",
    "garden",
    "warm",
    "bright",
)


class _Answer(NamedTuple):
    words: list[str]
    finished: bool
    input_tokens: int
    id: str


def _answer(body: dict[str, Any]) -> _Answer:
    """Return a few words that depend on nothing but the request, or a sentence quoted from it. A
    word counts as a token."""
    text = json.dumps(
        [body.get("system"), body["messages"], body.get("temperature")], sort_keys=True
    )
    seed = hashlib.sha256(text.encode()).digest()
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 64
    last = body["messages"][-1].get("content")
    quoted = _quote(last) if isinstance(last, str) else None
    if quoted is not None:
        words = quoted.split()
    else:
        wanted = 400 if "detail" in text else 5 + seed[0] % 12
        words = [_WORDS[seed[place % 32] % len(_WORDS)] for place in range(wanted)]
    return _Answer(words[:limit], len(words) <= limit, len(text.split()), seed.hex()[:24])


def _quote(prompt: str) -> str | None:
    """The sentence of the text in *prompt* that is nearest to its question, as retrieval demos ask
    for; None without a text or a question."""
    questions = re.findall(r"[^.?!:\n]*\?", prompt)
    parts = re.split(r"^-{5,}$", prompt, flags=re.MULTILINE)  # how frameworks delimit it
    if not questions or (len(parts) == 1 and len(prompt) < _SHORTEST_TEXT):
        return None
    wanted = _stems(questions[-1])
    text = parts[1] if len(parts) > 2 else prompt
    return max(_sentences(text), default=None, key=lambda sentence: _likeness(wanted, sentence))


def _sentences(text: str) -> list[str]:
    """The sentences of Markdown prose, without code, headings, tables and markup."""
    prose = re.sub(r"^```[\s\S]*?^```$|^[#|].*$|[*`\[]|\]\([^)]*\)", "", text, flags=re.MULTILINE)
    found = (
        one
        for block in re.split(r"\n\s*\n|\n\s*- ", prose)
        for one in re.split(r"(?<=[.!?;])\s", block)
    )
    return [" ".join(one.split()) for one in found if len(one.split()) > 4]


def _stems(text: str) -> set[str]:
    return {word[:5] for word in _WORD.findall(text.lower())}


def _likeness(wanted: set[str], sentence: str) -> float:
    found = _stems(sentence)
    return len(wanted & found) - (
        0.02 * len(found) if wanted & found else 0
    )  # the first sentence, if none shares a word with the question


def _pieces(words: list[str]) -> Iterator[str]:
    return (word if place == 0 else f" {word}" for place, word in enumerate(words))


def _openai(body: dict[str, Any], answer: _Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": " ".join(answer.words), "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "stop" if answer.finished else "length",
        "logprobs": None,
    }
    return {
        **_openai_head(body, answer, "chat.completion"),
        "choices": [choice],
        "usage": _openai_usage(answer),
    }


def _openai_head(body: dict[str, Any], answer: _Answer, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": kind,
        "created": 1_800_000_000,
        "model": body["model"],
    }


def _openai_usage(answer: _Answer) -> dict[str, int]:
    sent, written = answer.input_tokens, len(answer.words)
    return {"prompt_tokens": sent, "completion_tokens": written, "total_tokens": sent + written}


def _openai_stream(body: dict[str, Any], answer: _Answer) -> Iterator[str]:
    head = _openai_head(body, answer, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], reason: str | None = None) -> str:
        return _event(
            None, {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        )

    yield chunk({"role": "assistant", "content": ""})
    for piece in _pieces(answer.words):
        yield chunk({"content": piece})
    yield chunk({}, "stop" if answer.finished else "length")
    if (body.get("stream_options") or {}).get("include_usage"):
        yield _event(None, {**head, "choices": [], "usage": _openai_usage(answer)})
    yield "data: [DONE]\n\n"


def _anthropic(body: dict[str, Any], answer: _Answer) -> dict[str, Any]:
    text = {"type": "text", "text": " ".join(answer.words)}
    usage = {"input_tokens": answer.input_tokens, "output_tokens": len(answer.words)}
    return {
        **_anthropic_head(body, answer),
        "content": [text],
        "stop_reason": _stop_reason(answer),
        "usage": usage,
    }


def _anthropic_head(body: dict[str, Any], answer: _Answer) -> dict[str, Any]:
    head = {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
    }
    return {**head, "content": [], "stop_reason": None, "stop_sequence": None}


def _stop_reason(answer: _Answer) -> str:
    return "end_turn" if answer.finished else "max_tokens"


def _anthropic_stream(body: dict[str, Any], answer: _Answer) -> Iterator[str]:
    def event(kind: str, **fields: Any) -> str:
        return _event(kind, {"type": kind, **fields})

    usage = {"input_tokens": answer.input_tokens, "output_tokens": 1}
    yield event("message_start", message={**_anthropic_head(body, answer), "usage": usage})
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for piece in _pieces(answer.words):
        yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
    yield event("content_block_stop", index=0)
    end = {"stop_reason": _stop_reason(answer), "stop_sequence": None}
    yield event("message_delta", delta=end, usage={"output_tokens": len(answer.words)})
    yield event("message_stop")


def _event(name: str | None, data: dict[str, Any]) -> str:
    return f"{f'event: {name}' + chr(10) if name else ''}data: {json.dumps(data)}\n\n"


_FORMATS = {
    "/v1/chat/completions": (_openai, _openai_stream),
    "/v1/messages": (_anthropic, _anthropic_stream),
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        formats = _FORMATS.get(self.path.partition("?")[0])
        if formats is None:
            self._send(
                "application/json",
                json.dumps({"error": {"message": "no such endpoint"}}),
                status=404,
            )
            return
        server = cast("StandInServer", self.server)  # the only server with this handler
        time.sleep(server.delay)
        server.count()
        whole, streamed = formats
        if body.get("stream"):
            self._send("text/event-stream", "".join(streamed(body, _answer(body))))
        else:
            self._send("application/json", json.dumps(whole(body, _answer(body))))

    def _send(self, kind: str, text: str, status: int = 200) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass  # requests are not logged


class StandInServer(ThreadingHTTPServer):
    """Serves on a free loopback port and waits *delay* seconds before each answer; *calls* counts
    the answers."""

    daemon_threads = True

    def __init__(self, delay: float = 0.05) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.delay = delay
        self.calls = 0
        self._lock = threading.Lock()

    def count(self) -> None:
        with self._lock:
            self.calls += 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def main() -> int:
    with StandInServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(json.dumps({"url": server.url}), flush=True)  # noqa: T201  # the protocol
        sys.stdin.read()
        server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
