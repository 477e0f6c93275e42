"""What a Python object counts as on the wire, one level deep, and the refusal of those that count
as nothing."""

import sys
from binascii import b2a_base64
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from hashlib import sha256
from typing import Any

from llm_cache_mem.errors import RequestNotCacheable

__all__ = ["Refused", "is_absent", "step", "tagged", "unwrap"]

_SDKS = frozenset(
    {"anthropic", "cerebras", "groq", "openai", "together"}
)  # one generator wrote them, with one marker idiom


_SENT_BY = _SDKS | {
    "cohere",
    "google",
    "langchain",
    "langchain_anthropic",
    "langchain_core",
    "langchain_openai",
    "llama_index",
    "mcp",
    "mistralai",
    "ollama",
    "pydantic_ai",
}


class Refused(Exception):
    """Why a part has no canonical form; the callers add, from the inside out, where it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[Any] = []

    def at(self, step: Any) -> "Refused":
        self.steps.append(step)
        return self

    def error(self, root: str = "") -> RequestNotCacheable:
        path = root + "".join(map(step, reversed(self.steps)))
        return RequestNotCacheable(path.lstrip(".") or "request", self.reason)


def step(key: Any) -> str:
    """A piece of a path. A key that does not look like a field's name may be private data, so it
    stays out."""
    if type(key) is int:
        return f"[{key}]"
    named = type(key) is str and key.isascii() and key.isidentifier() and len(key) <= 40
    return f".{key}" if named else "[…]"


def unwrap(value: Any) -> Any:
    """*value* as a dict, a list or an exact scalar; *value* itself where it is one already, or
    unknown; raises Refused.

    Models of SDKs and frameworks count as what they send, so fields that were never set are left
    out; those of a program count with all their state, for the program may use any of it.
    """
    kind = type(value)
    for base, exact in ((str, str.__str__), (int, int.__int__), (float, float.__float__)):
        if issubclass(kind, base):
            return value if kind is base or kind is bool else exact(value)
    if issubclass(kind, (list, tuple, deque)):
        return value if kind is list else _ask(value, partial(list, value))
    if issubclass(kind, Mapping):
        return value if kind is dict else _ask(value, lambda: dict(value.items()))
    if issubclass(kind, Enum):
        return _ask(value, lambda: value.value)
    if issubclass(kind, _model_class()) and not is_sdk_type(kind):
        return _ask(value, lambda: model_state(value))
    if issubclass(kind, _model_class()):
        hidden = getattr(
            kind, "__api_exclude__", None
        )  # anthropic: fields that it adds to answers and never sends back
        return _ask(
            value,
            lambda: value.model_dump(
                mode="json", exclude_unset=True, by_alias=True, exclude=hidden, warnings=False
            ),
        )
    if hasattr(kind, "__dataclass_fields__"):
        from dataclasses import fields

        return _ask(
            value, lambda: {field.name: getattr(value, field.name) for field in fields(value)}
        )
    return value


def is_sdk_type(kind: type) -> bool:
    """Whether *kind* is a type of an SDK or a framework, which counts as what is sent of it."""
    return kind.__module__.partition(".")[0] in _SENT_BY


def model_state(value: Any) -> dict[str, Any]:
    """Every field of a pydantic model, excluded and extra ones and private attributes included."""
    fields = {
        field.serialization_alias or name: getattr(value, name)
        for name, field in type(value).__pydantic_fields__.items()
    }
    private = value.__pydantic_private__
    return fields | (value.__pydantic_extra__ or {}) | ({"$private": private} if private else {})


def is_absent(kind: type) -> bool:
    """Whether *kind* is the SDKs' marker for an argument that was not given: they do not send the
    key that holds one."""
    return kind.__name__ in ("NotGiven", "Omit") and kind.__module__.partition(".")[0] in _SDKS


def tagged(value: Any, kind: type) -> list[Any] | None:
    """The name and the text of a value that JSON has no form for but that has one exact text; None
    for any other."""
    if issubclass(kind, (bytes, bytearray, memoryview)):
        return ["bytes", b2a_base64(bytes(value), newline=False).decode()]
    if issubclass(kind, (_loaded("pydantic", "SecretStr"), _loaded("pydantic", "SecretBytes"))):
        return ["secret", _ask(value, partial(_secret_digest, value))]
    for module, name, text in _TEXTUAL:
        if issubclass(kind, _loaded(module, name)):
            return [name, _ask(value, partial(text, value))]
    if issubclass(kind, type) and issubclass(value, _model_class()):  # response_format=MyModel
        return ["schema", value.__name__, _ask(value, value.model_json_schema)]
    return None


def _secret_digest(value: Any) -> str:
    secret = value.get_secret_value()
    return sha256(secret if isinstance(secret, bytes) else secret.encode()).hexdigest()


def _isoformat(value: Any) -> str:
    return str(value.isoformat())


def _decimal_text(value: Any) -> str:
    if not value.is_finite():
        raise ValueError
    return str(value)


_TEXTUAL: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("datetime", "datetime", _isoformat),  # before date, which it derives from
    ("datetime", "date", _isoformat),
    ("datetime", "time", _isoformat),
    ("decimal", "Decimal", _decimal_text),
    ("uuid", "UUID", str),
)


def _ask(value: Any, read: Callable[[], Any]) -> Any:
    """Run the code of a foreign type. What it raises may quote the content, so only the type's name
    is told."""
    try:
        return read()
    except Exception:  # noqa: BLE001 - a cache must not break the call over it
        raise Refused(f"this {type(value).__name__} could not be read") from None


def _loaded(module: str, name: str) -> type | tuple[()]:
    """A class if its module is loaded: before, there are no objects of it."""
    found = getattr(sys.modules.get(module), name, ())
    return found if isinstance(found, type) else ()


def _model_class() -> type | tuple[()]:
    return _loaded("pydantic.main", "BaseModel")
