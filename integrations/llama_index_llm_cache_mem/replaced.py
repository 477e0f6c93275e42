"""Methods of LlamaIndex's classes that were replaced while a process-wide cache is on."""

import weakref
from collections.abc import Iterator
from typing import Any

__all__ = ["Replaced", "all_subclasses", "put_back"]

Replaced = list[tuple["weakref.ref[type]", str, Any, Any]]
"""The class, the name of its method, the original, and ours."""


def all_subclasses(cls: Any) -> Iterator[type]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from all_subclasses(subclass)


def put_back(replaced: Replaced) -> None:
    """Put the originals back, last first, except where other code has replaced ours since; and
    empty the list."""
    for reference, name, original, ours in reversed(replaced):
        cls = reference()
        if cls is not None and cls.__dict__.get(name) is ours:
            setattr(cls, name, original)
    replaced.clear()
