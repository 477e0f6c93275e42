"""A response with its usage set to zero: what a hit costs, for code that sums usage."""

import re
from typing import Any, Final

from llama_index.core.bridge.pydantic import BaseModel

__all__ = ["zero_usage"]

_USAGE: Final = re.compile(
    r"(?!max_)\w*(usage|usage_?metadata|_tokens|token_?counts?|eval_count)\w*", re.IGNORECASE
)
"""Names of fields in which providers and LlamaIndex report usage; ``max_tokens`` is none."""


def zero_usage(response: Any) -> Any:
    """Return *response*, a ChatResponse or a CompletionResponse of this caller's own, after setting
    the tokens to 0 that it reports in ``raw`` and beside it."""
    response.raw = _zeroed(response.raw)
    _zeroed(response.additional_kwargs)
    message = getattr(response, "message", None)
    if message is not None:
        _zeroed(message.additional_kwargs)
    return response


def _zeroed(value: Any, *, inside: bool = False) -> Any:
    """*value* with every number of its usage as 0; *inside* it, with every number. Objects that can
    be changed are."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return 0 if inside else value
    if isinstance(value, dict):
        _zero_items(value, inside)
    elif type(value) is list:
        value[:] = [_zeroed(item, inside=inside) for item in value]
    elif type(value) is tuple:
        return tuple(_zeroed(item, inside=inside) for item in value)
    elif isinstance(value, BaseModel) or hasattr(type(value), "__dataclass_fields__"):
        for attribute in ("__dict__", "__pydantic_extra__"):
            _zero_items(getattr(value, attribute, None) or {}, inside)
    return value


def _zero_items(items: dict[Any, Any], inside: bool) -> None:
    for name, item in items.items():
        if item is not None and type(item) is not str:
            items[name] = _zeroed(item, inside=inside or _is_usage(name))


def _is_usage(name: Any) -> bool:
    return isinstance(name, str) and _USAGE.fullmatch(name) is not None
