"""A response with its usage set to zero: what a hit cost, for listeners that add up what they
see."""

import re
from copy import copy
from typing import Any, Final

from llama_index.core.bridge.pydantic import BaseModel

__all__ = ["without_usage"]

_USAGE: Final = re.compile(
    r"(?!max_)\w*(usage|usage_?metadata|_tokens|token_?counts?|eval_count)\w*", re.IGNORECASE
)
"""Names of fields in which providers and LlamaIndex report usage; ``max_tokens`` is none."""


def without_usage(response: Any) -> Any:
    """A copy of *response*, a ChatResponse or a CompletionResponse, that reports no tokens in
    ``raw`` nor beside it; all else is the same."""
    changes = {
        "raw": _zeroed(response.raw),
        "additional_kwargs": _zeroed(response.additional_kwargs),
    }
    message = getattr(response, "message", None)
    if message is not None and message.additional_kwargs:
        beside = _zeroed(message.additional_kwargs)
        changes["message"] = message.model_copy(update={"additional_kwargs": beside})
    return response.model_copy(update=changes)


def _zeroed(value: Any, *, inside: bool = False) -> Any:
    """*value* with every number of its usage as 0; *inside* it, with every number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return 0 if inside else value
    if isinstance(value, dict):
        return {
            name: _zeroed(item, inside=inside or _is_usage(name)) for name, item in value.items()
        }
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(_zeroed(item, inside=inside) for item in value)
    if not isinstance(value, BaseModel) and not hasattr(type(value), "__dataclass_fields__"):
        return value
    made = copy(value)
    for attribute in ("__dict__", "__pydantic_extra__"):
        holder = getattr(made, attribute, None) or {}
        for name, item in holder.items():
            holder[name] = _zeroed(item, inside=inside or _is_usage(name))
    return made


def _is_usage(name: Any) -> bool:
    return isinstance(name, str) and _USAGE.fullmatch(name) is not None
