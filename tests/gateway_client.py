"""A client of the gateway, and the answers of the provider behind it."""

import json
from typing import Any

import httpx
from http_server import Reply

__all__ = ["ANSWER", "ASK", "CHAT", "REPLY", "STREAM", "STREAMED", "mark", "post"]

CHAT = "/openai/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
REPLY = Reply(json.dumps(ANSWER).encode())


def event(text: str, why: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": why}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**chunk, "choices": [choice]}).encode() + b"\n\n"


STREAM = b"".join(event(str(n)) for n in range(5)) + event("5", "stop") + b"data: [DONE]\n\n"
STREAMED = Reply(STREAM, "text/event-stream", piece=len(event("0")))


def post(url: str, body: Any = ASK, token: str = "k", **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(
        url, json=body, timeout=60, headers={"authorization": f"Bearer {token}", **sent}
    )


def mark(response: httpx.Response) -> str | None:
    return response.headers.get("x-llm-cache-mem")
