"""Which functions the nodes are that LangGraph looks up in a cache: it tells the cache no more than
their names, and nodes of different graphs may share these."""

import os
import sys
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from llm_cache_mem.keys import digest
from llm_cache_mem.keys.callables import Identity

__all__ = ["function_mark", "functions_looked_up"]

_FARTHEST: Final = 4
_PLAIN: Final = (str, bytes, int, float, type(None))
_tokens: "WeakKeyDictionary[Any, str]" = WeakKeyDictionary()


def functions_looked_up() -> dict[tuple[Any, str], Any]:
    """The functions of the nodes whose writes are being looked up, by their full keys; none where
    the caller is not LangGraph's loop as it is known here."""
    frame = sys._getframe(1).f_back
    for _ in range(_FARTHEST):
        if frame is None:
            break
        tasks = getattr(frame.f_locals.get("self"), "tasks", None)
        if isinstance(tasks, Mapping):
            return dict(filter(None, map(_looked_up, tasks.values())))
        frame = frame.f_back
    return {}


def _looked_up(task: Any) -> tuple[tuple[Any, str], Any] | None:
    key = getattr(task, "cache_key", None)
    first = next(iter(getattr(getattr(task, "proc", None), "steps", ())), None)
    function = getattr(first, "func", None) or getattr(first, "afunc", None)
    return None if key is None or function is None else ((key.ns, key.key), function)


def function_mark(function: Any, *, named: bool) -> str:
    """The part of *function* in the key of its node: a digest of its code, and of the strings
    and numbers outside of it that it reads.

    Where it closes over other objects, or is one without a wire form, it is in a graph that is
    *named* its code alone; else a mark of this very function in this process.
    """
    if not named and _closes_over_objects(function):
        return _token(function)
    try:
        return digest.digest(None, Identity(function, "").params())
    except Exception:  # noqa: BLE001  # no wire form, or an unforeseen callable
        return "" if named else _token(function)


def _closes_over_objects(function: Any) -> bool:
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    if code is None:
        return False
    return any(
        not isinstance(_content(cell), _PLAIN)
        for name, cell in zip(code.co_freevars, cells, strict=True)
        if name != "__class__"
    )


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is still empty
        return None


def _token(function: Any) -> str:
    try:
        return _tokens.setdefault(function, os.urandom(16).hex())
    except TypeError:  # it cannot be remembered: no result of it is found again
        return os.urandom(16).hex()
