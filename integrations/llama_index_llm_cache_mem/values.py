"""What is stored of a response, and the response made of it again: equal, and a new object each
time."""

from dataclasses import fields, is_dataclass
from enum import Enum
from io import IOBase
from typing import Any, Final, TypeAlias

from llama_index.core.base.llms.types import (
    ChatResponse,
    CompletionResponse,
    ContentBlock,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import BaseModel, TypeAdapter

from llm_cache_mem import ValueNotCacheable
from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.values.classes import register_package
from llm_cache_mem.values.payload import Payload
from llm_cache_mem.values.tagged import from_tree, to_tree

__all__ = [
    "Response",
    "decode",
    "decode_block",
    "decode_tree",
    "encode",
    "encode_block",
    "encode_tree",
    "has_form",
]

Response: TypeAlias = ChatResponse | CompletionResponse

_SAFE: Final = (TextBlock, ToolCallBlock)

# Classes that answers of LlamaIndex consist of, and the SDKs' answers that their ``raw`` holds.
# Only what is imported is used.
for _package in (
    *("llama_index.core.base.llms.types", "llama_index.core.llms.llm", "llama_index.llms"),
    *(
        "ai21.models",
        "cerebras.cloud.sdk.types",
        "google.genai.types",
        "litellm.types",
        "writerai.types",
        "mistralai.models",
        "mistralai.client.models",
        "cohere",
        "groq.types",
        "together.types",
        "ollama",
    ),
):
    register_package(_package)


def encode(response: Response) -> dict[str, Any]:
    """What the core stores of *response*; of ``raw`` what has a safe form. Raises for a media block
    that is an open file."""
    stored: dict[str, Any] = {"response": response}
    changes: dict[str, Any] = {}
    raw = _raw(response.raw)
    if raw is not response.raw:
        changes["raw"] = raw
    if isinstance(response, ChatResponse):
        odd = {
            i: block
            for i, block in enumerate(response.message.blocks)
            if not isinstance(block, _SAFE) and not _fits(block)
        }
        if odd:  # URLs and paths: types of which pydantic alone knows how to write and read them
            stored["blocks"] = [[i, encode_block(block)] for i, block in odd.items()]
            kept = [None if i in odd else block for i, block in enumerate(response.message.blocks)]
            changes["message"] = response.message.model_copy(update={"blocks": kept})
    if changes:
        stored["response"] = response.model_copy(update=changes)
    return stored


def decode(stored: Any) -> Any:
    """The response that ``encode`` wrote. Raises EntryUnreadable."""
    response: Any = stored["response"]
    if not isinstance(response, (ChatResponse, CompletionResponse)):
        raise EntryUnreadable("not an answer of LlamaIndex's")
    if "blocks" in stored and isinstance(response, ChatResponse):
        for i, block in stored["blocks"]:
            response.message.blocks[i] = decode_block(block)
    return response


def encode_tree(response: Response) -> Any:
    """*response* as plain JSON that differs little from that of the chunk before it."""
    try:
        return to_tree({"response": response})
    except ValueNotCacheable:  # a part of it needs the form that encode gives it
        return to_tree(encode(response))


def decode_tree(tree: Any) -> Any:
    """The response that ``encode_tree`` wrote, a new one each time."""
    return decode(from_tree(tree))


def has_form(raw: Any) -> bool:
    """Whether *raw* is what a provider gives for an answer in one piece but not for a stream, or
    the reverse: any object, or anything nested but usage."""
    if isinstance(raw, dict):
        return any(_is_nested(value) for value in raw.values())
    return raw is not None


def _is_nested(value: Any) -> bool:
    if isinstance(value, dict):
        return not all(isinstance(item, (int, float, type(None))) for item in value.values())
    return not isinstance(value, (str, int, float, type(None)))


def encode_block(block: Any) -> Any:
    """A block of content as JSON. ValueNotCacheable for one that holds an open file."""
    if _holds_file(block):  # pydantic would read it to its end
        raise ValueNotCacheable("value.message.blocks", "an open file")
    return block.model_dump(mode="json")


def decode_block(data: Any) -> Any:
    """The block that ``encode_block`` wrote."""
    return _blocks().validate_python(data)


def _holds_file(part: Any) -> bool:
    if isinstance(part, list):
        return any(map(_holds_file, part))
    return isinstance(part, IOBase) or (
        isinstance(part, BaseModel) and any(map(_holds_file, part.__dict__.values()))
    )


def _blocks() -> "TypeAdapter[Any]":
    global _adapter
    if _adapter is None:  # slow to build, and few answers hold a block that needs it
        _adapter = TypeAdapter(ContentBlock)
    return _adapter


_adapter: "TypeAdapter[Any] | None" = None


def _fits(value: Any) -> bool:
    try:
        Payload.of(value)
    except ValueNotCacheable:
        return False
    return True


def _raw(raw: Any) -> Any:
    """*raw* itself if it can be stored; else its plain data, without the parts that are none."""
    if raw is None or _fits(raw):
        return raw
    if isinstance(raw, BaseModel):
        try:
            raw = raw.model_dump(mode="json", warnings=False)
        # a foreign serializer may raise anything; the message itself is what matters
        except Exception:  # noqa: BLE001
            return None
        return _raw(raw)
    if isinstance(raw, dict):
        return {name: _raw(value) for name, value in raw.items() if _fits(name)}
    if isinstance(raw, (list, tuple)):
        return [_raw(value) for value in raw]
    if isinstance(raw, Enum):  # one of text is equal to its text
        return _raw(raw.value)
    if is_dataclass(raw) and not isinstance(raw, type):
        return {field.name: _raw(getattr(raw, field.name, None)) for field in fields(raw)}
    return None
