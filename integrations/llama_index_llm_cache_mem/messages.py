"""A LlamaIndex message as the Chat Completions API has it, which is what keys and key functions
see."""

from base64 import b64encode
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Callable, Mapping, Sequence
from io import IOBase
from mimetypes import guess_type
from pathlib import PurePath
from typing import Any, Final

from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock
from llama_index.core.bridge.pydantic import BaseModel

from llm_cache_mem import RequestNotCacheable
from llm_cache_mem.keys.chat_form import same_calls, tool_call, without_known_names
from llm_cache_mem.keys.wire_form import Refused, unwrap

__all__ = ["message_to_dict", "messages_to_dicts"]


def messages_to_dicts(messages: Any) -> list[dict[str, Any]]:
    """Every message as a dict. Raises RequestNotCacheable for anything but a sequence of
    ChatMessage."""
    if isinstance(messages, str) or not isinstance(
        messages, Sequence
    ):  # an iterator must reach the model unread
        raise RequestNotCacheable("messages", "not a sequence of ChatMessage")
    return without_known_names([message_to_dict(message) for message in messages])


def message_to_dict(message: ChatMessage) -> dict[str, Any]:
    """*message* as OpenAI's Chat Completions API has it.

    Text alone is a string; blocks are the API's content parts, media as data URLs. What never
    reaches a model, such as the usage of an earlier answer, is left out. Raises RequestNotCacheable
    where the content cannot be read without using it up.
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
        _add_fields(written, message.additional_kwargs)
    if written.get("tool_calls") and not written["content"]:
        written["content"] = None  # as the API has it, whichever the history has
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
    if not calls:
        return {"content": content}
    return {"content": content, "tool_calls": [_call_of_block(call) for call in calls]}


# -- Beside the content

_NEVER_SENT: Final = frozenset(
    {"usage", "stop_reason", "stop_sequence", "thinking_delta"}
    | {"prompt_tokens", "completion_tokens", "total_tokens"}
)
"""Additional arguments of earlier answers that are not sent back to a model."""


def _add_fields(written: dict[str, Any], additional: Mapping[str, Any]) -> None:
    """Add *additional* arguments of a message to the fields of it that are *written*."""
    more = {
        name: value
        for name, value in additional.items()
        # LlamaIndex makes blocks of images itself
        if name not in _NEVER_SENT and name != "images" and value is not None
    }
    calls = more.get("tool_calls")
    if isinstance(calls, (list, tuple)):
        more["tool_calls"] = [_call_of_api(call) for call in calls]
        known = written.get("tool_calls")
        if not calls or (known and same_calls(known, more["tool_calls"])):
            del more["tool_calls"]
    hidden = {name: more.pop(name) for name in [*more] if name in written}
    written.update(more)
    if hidden:
        written["additional_kwargs"] = hidden


def _call_of_block(block: ToolCallBlock) -> dict[str, Any]:
    return tool_call(block.tool_call_id, block.tool_name, block.tool_kwargs)


def _call_of_api(call: Any) -> Any:
    """A tool call as an SDK's object or as a dict, in the API's form; the position that it had in
    a stream is left out."""
    try:
        call = unwrap(call)
    except Refused:
        return call  # refused by the core, which knows the path to it
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        return call
    more = {name: value for name, value in call.items() if name not in ("id", "index")}
    return tool_call(call.get("id"), function.get("name"), function.get("arguments"), more)


# -- Content parts


def _part(block: Any) -> Any:
    """A block as a content part: the API's where that has one, else the fields that are set."""
    if isinstance(block, list):
        return [_part(item) for item in block]
    if type(block) is ToolCallBlock:
        return {**_call_of_block(block), "type": "tool_call"}
    if isinstance(block, PurePath):
        return str(block)
    if not isinstance(block, BaseModel):
        return block
    fields = {
        name: value for name, value in block.__dict__.items() if value is not None and value != {}
    }
    kind = fields.pop("block_type", None)
    part: dict[str, Any] = {} if kind is None else {"type": kind}
    if kind in _MEDIA:
        part = _MEDIA[kind](fields)
    return {**part, **{name: _part(value) for name, value in fields.items()}}


def _image(fields: dict[str, Any]) -> dict[str, Any]:
    image = {"url": _url("image", fields, "image", "image_mimetype")}
    if "detail" in fields:
        image["detail"] = fields.pop("detail")
    return {"type": "image_url", "image_url": image}


def _video(fields: dict[str, Any]) -> dict[str, Any]:
    url = _url("video", fields, "video", "video_mimetype")
    return {"type": "video_url", "video_url": {"url": url}}


def _audio(fields: dict[str, Any]) -> dict[str, Any]:
    audio = {"format": fields.pop("format", None)}
    if "url" in fields:
        audio["url"] = str(fields.pop("url"))
    else:
        audio["data"] = b64encode(_bytes_of("audio", fields, "audio")).decode()
    return {"type": "input_audio", "input_audio": audio}


def _document(fields: dict[str, Any]) -> dict[str, Any]:
    file = {"filename": fields.pop("title")} if "title" in fields else {}
    file["file_data"] = _url("document", fields, "data", "document_mimetype")
    return {"type": "file", "file": file}


_MEDIA: Final[dict[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "image": _image,
    "audio": _audio,
    "video": _video,
    "document": _document,
}
"""How blocks are written whose content lies in a field of bytes, in a file object, in a file, or at
a URL. Each takes the fields that it has written."""


def _url(kind: str, fields: dict[str, Any], content: str, mimetype: str) -> str:
    """The URL of a medium; a data URL of its bytes, so that one image given as bytes, as a file
    object or as a path is one request."""
    if "url" in fields:
        url = str(fields.pop("url"))
        if fields.get(mimetype) == guess_type(url)[0]:  # LlamaIndex has it from the URL as well
            fields.pop(mimetype, None)
        return url
    known = fields.pop(mimetype, None)
    return f"data:{known};base64,{b64encode(_bytes_of(kind, fields, content)).decode()}"


def _bytes_of(kind: str, fields: dict[str, Any], name: str) -> bytes:
    content, path = fields.pop(name, None), fields.pop("path", None)
    try:
        if isinstance(content, IOBase):
            return _read(content)
        if content is not None:
            return _decoded(content)
        with open(path, "rb") as file:
            return file.read()
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
