"""The shape of a class: a digest of its fields and their types, by which an instance stored before
the class was edited is told from one stored since."""

from enum import Enum
from hashlib import sha256
from types import UnionType
from typing import Any, Union, get_args, get_origin

__all__ = ["digest_of"]


def digest_of(cls: Any) -> str:
    """The digest of *cls*, a pydantic model, dataclass, named tuple or enum: the same in every
    process and for every class with the same fields. Classes that a field names count by name."""
    if issubclass(cls, Enum):
        parts = [(name, repr(member._value_)) for name, member in cls.__members__.items()]
    elif hasattr(cls, "__pydantic_fields__"):
        parts = [
            (name, _text(field.annotation), *map(_text, field.metadata))
            for name, field in cls.__pydantic_fields__.items()
        ]
    elif hasattr(cls, "__dataclass_fields__"):
        parts = [(name, _text(field.type)) for name, field in cls.__dataclass_fields__.items()]
    else:
        types = getattr(cls, "__annotations__", {})
        parts = [(name, _text(types.get(name))) for name in cls._fields]
    return sha256(repr(sorted(parts)).encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _text(annotation: Any) -> str:
    """*annotation* in words that do not depend on the process or on the version of Python."""
    if isinstance(annotation, str):
        return annotation
    arguments = ", ".join(map(_text, get_args(annotation)))
    if arguments:
        origin = get_origin(annotation)
        return f"{'Union' if origin in (Union, UnionType) else _text(origin)}[{arguments}]"
    if isinstance(annotation, type):
        return f"{annotation.__module__}.{annotation.__qualname__}"
    text = repr(annotation)
    return type(annotation).__qualname__ if " at 0x" in text else text
