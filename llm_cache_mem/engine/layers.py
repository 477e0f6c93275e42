"""Layers above one another on one cache: which of them has a call in hand.

A layer that has looked a request up, or has let it pass, says so while the layers under it run, so
that none of them looks it up, calls or counts again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["has_in_hand", "in_hand"]

_engines: "ContextVar[tuple[object, ...]]" = ContextVar("llm_cache_mem.layers", default=())


def has_in_hand(engine: object) -> bool:
    """Whether a layer on *engine* has the request in hand that this context sends."""
    engines = _engines.get()
    return bool(engines) and any(held is engine for held in engines)


@contextmanager
def in_hand(engine: object) -> Iterator[None]:
    """Let no layer underneath answer from *engine* what this block sends."""
    token = _engines.set((*_engines.get(), engine))
    try:
        yield
    finally:
        _engines.reset(token)
