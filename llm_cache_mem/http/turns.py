"""Messages whose content is a list of blocks, calls and results of tools among them, as the Chat
Completions API writes them.

The order of what is said is kept: where Chat Completions cannot say it, a message stays as it is.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from llm_cache_mem.keys.chat_form import text_alone, tool_call

__all__ = [
    "CHAT_BLOCKS",
    "Block",
    "Blocks",
    "call_of",
    "field",
    "has_chat_form",
    "made_by",
    "result_of",
    "without",
    "write_content",
    "write_turns",
]

Block = Mapping[str, Any]
_CHAT_FIELDS: Final = {"tool_calls", "tool_call_id"}
CHAT_BLOCKS: Final = ("file", "image_url", "input_audio")


class Blocks(NamedTuple):
    """How a protocol writes the content of its messages, block by block; each
    function returns None for any other block.

    *plain*: whether content is never a string, so that a text alone can be one here.
    """

    call: Callable[[Block], dict[str, Any] | None]
    result: Callable[[Block], dict[str, Any] | None]
    other: Callable[[Block], dict[str, Any] | None]
    plain: bool
    assistant: str = "assistant"


def write_turns(turns: list[Any], blocks: Blocks) -> list[Any] | None:
    if any(has_chat_form(turn, blocks) for turn in turns):
        return None
    found: list[Any] = []
    for number, turn in enumerate(turns):
        after = turns[number + 1] if number + 1 < len(turns) else None
        found += _turn(turn, blocks, before_user=field(after, "role") == "user")
    return found


def _turn(turn: Any, blocks: Blocks, *, before_user: bool) -> list[Any]:
    if type(turn) is not dict:
        return [turn]
    said = turn.get("content")
    named = {**turn, "role": "assistant"} if turn.get("role") == blocks.assistant else turn
    if type(said) is not list:
        return [named]
    results = _all_made(blocks.result, said)
    if results:
        return _with_results(turn, results, blocks, before_user=before_user) or [named]
    calls = _all_made(blocks.call, said)
    before = said[: len(said) - len(calls)]
    if not calls:
        written = write_content(said, blocks)
        content = text_alone(written) if blocks.plain else written
        return [{**named, "content": content}]
    if turn.get("role") != blocks.assistant or _all_made(blocks.call, before):
        return [named]
    content = text_alone(write_content(before, blocks)) if before else None
    return [{**named, "content": content, "tool_calls": calls}]


def _with_results(
    turn: dict[str, Any], results: list[dict[str, Any]], blocks: Blocks, *, before_user: bool
) -> list[Any] | None:
    """The user's *turn*, which holds *results* of tools, as a message for each and one for the
    rest."""
    rest = turn["content"][len(results) :]
    if turn.get("role") != "user" or turn.keys() != {"role", "content"}:
        return None
    if _all_made(blocks.result, rest):  # they do not stand in front
        return None
    if rest:
        said = text_alone(write_content(rest, blocks))
        return [*results, {"role": "user", "content": said}]
    # results alone before another turn of the user would read as one turn of both
    return None if before_user else results


def _all_made(
    write: Callable[[Block], dict[str, Any] | None], said: list[Any]
) -> list[dict[str, Any]]:
    made = [made_by(write, block) for block in said]
    return [one for one in made if one is not None]


def write_content(said: list[Any], blocks: Blocks) -> list[Any]:
    return [made_by(blocks.other, block) or block for block in said]


def made_by(write: Callable[[Block], dict[str, Any] | None], block: Any) -> dict[str, Any] | None:
    return write(block) if type(block) is dict else None


def has_chat_form(turn: Any, blocks: Blocks | None = None) -> bool:
    """Whether *turn* has something in it that is written in this module."""
    if type(turn) is not dict:
        return False
    if turn.get("role") == "tool" or not turn.keys().isdisjoint(_CHAT_FIELDS):
        return True
    if blocks is not None and turn.get("role") == "assistant" != blocks.assistant:
        return True
    if blocks is not None and turn.get("role") == "system" and blocks.plain:
        return True
    said = turn.get("content")
    kinds = [field(block, "type") for block in said] if type(said) is list else []
    if blocks is not None and blocks.plain:  # its blocks have no types
        return type(said) is str or any(kinds)
    return blocks is not None and any(kind in CHAT_BLOCKS for kind in kinds)


def field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else None


def without(holder: Block, *names: str) -> dict[str, Any]:
    return {name: value for name, value in holder.items() if name not in names}


def call_of(call_id: Any, name: Any, arguments: Any, more: dict[str, Any]) -> dict[str, Any] | None:
    """A tool call, if its arguments are an object and *more* does not hide it."""
    if type(arguments) is not dict or type(name) is not str:
        return None
    if not more.keys().isdisjoint(("id", "type", "function")):
        return None
    call = tool_call(call_id, name, arguments, more)
    return call if type(call["function"]["arguments"]) is str else None


def result_of(call_id: Any, more: dict[str, Any]) -> dict[str, Any] | None:
    """The message of a tool's result; *more* holds its content."""
    if not more.keys().isdisjoint(("role", "tool_call_id")):
        return None
    return {"role": "tool", **({} if call_id is None else {"tool_call_id": call_id}), **more}
