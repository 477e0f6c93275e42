"""The content of a LangChain message as the Chat Completions API has it: LangChain's standard
blocks, of its present and its former form, and those of providers."""

from collections.abc import Mapping
from typing import Any, Final

from llm_cache_mem.keys.chat_form import image, media, of_anthropic, text_alone

__all__ = ["as_content", "without_calls"]

_CALLS: Final = ("function_call", "tool_call", "tool_use")
_FILES: Final = ("audio", "file", "image", "video")


def as_content(content: Any, *, of_model: bool) -> Any:
    """*content* as it is sent: a text stays a text, and a list of blocks a list.

    *of_model*: whether a model said it. Then its blocks may hold the place that they had in a
      stream, which is never sent.
    """
    if not isinstance(content, list):
        return content
    return [_block(block, of_model=of_model) for block in content]


def without_calls(content: Any, calls: list[Any]) -> Any:
    """The *content* of a message without the blocks that its tool *calls* say again; None if
    nothing else is in it.

    A block that stands before something else stays: the order is part of the request.
    """
    if not isinstance(content, list):
        return content or None
    known = {str(call.get("id")) for call in calls}
    end = len(content)
    while end and _calls_one_of(known, content[end - 1]):
        end -= 1
    left = content[:end]
    return (left if end == len(content) else text_alone(left)) or None


def _calls_one_of(known: set[str], block: Any) -> bool:
    if not isinstance(block, dict) or block.get("type") not in _CALLS or block.get("caller"):
        return False
    return str(block.get("call_id", block.get("id"))) in known


def _block(block: Any, *, of_model: bool) -> Any:
    if isinstance(block, str):
        return {"type": "text", "text": block}
    if not isinstance(block, dict):
        return block
    made_up = {"id"} if str(block.get("id", "")).startswith("lc_") else set()
    made_up |= {"index"} if of_model else set()
    kept = {name: value for name, value in block.items() if name not in made_up}
    return _medium(kept) or kept


def _medium(block: dict[str, Any]) -> dict[str, Any] | None:
    """An image, a sound or a file in the API's form; None for any other block."""
    kind = block.get("type")
    if kind == "image_url" and isinstance(block.get("image_url"), str):
        return {**block, **image(block["image_url"])}
    if kind in ("image", "document") and isinstance(block.get("source"), Mapping):
        return of_anthropic(block)
    if kind not in (*_FILES, "media"):
        return None
    former = block.get("source_type")  # of the form before langchain-core 1
    rest = {name: value for name, value in block.items() if name not in ("type", "source_type")}
    data = "data" if former == "base64" or kind == "media" else "base64"
    if data in rest and "mime_type" in rest:
        made = media(rest.pop("mime_type"), rest.pop(data), **_filename(kind, rest))
    elif kind == "image" and isinstance(rest.get("url"), str):
        made = image(rest.pop("url"))
    elif kind == "file" and ("file_id" in rest or former == "id"):
        name = "file_id" if "file_id" in rest else "id"
        made = {"type": "file", "file": {"file_id": rest.pop(name), **_filename(kind, rest)}}
    else:
        return {"type": kind, **rest} if former in ("url", "id") else None
    if made is None or not rest.keys().isdisjoint(made):
        return None
    return {**made, **rest}


def _filename(kind: Any, rest: dict[str, Any]) -> dict[str, Any]:
    """The name of a file, taken out of *rest*."""
    if kind != "file":
        return {}
    if "filename" in rest:
        return {"filename": rest.pop("filename")}
    for name in ("extras", "metadata"):
        holder = rest.get(name)
        if isinstance(holder, Mapping) and "filename" in holder:
            left = {key: value for key, value in holder.items() if key != "filename"}
            rest.pop(name)
            rest.update({name: left} if left else {})
            return {"filename": holder["filename"]}
    return {}
