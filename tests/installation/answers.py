"""Requests and answers of a chat completion, for tests of ``install``."""

import json
from typing import Any

from http_server import Reply

__all__ = ["BODY", "CHAT", "STREAM", "answer", "stream"]

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def answer(text: str = "Paris.", **changes: Any) -> Reply:
    message = {"role": "assistant", "content": text}
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }
    return Reply(json.dumps(body).encode())._replace(**changes)


def stream(*words: str) -> bytes:
    """A stream of *words*, with its usage at the end."""
    events = [_event([{"index": 0, "delta": {"content": word}}]) for word in words]
    events.append(_event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    return b"".join(events) + _event([], usage=usage) + b"data: [DONE]\n\n"


def _event(choices: list[Any], **more: Any) -> bytes:
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"


STREAM = Reply(stream("Par", "is."), "text/event-stream")
