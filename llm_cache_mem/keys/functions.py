"""Key functions: what of a request decides whether it is the same one again.

A key function takes ``(messages, **params)`` and returns what is to be hashed instead. The
ready-made ones never change what they are given, and chain by ``compose`` or ``then=``: each hands
what it leaves to the next, as in ``masking(r"\\d{4}-\\d\\d-\\d\\d", then=last_turn)``.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from llm_cache_mem.keys.canonical import MAX_DEPTH
from llm_cache_mem.keys.wire_form import Refused, unwrap

__all__ = [
    "SYSTEM_PARAMS",
    "SYSTEM_ROLES",
    "KeyFunction",
    "compose",
    "ignoring",
    "is_from_user",
    "last_turn",
    "masking",
    "simpler",
]

KeyFunction = Callable[..., Any]

SYSTEM_ROLES = ("system", "developer")
SYSTEM_PARAMS = ("system", "instructions", "system_instruction", "systemInstruction")
"""Where the APIs that do not take it as a message have the system prompt."""
_IN_MESSAGES = "messages[]."


def _whole(messages: Any, **params: Any) -> Any:
    return {"messages": messages, **params}


def last_turn(messages: Any, **params: Any) -> Any:
    """System prompts, the last thing the user wrote with all that follows it, and all params;
    earlier turns do not matter.

    What follows are a tool's calls and results within the turn: without them the second step of an
    agent would get the answer of its first.
    """
    messages = simpler(messages)
    if type(messages) is not list:
        return {"last_turn": _whole(messages, **params)}
    start = max((i for i, message in enumerate(messages) if is_from_user(message)), default=0)
    kept = [
        message
        for i, message in enumerate(messages)
        if i >= start or _field(message, "role") in SYSTEM_ROLES
    ]
    return {"last_turn": _whole(kept, **params)}


def compose(*functions: KeyFunction) -> KeyFunction:
    """A key function that applies *functions* one after the other, each to the request that the one
    before it leaves.

    All but the last have to be ready-made ones, or return ``{"messages": ..., **params}`` as those
    do.

    Example:
        >>> cache = LLMCache(key_fn=compose(stable_ids, ignoring("user")))
    """
    if not functions:
        raise TypeError("compose() takes key functions: compose(stable_ids, folding)")
    for function in functions:
        _require_function(function, "compose()")
    first, *others = functions

    def composed(messages: Any, **params: Any) -> Any:
        made = first(messages, **params)
        for function in others:
            made = _applied(function, made)
        return made

    return composed


def _applied(function: KeyFunction, made: Any) -> Any:
    """What *function* makes of a request that a key function has *made*, which may lie under the
    name of that one."""
    if type(made) is dict and "messages" in made:
        return function(**made)
    if type(made) is dict and len(made) == 1:
        name, inner = next(iter(made.items()))
        return {name: _applied(function, inner)}
    raise TypeError("only the last function of compose() may return anything but a request")


def is_from_user(message: Any) -> bool:
    """Written by the user: in the Anthropic format a tool's results come under the same role."""
    content = _field(message, "content")
    blocks = content if isinstance(content, (list, tuple)) else ()
    only_results = bool(blocks) and all(_field(block, "type") == "tool_result" for block in blocks)
    return (isinstance(message, str) or _field(message, "role") == "user") and not only_results


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def simpler(value: Any) -> Any:
    """As a dict, list or scalar if it can be; what cannot is refused later, where the path to it is
    known."""
    try:
        return unwrap(value)
    except Refused:
        return value


def ignoring(*names: str, then: KeyFunction = _whole) -> KeyFunction:
    """A key function that leaves out the params of these *names*; ``"messages[].name"`` leaves out
    a field of every message."""
    if not names or not all(
        isinstance(name, str) and name and name != "messages" for name in names
    ):
        raise TypeError(
            'ignoring() takes names of params, or of fields of messages: ignoring("user",'
            ' "messages[].id")'
        )
    _require_function(then)
    fields = frozenset(
        name.removeprefix(_IN_MESSAGES) for name in names if name.startswith(_IN_MESSAGES)
    )

    def without(message: Any) -> Any:
        plain = simpler(message)
        return (
            {key: value for key, value in plain.items() if key not in fields}
            if type(plain) is dict
            else message
        )

    def key_without(messages: Any, **params: Any) -> Any:
        left = {name: value for name, value in params.items() if name not in names}
        if fields and type(listed := simpler(messages)) is list:
            messages = [without(message) for message in listed]
        return then(messages, **left)

    return key_without


def masking(
    pattern: str | re.Pattern[str], replacement: str = "…", *, then: KeyFunction = _whole
) -> KeyFunction:
    """A key function that replaces what *pattern* matches, in every string of the messages and of
    the system prompt.

    For what changes from call to call and not the answer: a date in a system prompt, a request id.
    *replacement* is literal.
    """
    if not isinstance(pattern, (str, re.Pattern)) or (
        isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, bytes)
    ):
        raise TypeError("masking() takes a regular expression for str: a str or re.compile(...)")
    if not isinstance(replacement, str):
        raise TypeError(f"replacement must be a str, not {type(replacement).__name__}")
    _require_function(then)
    try:
        substitute = re.compile(pattern).sub
    except re.error as exc:
        raise ValueError(f"masking() got a bad regular expression: {exc}") from exc

    def masked(value: Any, depth: int = MAX_DEPTH) -> Any:
        value = simpler(value)
        if type(value) is str:
            return substitute(lambda _: replacement, value)
        if type(value) is list and depth:
            return [masked(item, depth - 1) for item in value]
        if type(value) is dict and depth:
            return {key: masked(item, depth - 1) for key, item in value.items()}
        return value

    def key_masked(messages: Any, **params: Any) -> Any:
        texts = {name: masked(params[name]) for name in SYSTEM_PARAMS if name in params}
        return then(masked(messages), **{**params, **texts})

    return key_masked


def _require_function(function: object, what: str = "then=") -> None:
    if not callable(function):
        raise TypeError(f"{what} takes a key function, not {type(function).__name__}")
