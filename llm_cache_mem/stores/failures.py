"""What fails in a store leaves it as StoreError, whatever the library below raises, and without what that says of keys and values."""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from llm_cache_mem.errors import LLMCacheError, StoreError

__all__ = ["store_errors_only"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def store_errors_only(
    operation: str, reason: Callable[[Exception], str]
) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Make a method of a store that does *operation* raise StoreError, with the *reason* of what it raised, in place of any Exception
    that is not this library's own: client libraries raise ValueError, RecursionError, UnicodeError and more besides their own errors."""

    def decorate(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @functools.wraps(method)
        def translated(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return method(self, *args, **kwargs)
            except LLMCacheError:
                raise
            except Exception as exc:
                raise StoreError(type(self).__name__, operation, reason(exc)) from exc

        return translated

    return decorate
