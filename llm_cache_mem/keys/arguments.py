"""What the arguments of a function are, for its key: everything, classes and all state included.

A function has no wire. Two arguments that an SDK would send as the same JSON may still be different
to it, so a tuple is not a list here, and an object is its class and every field, set or not.
"""

import json
import sys
from collections import OrderedDict, deque
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, Final

from llm_cache_mem._util.modules import module_name
from llm_cache_mem.keys.wire_form import is_sdk_type, model_state

__all__ = ["EXACT", "exact", "exact_request", "exact_value"]

EXACT: Final = "cached.exact"
"""The param that tells a request of exact arguments from plain JSON that looks like one."""

_PLAIN = frozenset({str, int, float, bool, type(None)})
_BUILTINS = (str, int, float, list, dict, bytes, bytearray, deque)
_MAX_DEPTH = 128


def exact_request(messages: Any, params: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """The arguments of a program's own function as they are hashed: plain JSON as it is."""
    if _is_plain(messages) and all(map(_is_plain, params.values())):
        return messages, params
    named = {name: exact(value) for name, value in params.items()}
    return exact(messages), {**named, EXACT: True}


def exact_value(value: Any) -> Any:
    """The same for what a key function made of them."""
    return value if _is_plain(value) else {EXACT: exact(value)}


def _is_plain(value: Any, depth: int = _MAX_DEPTH) -> bool:
    """Whether *value* is the only one of its JSON: ``exact`` leaves all of it as it is, keys of
    schemas such as ``$ref`` aside."""
    kind = type(value)
    if kind in _PLAIN or depth <= 0:
        return True
    if kind is list:
        return all(_is_plain(item, depth - 1) for item in value)
    if kind is dict:
        return all(type(key) is str and _is_plain(value[key], depth - 1) for key in value)
    return exact(value, depth) is value


def exact(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """*value* as JSON that tells it from every other value, as far as it is made of known types.

    Objects of unknown types stay as they are, for the canonical form to refuse; so do the message
    and request types of SDKs and frameworks, which count as what is sent.
    """
    kind = type(value)
    if kind in _PLAIN or depth <= 0:
        return value
    if kind is list:
        return [exact(item, depth - 1) for item in value]
    if kind is dict:
        return _dict(value, depth)
    if isinstance(value, Enum):
        return {"$enum": [_name(kind), value.name]}
    if isinstance(value, tuple):
        names = getattr(kind, "_fields", None)
        if names is not None:
            return _object(kind, dict(zip(names, value, strict=True)), depth)
        return {"$tuple": [exact(item, depth - 1) for item in value]}
    if is_sdk_type(kind) or isinstance(value, type):
        return value
    model = getattr(sys.modules.get("pydantic.main"), "BaseModel", ())
    if isinstance(value, model):
        return _object(kind, model_state(value), depth)
    if hasattr(kind, "__dataclass_fields__"):
        fields = {name: getattr(value, name, None) for name in kind.__dataclass_fields__}
        return _object(kind, fields | vars(value) if hasattr(value, "__dict__") else fields, depth)
    if isinstance(value, _BUILTINS) and kind is not bytes:
        return _subclass(kind, value, depth)
    return value


def _dict(value: dict[Any, Any], depth: int) -> Any:
    if all(type(key) is str and not key.startswith("$") for key in value):
        return {key: exact(item, depth - 1) for key, item in value.items()}
    pairs = [[exact(key, depth - 1), exact(item, depth - 1)] for key, item in value.items()]
    with suppress(TypeError):  # a key without a JSON form, which the canonical form refuses
        pairs.sort(key=lambda pair: json.dumps(pair[0], sort_keys=True))
    return {"$dict": pairs}


def _subclass(kind: type, value: Any, depth: int) -> Any:
    """An object of a class made from a builtin: the class, what it holds, and its attributes."""
    if isinstance(value, OrderedDict):
        content: Any = list(value.items())
    elif isinstance(value, deque):
        content = list(value)
    elif isinstance(value, bytearray):
        content = bytes(value)
    else:
        base: Any = next(base for base in _BUILTINS if isinstance(value, base))
        content = base(value)
    return _object(kind, {**getattr(value, "__dict__", {}), "": content}, depth)


def _object(kind: type, state: dict[str, Any], depth: int) -> Any:
    return {
        "$object": [_name(kind), {name: exact(item, depth - 1) for name, item in state.items()}]
    }


def _name(kind: type) -> str:
    """The class by its name; a program's main module has one name in all of its processes."""
    return f"{module_name(kind)}:{kind.__qualname__}"
