"""Readers of the protocols of Anthropic, Gemini, Bedrock, Cohere and Ollama."""

from typing import Any, Final

from llm_cache_mem.responses.fields import field, has, listed, word
from llm_cache_mem.responses.openai import read_message
from llm_cache_mem.responses.reading import (
    Reading,
    block_says,
    index_of,
    is_text,
    read_content,
    says,
)

__all__ = ["cohere", "converse", "gemini", "messages", "ollama"]

_MESSAGES_EVENTS: Final = frozenset(
    {
        "message_start",
        "message_delta",
        "message_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
    }
)
_CONVERSE_EVENTS: Final = frozenset(
    {"messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop"}
)
_COHERE_EVENTS: Final = frozenset(
    {
        "message-start",
        "content-start",
        "content-delta",
        "content-end",
        "tool-plan-delta",
        "tool-call-start",
        "tool-call-delta",
        "tool-call-end",
        "message-end",
        "stream-start",
        "text-generation",
        "tool-calls-generation",
        "stream-end",
    }
)


def messages(reading: Reading, piece: Any) -> bool:
    """Anthropic's Messages, whole and as events."""
    kind = word(field(piece, "type"))
    if kind == "message" and word(field(piece, "role")) == "assistant":
        read_content(reading, field(piece, "content"))
        reading.end_whole(piece, "stop_reason")
        return True
    if kind not in _MESSAGES_EVENTS:
        return False
    reading.begin()
    delta = field(piece, "delta")
    if kind == "content_block_start":
        reading.note(says=block_says(field(piece, "content_block")))
    elif kind == "content_block_delta":
        reading.note(says=is_text(field(delta, "text")))
        reading.arguments.add(0, field(piece, "index"), field(delta, "partial_json"))
    elif kind == "message_delta":
        reading.stop(field(delta, "stop_reason"))
    elif kind == "message_stop":
        reading.end(None)
    return True


def gemini(reading: Reading, piece: Any) -> bool:
    """Gemini's generateContent. A chunk of its stream looks like an answer, so only a reason to
    finish is an end."""
    candidates = [
        c
        for c in listed(field(piece, "candidates"))
        if has(c, "finishReason") or has(c, "finish_reason") or has(c, "content")
    ]
    blocked = word(
        field(field(piece, "promptFeedback", "prompt_feedback"), "blockReason", "block_reason")
    )
    version = field(piece, "modelVersion", "model_version")
    if (
        not candidates
        and not blocked
        and not (isinstance(version, str) and has(piece, "candidates"))
    ):
        return False
    reading.known = True
    if blocked:
        reading.stop("content_filter")
    for candidate in candidates:
        part, why = index_of(candidate), field(candidate, "finishReason", "finish_reason")
        reading.begin(part)
        reading.note(says=says(field(field(candidate, "content"), "parts")))
        if why is not None:
            reading.end(why, part)
    return True


def converse(reading: Reading, piece: Any) -> bool:
    """Bedrock's Converse, whole and as events, which boto3 gives as plain dicts; Nova's own form is
    the same."""
    if not isinstance(piece, dict):
        return False
    message = field(piece.get("output"), "message")
    if message is not None and "stopReason" in piece:
        reading.note(says=says(field(message, "content")))
        reading.end_whole(piece, "stopReason")
        return True
    kind, event = next(iter(piece.items())) if len(piece) == 1 else ("", None)
    if kind in _CONVERSE_EVENTS:
        reading.begin()
        delta = field(event, "delta")
        reading.note(says=has(event, "start") or is_text(field(delta, "text")))
        arguments = field(field(delta, "toolUse"), "input")
        reading.arguments.add(0, field(event, "contentBlockIndex"), arguments)
        if kind == "messageStop":
            reading.end(field(event, "stopReason"))
    elif isinstance(kind, str) and kind.endswith("Exception") and has(event, "message"):
        reading.stop("error")
    else:
        return False
    return True


def cohere(reading: Reading, piece: Any) -> bool:
    """The streams of Cohere's second and first API."""
    kind = word(field(piece, "type", "event_type"))
    if kind not in _COHERE_EVENTS:
        return False
    delta = field(piece, "delta")
    reading.begin()
    reading.note(
        says=kind in {"tool-call-start", "tool-calls-generation"} or is_text(field(piece, "text"))
    )
    call = field(field(delta, "message"), "tool_calls")
    reading.arguments.add(0, field(piece, "index"), field(field(call, "function"), "arguments"))
    if kind.startswith("content-"):
        reading.note(says=block_says(field(field(delta, "message"), "content") or ""))
    if kind in {"message-end", "stream-end"}:
        reading.end(field(piece, "finish_reason") or field(delta, "finish_reason"))
    return True


def ollama(reading: Reading, piece: Any) -> bool:
    """Ollama's chat and generate."""
    done, message, text = field(piece, "done"), field(piece, "message"), field(piece, "response")
    if not isinstance(done, bool) or not isinstance(field(piece, "model"), str):
        return False
    if not has(message, "content") and not isinstance(text, str):
        return False
    reading.begin()
    reading.note(says=is_text(text))
    read_message(reading, message)
    if done:
        reading.end(field(piece, "done_reason"))
    return True
