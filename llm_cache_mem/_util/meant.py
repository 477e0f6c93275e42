"""Keyword arguments that nothing takes: say which one was probably meant."""

import functools
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

__all__ = ["meant", "says_what_is_meant"]

P = ParamSpec("P")
T = TypeVar("T")

_ENOUGH = 0.6
_SYNONYMS: dict[str, str] = dict.fromkeys(("file", "path", "store", "url"), "backend")
"""Names that other libraries have for an argument, which no likeness finds."""


def says_what_is_meant(fn: Callable[P, T]) -> Callable[P, T]:
    """Decorate *fn* so that the TypeError for an unknown keyword names the nearest one."""

    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return fn(*args, **kwargs)
        except TypeError:
            import inspect  # slow to import, and needed only here

            known = inspect.signature(fn).parameters
            wrong = next((name for name in kwargs if name not in known), None)
            if wrong is None or any(one.kind is one.VAR_KEYWORD for one in known.values()):
                raise
            owner = fn.__qualname__.removesuffix(".__init__")
            other = _SYNONYMS.get(wrong)
            near = other if other in known else meant(wrong, known)
            hint = "" if near is None else f": did you mean {near}?"
            text = f"{owner}() got an unexpected keyword argument {wrong!r}{hint}"
            raise TypeError(text) from None

    return call


def meant(name: str, known: Iterable[str]) -> str | None:
    """The one of *known* that *name* is nearest to, as a whole or in one of its words; None if none
    is near."""
    from difflib import SequenceMatcher  # needed only by those who misspell

    def likeness(other: str) -> float:
        return max(SequenceMatcher(None, name, part).ratio() for part in (other, *other.split("_")))

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) >= _ENOUGH else None
