"""The repr of objects that hold prompts or answers, which belong in no log."""

from typing import TypeVar

__all__ = ["without_content"]

C = TypeVar("C", bound=type)


def without_content(cls: C) -> C:
    """Decorate a class whose repr is to say no more than its name."""
    cls.__repr__ = _name  # type: ignore[assignment]
    return cls


def _name(self: object) -> str:
    return f"{type(self).__name__}(...)"
