"""Readers of OpenAI's protocols: completions, which many others share, and Responses."""

from typing import Any

from llm_cache_mem.responses.fields import field, has, listed, word
from llm_cache_mem.responses.reading import (
    Reading,
    block_says,
    index_of,
    is_text,
    read_content,
    says,
)

__all__ = ["chat", "is_error", "read_message", "responses"]


def chat(reading: Reading, piece: Any) -> bool:
    """Chat and text completions of OpenAI and the many that speak like it."""
    choices = field(piece, "choices")
    if not isinstance(choices, list):
        return False
    # Azure begins a stream with a chunk that names nothing and has no choices
    ours = isinstance(field(piece, "object"), str) and isinstance(field(piece, "model"), str)
    reading.known = reading.known or ours
    for choice in choices:
        message, text = field(choice, "message", "delta"), field(choice, "text")
        if message is None and not isinstance(text, str) and not has(choice, "finish_reason"):
            continue  # not a choice of a completion
        ours = True
        part, why = (
            index_of(choice),
            field(choice, "finish_reason") or field(field(choice, "finish_details"), "type"),
        )
        reading.begin(part)
        reading.note(says=is_text(text))
        read_message(reading, message, part)
        if is_error(choice):
            reading.stop("error")
        if why is not None:
            reading.end(why, part)
        elif field(choice, "message") is not None:
            reading.end_whole(choice, "finish_reason", part=part)
    return ours


def responses(reading: Reading, piece: Any) -> bool:
    """OpenAI's Responses, whole and as events."""
    kind = word(field(piece, "type"))
    if word(field(piece, "object")) == "response":
        _read_response(reading, piece)
    elif kind.startswith("response."):
        reading.begin()
        if kind in {"response.completed", "response.incomplete", "response.failed"}:
            _read_response(reading, field(piece, "response"))
        elif kind == "response.output_item.done":
            _read_output(reading, [field(piece, "item")])
        elif kind.startswith("response.refusal."):
            reading.stop("refusal")
    else:
        return False
    return True


def _read_response(reading: Reading, response: Any) -> None:
    status = word(field(response, "status"))
    reading.begin()
    if field(response, "error") is not None:
        reading.stop("error")
    reading.stop(field(field(response, "incomplete_details"), "reason"))
    if status not in {"in_progress", "queued"}:
        reading.end(status)
    _read_output(reading, listed(field(response, "output")))


def _read_output(reading: Reading, items: list[Any]) -> None:
    for item in items:
        kind = word(field(item, "type"))
        if kind == "message":
            read_content(reading, field(item, "content"))
            continue
        reading.note(says=block_says(item))
        if kind == "function_call":
            reading.arguments.add(0, 0, field(item, "arguments"))


def read_message(reading: Reading, message: Any, choice: int = 0) -> None:
    """The message of a *choice*, or the change to one that a chunk brings, in OpenAI's form, which
    most others share."""
    if message is None:
        return
    acts = any(
        isinstance(field(message, name), list | dict) and field(message, name)
        for name in ("tool_calls", "images")
    )
    acts = acts or any(
        has(field(message, name), inner)
        for name, inner in (("function_call", "name"), ("audio", "id"))
    )
    blocks = field(message, "blocks")  # LlamaIndex, which has only the text of them as content
    reading.note(says=acts or says(blocks))
    read_content(reading, field(message, "content"))
    _read_calls(reading, message, choice)
    if is_text(field(message, "refusal")) or is_text(
        field(field(message, "additional_kwargs"), "refusal")
    ):
        reading.stop("refusal")


def _read_calls(reading: Reading, message: Any, choice: int) -> None:
    """The arguments of the tool calls in *message*."""
    for place, call in enumerate(listed(field(message, "tool_calls"))):
        index = field(call, "index")
        arguments = field(field(call, "function"), "arguments")
        reading.arguments.add(choice, place if index is None else index, arguments)
    reading.arguments.add(choice, -1, field(field(message, "function_call"), "arguments"))
    if word(field(message, "type")) != "aimessagechunk":
        if listed(field(message, "invalid_tool_calls")):
            reading.stop("malformed")
        return
    # of a chunk of LangChain's, invalid_tool_calls are those of which it holds but a piece
    for call in listed(field(message, "tool_call_chunks")):
        reading.arguments.add(choice, field(call, "index"), field(call, "args"))


def is_error(piece: Any) -> bool:
    """Whether *piece* reports an error, in any protocol's form."""
    error = field(piece, "error")
    # Ollama, xAI; beside anything else it may be a field of the application's
    if isinstance(error, str):
        return (
            isinstance(piece, dict)
            and piece.keys() <= {"error", "code", "status", "message"}
            and is_text(error)
        )
    if error is not None and any(
        isinstance(field(error, name), str | int) for name in ("message", "type", "code")
    ):
        return True
    kinds = (field(piece, "type"), field(piece, "object"))
    return any(isinstance(kind, str) and kind == "error" for kind in kinds) and has(
        piece, "message"
    )
