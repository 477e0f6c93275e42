"""A LlamaIndex message as the role/content dict that chat APIs write, which is what keys and key
functions see."""

import json
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from io import IOBase
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock
from llama_index.core.bridge.pydantic import BaseModel

from llm_cache_mem import RequestNotCacheable

__all__ = ["message_to_dict", "messages_to_dicts"]

_MEDIA = {"image": "image", "audio": "audio", "video": "video", "document": "data"}
"""Block types whose content lies in a field of bytes, a file object, or a file."""


def messages_to_dicts(messages: Any) -> list[dict[str, Any]]:
    """Every message as a dict. Raises RequestNotCacheable for anything but a sequence of
    ChatMessage."""
    if isinstance(messages, str) or not isinstance(
        messages, Sequence
    ):  # an iterator must reach the model unread
        raise RequestNotCacheable("messages", "not a sequence of ChatMessage")
    return [message_to_dict(message) for message in messages]


def message_to_dict(message: ChatMessage) -> dict[str, Any]:
    """*message* as OpenAI's chat API writes it; blocks of other kinds become content parts, media
    by the hash of their bytes.

    Raises RequestNotCacheable where the content cannot be read without using it up.
    """
    if not isinstance(message, ChatMessage):
        raise RequestNotCacheable("messages", f"{type(message).__name__} is not a ChatMessage")
    written: dict[str, Any] = {"role": getattr(message.role, "value", message.role)}
    blocks = message.blocks
    if len(blocks) == 1 and type(blocks[0]) is TextBlock:
        written["content"] = blocks[0].text
    else:
        written.update(_content(blocks))
    if message.additional_kwargs:
        written.update(_beside(message.additional_kwargs))
    return written


def _content(blocks: Sequence[Any]) -> dict[str, Any]:
    calls = [block for block in blocks if type(block) is ToolCallBlock]
    others = blocks[: len(blocks) - len(calls)]
    if any(
        type(block) is ToolCallBlock for block in others
    ):  # text after a call: the order is part of the request
        return {"content": [_part(block) for block in blocks]}
    parts = [_part(block) for block in others]
    content: Any = parts or None
    if len(parts) == 1 and type(others[0]) is TextBlock:
        content = others[0].text
    return (
        {"content": content, "tool_calls": [_call(call) for call in calls]}
        if calls
        else {"content": content}
    )


def _call(block: ToolCallBlock) -> dict[str, Any]:
    arguments: Any = block.tool_kwargs
    if not isinstance(arguments, str):
        with suppress(TypeError, ValueError):  # not JSON: the core refuses it or tags it
            arguments = json.dumps(arguments)
    return {
        "id": block.tool_call_id,
        "type": "function",
        "function": {"name": block.tool_name, "arguments": arguments},
    }


def _beside(additional: dict[str, Any]) -> dict[str, Any]:
    """The tool message's id and name at the top, where the chat API has them; LlamaIndex makes
    blocks of ``images`` itself."""
    top: dict[str, Any] = {
        name: additional[name] for name in ("tool_call_id", "name") if name in additional
    }
    rest = {
        name: value for name, value in additional.items() if name not in top and name != "images"
    }
    return {**top, "additional_kwargs": rest} if rest else top


def _part(block: Any) -> Any:
    """A block as a content part: its fields that are set, and instead of media their hash."""
    if isinstance(block, list):
        return [_part(item) for item in block]
    if not isinstance(block, BaseModel):
        return block
    fields = {
        name: value for name, value in block.__dict__.items() if value is not None and value != {}
    }
    kind = fields.pop("block_type", None)
    part: dict[str, Any] = {} if kind is None else {"type": kind}
    medium = _MEDIA.get(kind or "")
    if medium is not None:
        content, path = fields.pop(medium, None), fields.pop("path", None)
        if content is not None or path is not None:
            part["sha256"] = _hash_of(kind, content, path)
    if "url" in fields:
        fields["url"] = str(fields["url"])
    return {**part, **{name: _part(value) for name, value in fields.items()}}


def _hash_of(kind: Any, content: Any, path: Any) -> str:
    """The hash of the bytes themselves, so that one image given as bytes, as a file object or as a
    path is one request."""
    try:
        if isinstance(content, IOBase):
            content = _read(content)
        elif content is None:
            with open(path, "rb") as file:
                content = file.read()
        else:
            content = _decoded(content)
        return sha256(content).hexdigest()
    # a file that is gone or a stream that cannot be rewound: the model call may still work
    except Exception as exc:  # noqa: BLE001
        raise RequestNotCacheable(
            f"messages.{kind}", f"its content could not be read ({type(exc).__name__})"
        ) from None


def _read(file: Any) -> bytes:
    """All of *file*, as LlamaIndex reads it, leaving it where it was."""
    position = file.tell()
    try:
        file.seek(0)
        content: bytes = file.read()
        return content
    finally:
        file.seek(position)


def _decoded(content: bytes) -> bytes:
    """LlamaIndex keeps bytes as base64, except those that were assigned later."""
    try:
        return a2b_base64(content, strict_mode=True)
    except NotBase64:
        return content
