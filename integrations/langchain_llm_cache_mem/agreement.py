"""What two answers of a LangChain model are compared by: their text and their calls of tools, alike
for whole answers and streams."""

import json
from typing import Any, Final

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_llm_cache_mem.generations import load
from llm_cache_mem.values.payload import Payload

__all__ = ["answer_in"]

_CALLS: Final = frozenset(
    {"function_call", "input_json_delta", "tool_call", "tool_call_chunk", "tool_use"}
)
_ELSEWHERE: Final = frozenset({"parsed", "tool_calls"})


def answer_in(payload: Payload) -> Any:
    """The answer in what is stored of a call or a stream, as JSON."""
    seen = [_answer(generation) for generation in load(payload.decode())]
    return Payload.of(seen).as_tree()


def _answer(generation: Generation) -> Any:
    if not isinstance(generation, ChatGeneration):
        return generation.text
    message = generation.message
    answer: dict[str, Any] = {"content": _content(message.content)}
    if isinstance(message, AIMessage):
        calls = [*message.tool_calls, *message.invalid_tool_calls]
        if calls:
            answer["tool_calls"] = [_call(call) for call in calls]
    rest = {
        name: value
        for name, value in message.additional_kwargs.items()
        if value and name not in _ELSEWHERE
    }
    return {**answer, "additional_kwargs": rest} if rest else answer


def _call(call: Any) -> dict[str, Any]:
    arguments = call["args"]
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, sort_keys=True)
    return {"name": call["name"], "arguments": arguments}


def _content(content: Any) -> Any:
    """*content* without calls of tools, and as one text if it is text only: a stream may give in
    blocks what a whole answer has as text."""
    if isinstance(content, str):
        return content
    blocks = [
        {"type": "text", "text": block}
        if isinstance(block, str)
        else {name: value for name, value in block.items() if name != "index"}
        for block in content
    ]
    blocks = [block for block in blocks if block.get("type") not in _CALLS]
    if all(block.get("type") == "text" for block in blocks):
        return "".join(block.get("text", "") for block in blocks)
    return blocks
