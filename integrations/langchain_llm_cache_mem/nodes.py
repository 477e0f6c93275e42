"""Which functions the nodes are that LangGraph looks up in a cache: it tells the cache no more than
their names, and nodes of different graphs may share these."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from typing import Any, Final, NamedTuple
from weakref import ref

from langchain_core.messages import BaseMessage

from llm_cache_mem.keys import digest
from llm_cache_mem.keys.callables import Identity, name_of

__all__ = ["Node", "function_mark", "message_ids", "nodes_looked_up"]

_FARTHEST: Final = 4
_DEEPEST: Final = 4
_PLAIN: Final = (str, bytes, int, float, type(None))
_tokens: dict[int, tuple["ref[Any]", str]] = {}


class Node(NamedTuple):
    """A node whose writes are looked up: its *functions*, and what else it runs; *resumed*: whether
    they may depend on the answer to an interrupt, which is not in their key; *message_ids*: those
    of its input."""

    functions: tuple[Any, ...] = ()
    resumed: bool = False
    message_ids: frozenset[str] = frozenset()


def nodes_looked_up() -> dict[tuple[Any, str], Node]:
    """The nodes whose writes are being looked up, by their full keys; none where the caller is not
    LangGraph's loop as it is known here."""
    frame = sys._getframe(1).f_back
    for _ in range(_FARTHEST):
        if frame is None:
            break
        tasks = getattr(frame.f_locals.get("self"), "tasks", None)
        if isinstance(tasks, Mapping):
            return dict(filter(None, map(_looked_up, tasks.values())))
        frame = frame.f_back
    return {}


def _looked_up(task: Any) -> tuple[tuple[Any, str], Node] | None:
    key = getattr(task, "cache_key", None)
    if key is None:
        return None
    steps = getattr(getattr(task, "proc", None), "steps", ())
    ids = frozenset(message_ids(getattr(task, "input", None)))
    return (key.ns, key.key), Node(tuple(_functions(steps)), _is_resumed(task), ids)


def message_ids(value: Any, depth: int = _DEEPEST) -> Iterator[str]:
    """The ids of the messages in *value*, a state or a part of it."""
    if isinstance(value, BaseMessage):
        if value.id is not None:
            yield value.id
    elif depth:
        parts: Iterable[Any] = ()
        if isinstance(value, Mapping):
            parts = value.values()
        elif isinstance(value, (list, tuple)):
            parts = value
        elif hasattr(type(value), "__pydantic_fields__") or is_dataclass(value):
            parts = getattr(value, "__dict__", {}).values()
        for part in parts:
            yield from message_ids(part, depth - 1)


def _is_resumed(task: Any) -> bool:
    """Whether *task* is a node in the step that a run resumes, which may hand the answer to an
    interrupt on to a subgraph. Of a task in a function, its writes tell."""
    settings = (getattr(task, "config", None) or {}).get("configurable", {})
    is_in_function = isinstance(next(iter(getattr(task, "path", ())[1:]), None), tuple)
    return bool(settings.get("__pregel_resuming")) and not is_in_function


def _functions(steps: Sequence[Any]) -> Iterator[Any]:
    """What a node runs in turn: functions, and other runnables as they are; not that it writes."""
    for step in steps:
        if type(step).__name__ == "ChannelWrite":
            continue
        own = getattr(step, "__dict__", {})  # a binding has the attributes of what it binds
        function, other = own.get("func"), own.get("afunc")
        found = [each for each in (function, other) if each is not None]
        if function is not None and isinstance(other, partial) and function in other.args:
            found.remove(other)  # it runs the function in a thread
        yield from found or [step]


def function_mark(functions: Sequence[Any], *, named: bool) -> str:
    """The part of *functions* in the key of their node: digests of their code and defaults, and of
    the strings and numbers outside of them that they read.

    A function that closes over other objects, or what is none, is in a graph that is *named* its
    code alone; else a mark of this very object in this process.
    """
    return " ".join(_mark(function, named=named) for function in functions)


def _mark(function: Any, *, named: bool) -> str:
    if not named and _has_objects(function):
        return _token(function)
    try:
        plain = {k: v for k, v in _defaults(function).items() if isinstance(v, _PLAIN)}
        parts = {**Identity(function, "").params(), "defaults": plain}
        return digest.digest(None, parts)
    except Exception:  # noqa: BLE001  # no wire form, or an unforeseen callable
        return "" if named else _token(function)


def _has_objects(function: Any) -> bool:
    """Whether *function* closes over objects, or has them as defaults."""
    function = _innermost(function)
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    if code is None:
        return False
    outside = [
        _content(cell)
        for name, cell in zip(code.co_freevars, cells, strict=True)
        if name != "__class__"
    ]
    return not all(isinstance(each, _PLAIN) for each in (*outside, *_defaults(function).values()))


def _innermost(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    return function


def _defaults(function: Any) -> dict[str, Any]:
    function = _innermost(function)
    given = enumerate(getattr(function, "__defaults__", None) or ())
    named = getattr(function, "__kwdefaults__", None) or {}
    return {**{f"{place}": value for place, value in given}, **named}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is still empty
        return None


def _token(function: Any) -> str:
    """A mark of *function*, or of a method and its object, while that exists."""
    owner = getattr(function, "__self__", function)
    known = _tokens.get(id(owner))
    if known is None or known[0]() is not owner:
        try:
            known = ref(owner, partial(_forget, id(owner))), os.urandom(16).hex()
        except TypeError:  # it cannot be remembered: no result of it is found again
            return os.urandom(16).hex()
        _tokens[id(owner)] = known
    return known[1] if owner is function else f"{known[1]} {name_of(function)}"


def _forget(number: int, _: Any) -> None:
    _tokens.pop(number, None)
