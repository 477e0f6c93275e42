"""What is stored of a response, and the response made of it again: equal, and a new object each
time."""

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

__all__ = ["Pieces", "Response", "decode_block", "decode_whole", "encode_block"]

Response: TypeAlias = ChatResponse | CompletionResponse
Pieces: TypeAlias = "list[list[str | None]] | None"
"""What the chunks of a stream brought, as [text, thoughts] each; None for an answer that was no
stream."""

_SAFE: Final = (TextBlock, ToolCallBlock)

# Classes that answers of LlamaIndex consist of, and the SDKs' answers that their ``raw`` holds.
# Only what is imported is used.
for _package in (
    *("llama_index.core.base.llms.types", "llama_index.core.llms.llm", "llama_index.llms"),
    *(
        "google.genai.types",
        "mistralai.models",
        "mistralai.client.models",
        "cohere",
        "groq.types",
        "together.types",
        "ollama",
    ),
):
    register_package(_package)


def encode(response: Response, pieces: Pieces = None) -> dict[str, Any]:
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
    if pieces is not None:
        stored["pieces"] = pieces
    return stored


def decode(stored: Any) -> tuple[Any, Pieces]:
    """The response and the pieces that it came in."""
    response: Any = stored["response"]
    pieces = stored.get("pieces")
    if not isinstance(response, (ChatResponse, CompletionResponse)) or not (
        pieces is None or type(pieces) is list
    ):
        raise EntryUnreadable("not an answer of LlamaIndex's")
    if "blocks" in stored and isinstance(response, ChatResponse):
        for i, block in stored["blocks"]:
            response.message.blocks[i] = decode_block(block)
    return response, pieces


def decode_whole(stored: Any) -> Any:
    """The response as a call without streaming gives it."""
    response, pieces = decode(stored)
    if pieces is not None:
        response.delta = None
        response.additional_kwargs.pop("thinking_delta", None)
    return response


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
    return None
