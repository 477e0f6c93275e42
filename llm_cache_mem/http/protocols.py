"""The messages of each protocol as the Chat Completions API writes them.

The function of a protocol takes the messages and the params of a request, and returns the messages;
None where they hold already what it would write, so that a message might be either.
"""

from typing import Any, Final

from llm_cache_mem.http.turns import (
    CHAT_BLOCKS,
    Block,
    Blocks,
    call_of,
    field,
    has_chat_form,
    made_by,
    result_of,
    without,
    write_content,
    write_turns,
)
from llm_cache_mem.keys.chat_form import (
    arguments_text,
    image,
    media,
    of_anthropic,
    text_alone,
    tool_call,
    without_known_names,
)

__all__ = [
    "anthropic",
    "cohere",
    "converse",
    "converse_system",
    "gemini",
    "gemini_system",
    "ollama",
    "responses",
]

# -- Anthropic


def _anthropic_call(block: Block) -> dict[str, Any] | None:
    if block.get("type") != "tool_use" or type(block.get("id")) is not str:
        return None
    more = without(block, "type", "id", "name", "input")
    return call_of(block["id"], block.get("name"), block.get("input"), more)


def _anthropic_result(block: Block) -> dict[str, Any] | None:
    if block.get("type") != "tool_result" or type(block.get("tool_use_id")) is not str:
        return None
    more = without(block, "type", "tool_use_id")
    if more.get("is_error") is False:  # as if it were not said
        del more["is_error"]
    if type(said := more.get("content")) is list:
        if any(field(part, "type") in CHAT_BLOCKS for part in said):
            return None
        more["content"] = [made_by(of_anthropic, part) or part for part in said]
    return result_of(block["tool_use_id"], more)


_ANTHROPIC: Final = Blocks(_anthropic_call, _anthropic_result, of_anthropic, plain=False)


def anthropic(turns: list[Any], params: dict[str, Any]) -> list[Any] | None:
    """Anthropic's Messages API."""
    return write_turns(turns, _ANTHROPIC)


# -- Bedrock Converse

_FORMATS: Final = {"gif": "image/gif", "jpeg": "image/jpeg", "png": "image/png"} | {
    "webp": "image/webp",
    "pdf": "application/pdf",
}


def _converse_call(block: Block) -> dict[str, Any] | None:
    use = block.get("toolUse")
    if (
        block.keys() != {"toolUse"}
        or type(use) is not dict
        or type(use.get("toolUseId")) is not str
    ):
        return None
    more = without(use, "toolUseId", "name", "input")
    return call_of(use["toolUseId"], use.get("name"), use.get("input"), more)


def _converse_result(block: Block) -> dict[str, Any] | None:
    result = block.get("toolResult")
    if block.keys() != {"toolResult"} or type(result) is not dict:
        return None
    if type(result.get("toolUseId")) is not str:
        return None
    more = without(result, "toolUseId")
    said = more.get("content")
    if type(said) is not list or any(field(part, "type") for part in said):
        return None
    more["content"] = text_alone(write_content(said, _CONVERSE))
    return result_of(result["toolUseId"], more)


def _converse_other(block: Block) -> dict[str, Any] | None:
    if block.keys() == {"text"}:
        return {"type": "text", "text": block["text"]}
    for kind, names in (
        ("image", {"format", "source"}),
        ("document", {"format", "name", "source"}),
    ):
        part = block.get(kind)
        if block.keys() == {kind} and type(part) is dict and part.keys() == names:
            mime_type = _FORMATS.get(part["format"]) if type(part["format"]) is str else None
            source, title = part["source"], {"filename": part["name"]} if "name" in part else {}
            if type(source) is dict and source.keys() == {"bytes"}:
                made = media(mime_type, source["bytes"], **title)
                is_file = made is not None and made["type"] == "file"
                return made if is_file is (kind == "document") else None
    return None


_CONVERSE: Final = Blocks(_converse_call, _converse_result, _converse_other, plain=True)


def converse(turns: list[Any], params: dict[str, Any]) -> list[Any] | None:
    """Bedrock's Converse API."""
    return write_turns(turns, _CONVERSE)


def converse_system(system: Any) -> tuple[Any, None] | None:
    """The content of its system prompt."""
    return (text_alone(write_content(system, _CONVERSE)), None) if type(system) is list else None


# -- Gemini


def _gemini_call(part: Block) -> dict[str, Any] | None:
    call = part.get("functionCall")
    if type(call) is not dict or not call.keys() <= {"id", "name", "args"}:
        return None
    if type(call.get("id", "")) is not str:
        return None
    more = without(part, "functionCall")
    return call_of(call.get("id"), call.get("name"), call.get("args"), more)


def _gemini_result(part: Block) -> dict[str, Any] | None:
    result = part.get("functionResponse")
    if part.keys() != {"functionResponse"} or type(result) is not dict:
        return None
    if type(result.get("id", "")) is not str or "content" in result or "response" not in result:
        return None
    said = result["response"]
    if type(said) is dict and said.keys() == {"output"} and type(said["output"]) is str:
        said = said["output"]
    elif type(said) is str:
        return None
    return result_of(result.get("id"), {**without(result, "id", "response"), "content": said})


def _gemini_other(part: Block) -> dict[str, Any] | None:
    if "text" in part and "type" not in part:
        return {"type": "text", **part}
    data = part.get("inlineData")
    if part.keys() != {"inlineData"} or type(data) is not dict:
        return None
    if data.keys() != {"mimeType", "data"}:
        return None
    return media(data["mimeType"], data["data"])


_GEMINI: Final = Blocks(_gemini_call, _gemini_result, _gemini_other, True, assistant="model")


def gemini(turns: list[Any], params: dict[str, Any]) -> list[Any] | None:
    """Gemini's generateContent; the parts of its turns are called content already."""
    written = write_turns(turns, _GEMINI)
    return None if written is None else without_known_names(written)


def gemini_system(system: Any) -> tuple[Any, dict[str, Any]] | None:
    """The content of its system instruction, and all that is beside its parts."""
    if type(system) is not dict or type(system.get("parts")) is not list:
        return None
    return text_alone(write_content(system["parts"], _GEMINI)), without(system, "parts")


# -- OpenAI Responses

_TEXT_OF: Final = {"assistant": "output_text"}


def responses(items: list[Any], params: dict[str, Any]) -> list[Any] | None:
    """OpenAI's Responses API, whose calls and results are items beside the messages."""
    if any(_is_chat_item(item) for item in items):
        return None
    found: list[Any] = []
    open_to_calls = False
    for item in items:
        call = _responses_call(item)
        if call is None:
            found.append(_responses_item(item))
            open_to_calls = (
                field(item, "role") == "assistant" and field(item, "content") is not None
            )
        elif open_to_calls:
            found[-1] = {**found[-1], "tool_calls": [*found[-1].get("tool_calls", []), call]}
        else:
            found.append({"role": "assistant", "content": None, "tool_calls": [call]})
            open_to_calls = True
    return found


def _is_chat_item(item: Any) -> bool:
    return has_chat_form(item) or _has_chat_blocks(field(item, "content"))


def _has_chat_blocks(content: Any) -> bool:
    blocks = content if type(content) is list else ()
    return any(field(block, "type") in ("file", "image_url", "text") for block in blocks)


def _responses_call(item: Any) -> dict[str, Any] | None:
    if field(item, "type") != "function_call" or type(item.get("call_id")) is not str:
        return None
    more = without(item, "type", "call_id", "name", "arguments", "id")
    if type(item.get("arguments")) is not str or not more.keys().isdisjoint(
        ("function", "item_id")
    ):
        return None
    if "id" in item:
        more["item_id"] = item["id"]
    return tool_call(item["call_id"], item.get("name"), item["arguments"], more)


def _responses_item(item: Any) -> Any:
    if type(item) is not dict:
        return item
    if item.get("type") == "function_call_output" and type(item.get("call_id")) is str:
        more = without(item, "type", "call_id", "output")
        said = item.get("output")
        if "content" in more or "output" not in item or _has_chat_blocks(said):
            return item
        said = _responses_content(said, None)
        return result_of(item["call_id"], {**more, "content": said}) or item
    if "role" not in item or item.get("type", "message") != "message":
        return item
    return {**item, "content": _responses_content(item.get("content"), item["role"])}


def _responses_content(content: Any, role: Any) -> Any:
    if type(content) is not list:
        return content
    text = _TEXT_OF.get(role, "input_text") if type(role) is str else "input_text"
    return [_responses_block(block, text) if type(block) is dict else block for block in content]


def _responses_block(block: dict[str, Any], text: str) -> Any:
    kind, rest = block.get("type"), without(block, "type")
    if kind == text:
        return {"type": "text", **rest}
    if kind == "input_image" and rest.keys() <= {"image_url", "detail"}:
        if type(rest.get("image_url")) is str:
            return image(rest.pop("image_url"), **rest)
        return block
    if kind == "input_file":
        return {"type": "file", "file": rest}
    return block


# -- Cohere's first version, and Ollama

_COHERE_ROLES: Final = {"CHATBOT": "assistant", "SYSTEM": "system", "USER": "user"}


def cohere(turns: list[Any], params: dict[str, Any]) -> list[Any] | None:
    """Cohere's v1 chat API, which has the earlier turns in a field of their own."""
    history = params.get("chat_history")
    if type(history) is not list or not all(_is_cohere_turn(turn) for turn in history):
        return turns
    del params["chat_history"]
    said = [{"role": _COHERE_ROLES[turn["role"]], "content": turn["message"]} for turn in history]
    return [*said, *turns]


def _is_cohere_turn(turn: Any) -> bool:
    return (
        type(turn) is dict
        and turn.keys() == {"role", "message"}
        and type(turn["role"]) is str
        and turn["role"] in _COHERE_ROLES
    )


def ollama(turns: list[Any], params: dict[str, Any]) -> list[Any] | None:
    """Ollama's chat and generate APIs."""
    if any(type(field(turn, "content")) is list for turn in turns):
        return None
    found = [_ollama_turn(turn) for turn in turns]
    if "images" in params and [*map(_keys, turns)] == [{"role", "content"}]:  # of generate
        turn = _ollama_turn({**turns[0], "images": params["images"]})
        if "images" not in turn:
            del params["images"]
            return [turn]
    return None if None in found else found


def _keys(turn: Any) -> Any:
    return turn.keys() if type(turn) is dict else None


def _ollama_turn(turn: Any) -> Any:
    """None for one with a call whose arguments are text already."""
    if type(turn) is not dict:
        return turn
    calls, images = turn.get("tool_calls"), turn.get("images")
    if type(calls) is list:
        if any(type(field(field(call, "function"), "arguments")) is str for call in calls):
            return None
        turn = {**turn, "tool_calls": [_ollama_call(call) for call in calls]}
    if type(images) is list and images and type(turn.get("content")) is str:
        made = [media(_mime_type(data), data) for data in images]
        if None not in made:
            turn = without(turn, "images")
            turn["content"] = [{"type": "text", "text": turn["content"]}, *made]
    return turn


def _ollama_call(call: Any) -> Any:
    function = field(call, "function")
    if type(field(function, "arguments")) is not dict:
        return call
    return {**call, "function": {**function, "arguments": arguments_text(function["arguments"])}}


_SIGNATURES: Final = {"/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"} | {
    "iVBORw0KGgo": "image/png"
}


def _mime_type(base64: Any) -> str | None:
    """The type of an image by how it begins, since Ollama is not told."""
    kinds = (_SIGNATURES[start] for start in _SIGNATURES if str(base64).startswith(start))
    return next(kinds, None)
