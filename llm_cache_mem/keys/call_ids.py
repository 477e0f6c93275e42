"""stable_ids: a key function for which the ids of tool calls are their places in the conversation.

Frameworks make a new id for each call, ``call_…``, ``toolu_…``, ``pyd_ai_…`` or of any other form,
and put it into the call and into its result. Only ids found in both are replaced. Ids of what a
provider holds (``rs_…``, ``file-…``, ``msg_…``) stand elsewhere, and stay.
"""

from collections.abc import Callable
from typing import Any, Final

from llm_cache_mem.keys.functions import simpler

__all__ = ["stable_ids"]

_Change = Callable[[bool, str], str | int]

_OF_CALLS: Final = {
    "custom_tool_call": "call_id",
    "function": "id",
    "function_call": "call_id",
    "tool_call": "id",
    "tool_use": "id",
}
_OF_RESULTS: Final = {
    "custom_tool_call_output": "call_id",
    "function_call_output": "call_id",
    "tool_result": "tool_use_id",
}
"""Types of calls and results, and where their ids stand."""
_WRAPPED: Final = {
    "functionCall": (True, "id"),
    "functionResponse": (False, "id"),
    "toolResult": (False, "toolUseId"),
    "toolUse": (True, "toolUseId"),
}
"""Fields that hold a call (True) or a result, and where its id stands there."""


def stable_ids(messages: Any, **params: Any) -> Any:
    """All messages and params, with the number of the call, from 1, for the id of each tool call
    that has a result.

    For frameworks that make new ids in each run. It chains with other key functions by
    ``compose``.

    Example:
        >>> cache = LLMCache(key_fn=stable_ids)
    """
    listed = simpler(messages)
    if type(listed) is not list:
        return {"messages": messages, **params}
    called: dict[str, int] = {}
    answered: set[str] = set()

    def note(is_call: bool, known_as: str) -> str:
        if is_call:
            called.setdefault(known_as, len(called) + 1)
        else:
            answered.add(known_as)
        return known_as

    def number(is_call: bool, known_as: str) -> str | int:
        return called.get(known_as, known_as) if known_as in answered else known_as

    for message in listed:
        _rewritten(message, note)
    if answered.isdisjoint(called):
        return {"messages": listed, **params}
    return {"messages": [_rewritten(message, number) for message in listed], **params}


def _rewritten(message: Any, change: _Change) -> Any:
    """*message* with the ids that *change* makes of those of its calls and results."""
    plain = simpler(message)
    if type(plain) is not dict:
        return message
    made = _part(plain, change)
    for name in ("tool_calls", "content", "parts"):
        if name in made and type(parts := simpler(made[name])) is list:
            made[name] = [_part(part, change) for part in parts]
    return made


def _part(part: Any, change: _Change) -> Any:
    plain = simpler(part)
    if type(plain) is not dict:
        return part
    made = dict(plain)
    kind = made.get("type")
    if made.get("role") == "tool":
        _change(made, "tool_call_id", False, change)
    if type(kind) is str and kind in _OF_CALLS:
        _change(made, _OF_CALLS[kind], True, change)
    elif type(kind) is str and kind in _OF_RESULTS:
        _change(made, _OF_RESULTS[kind], False, change)
    elif type(made.get("function")) is dict:  # a call that does not say its type
        _change(made, "id", True, change)
    for name, (is_call, field) in _WRAPPED.items():
        if name in made and type(inner := simpler(made[name])) is dict:
            made[name] = dict(inner)
            _change(made[name], field, is_call, change)
    return made


def _change(holder: dict[str, Any], name: str, is_call: bool, change: _Change) -> None:
    if type(holder.get(name)) is str:
        holder[name] = change(is_call, holder[name])
