"""What fails in a store leaves it as StoreError, whatever the library below raises, and without
what that says of keys and values."""

import functools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

from llm_cache_mem.errors import LLMCacheError, StoreError

__all__ = ["NotAsked", "UnexpectedReply", "async_store_errors_only", "iterate", "store_errors_only"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class NotAsked(StoreError):
    """The store, or the part of it that holds the key, was not asked: this says nothing about its
    health, so it does not count as a failure of the store."""


class UnexpectedReply(Exception):
    """The server said what cannot be the answer; the text repeats nothing of it."""


def store_errors_only(
    operation: str, reason: Callable[[Exception], str]
) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Make a method of a store that does *operation* raise StoreError, with the *reason* of what it
    raised, in place of any Exception that is not this library's own: client libraries raise
    ValueError, RecursionError, UnicodeError and more besides their own errors."""

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


def async_store_errors_only(
    operation: str, reason: Callable[[Exception], str]
) -> Callable[
    [Callable[Concatenate[S, P], Coroutine[Any, Any, R]]],
    Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
]:
    """``store_errors_only`` for a coroutine function."""

    def decorate(
        method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
    ) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
        @functools.wraps(method)
        async def translated(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return await method(self, *args, **kwargs)
            except LLMCacheError:
                raise
            except Exception as exc:
                raise StoreError(type(self).__name__, operation, reason(exc)) from exc

        return translated

    return decorate


def iterate(
    store: object, operation: str, reason: Callable[[Exception], str], found: Iterator[R]
) -> Iterator[R]:
    """What *found* yields; what fails on the way is told as ``store_errors_only`` does it."""
    following = store_errors_only(operation, reason)(lambda store: next(found, found))
    while (one := following(store)) is not found:
        yield one  # type: ignore[misc]  # only its end is *found* itself
