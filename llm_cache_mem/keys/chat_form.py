"""How the Chat Completions API writes tool calls, tools and media: the one form in which key
functions see them, whichever API or framework a request comes from.

A function here returns None for what has no such form, or has one only if something were lost. The
caller then keeps it as it is.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = [
    "arguments_text",
    "function_tool",
    "image",
    "media",
    "of_anthropic",
    "overlaid",
    "same_calls",
    "text_alone",
    "tool_call",
    "without_known_names",
]

_encode: Final = json.JSONEncoder(ensure_ascii=False).encode  # dumps would make one each time
_MIME_TYPE: Final = re.compile(r"[\w.+-]+/[\w.+-]+")


def arguments_text(arguments: Any) -> Any:
    """The *arguments* of a tool call as the text that is sent; as they are where they are text
    already, or no JSON."""
    if isinstance(arguments, str):
        return arguments
    try:
        return _encode(arguments)
    except (TypeError, ValueError, RecursionError):  # the key refuses it, and says where it is
        return arguments


def tool_call(
    call_id: Any, name: Any, arguments: Any, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A tool call; *more* are its further fields."""
    function = {"name": name, "arguments": arguments_text(arguments)}
    call = {} if call_id is None else {"id": call_id}
    return {**(more or {}), **call, "type": "function", "function": function}


def same_calls(some: Any, others: Any) -> bool:
    """Whether two lists of tool calls say the same, however their arguments are written."""
    return bool(_meant(some) == _meant(others))


def _meant(calls: Any) -> Any:
    return [
        (call.get("id"), call["function"].get("name"), _parsed(call["function"].get("arguments")))
        if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping)
        else call
        for call in calls
    ]


def _parsed(arguments: Any) -> Any:
    try:
        return json.loads(arguments or "{}")
    except (TypeError, ValueError):
        return arguments


def without_known_names(messages: list[Any]) -> list[Any]:
    """*messages* without the name of a tool in its results: the call that they answer says it."""
    names: dict[str, Any] = {}
    return [_without_known_name(one, names) if type(one) is dict else one for one in messages]


def _without_known_name(message: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """*message*, whose calls are added to *names*."""
    calls = message.get("tool_calls")
    for call in calls if type(calls) is list else ():
        if type(call) is dict and type(call.get("function")) is dict:
            names[str(call.get("id"))] = call["function"].get("name")
    answered = message.get("tool_call_id")
    if answered is None or message.get("role") != "tool" or message.get("name") is None:
        return message
    if names.get(str(answered)) != message["name"]:
        return message
    return {name: value for name, value in message.items() if name != "name"}


def function_tool(tool: Any, parameters: str) -> dict[str, Any] | None:
    """A tool whose function stands in it, with its schema under the name *parameters*."""
    if not isinstance(tool, Mapping) or "function" in tool or not isinstance(tool.get("name"), str):
        return None
    if parameters != "parameters" and "parameters" in tool:
        return None
    function = {
        "parameters" if name == parameters else name: value
        for name, value in tool.items()
        if name != "type"
    }
    return {"type": "function", "function": function}


def image(url: str, **more: Any) -> dict[str, Any]:
    """The block of an image at *url*, which may be a data URL."""
    return {"type": "image_url", "image_url": {"url": url, **more}}


def media(mime_type: Any, base64: Any, **file: Any) -> dict[str, Any] | None:
    """The block of an image, a sound or a file that is sent whole; *file* are fields of a file."""
    if not (isinstance(mime_type, str) and isinstance(base64, str)):
        return None
    if not _MIME_TYPE.fullmatch(mime_type):
        return None
    kind, _, subtype = mime_type.partition("/")
    url = f"data:{mime_type};base64,{base64}"
    if kind == "image" and not file:
        return image(url)
    if kind == "audio" and not file:
        return {"type": "input_audio", "input_audio": {"data": base64, "format": subtype}}
    return {"type": "file", "file": {"file_data": url, **file}}


def of_anthropic(block: Mapping[str, Any]) -> dict[str, Any] | None:
    """A block of an image or a document of Anthropic's."""
    rest = {name: value for name, value in block.items() if name not in ("type", "source")}
    source = block.get("source")
    if not isinstance(source, Mapping) or block.get("type") not in ("image", "document"):
        return None
    of = source.get("type")
    made = None
    if of == "base64" and source.keys() == {"type", "media_type", "data"}:
        is_file = block["type"] == "document"
        title = {"filename": rest.pop("title")} if is_file and "title" in rest else {}
        made = media(source["media_type"], source["data"], **title)
        if made is not None and (made["type"] == "file") is not is_file:
            return None
    elif of == "url" and source.keys() == {"type", "url"} and block["type"] == "image":
        url = source["url"]
        made = image(url) if isinstance(url, str) and not url.startswith("data:") else None
    if made is None or not rest.keys().isdisjoint(made):
        return None
    return {**made, **rest}


def text_alone(content: list[Any]) -> Any:
    """The text, where *content* is nothing else and not empty."""
    only: Any = content[0] if len(content) == 1 else None
    is_text = type(only) is dict and only.keys() == {"type", "text"} and only["type"] == "text"
    return only["text"] if is_text and only["text"] and type(only["text"]) is str else content


def overlaid(params: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """*params*, and over them those of *over*. An integration need not let the latter win, so what
    they hide stays, under ``llm_defaults``."""
    hidden = {name: params[name] for name in over if name in params}
    if not hidden:
        return {**params, **over}
    before = params.get("llm_defaults", {})
    if not before.keys().isdisjoint(hidden):
        before = {"llm_defaults": before}
    return {**params, **over, "llm_defaults": {**before, **hidden}}
