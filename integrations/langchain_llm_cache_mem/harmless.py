"""A fault of the cache costs its help and nothing else: the model call goes on as if there were
none."""

from types import TracebackType

from llm_cache_mem import (
    CacheMissError,
    LLMCache,
    RequestNotCacheable,
    StoreError,
    ValueNotCacheable,
)

__all__ = ["Harmless"]


class Harmless:
    """A with-block that ends where the cache fails; counted as skipped by reason, and logged the
    first time for each.

    Errors pass where somebody asked for them: all in mode ``replay``, in which no model may be
    called, and StoreError (``strict=True``).
    *quiet* leaves uncounted what the lookup before has counted.
    """

    def __init__(self, cache: LLMCache, *, quiet: bool = False) -> None:
        self._cache = cache
        self._quiet = quiet

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if (
            not isinstance(exc, Exception)
            or isinstance(exc, (CacheMissError, StoreError))
            or self._cache.is_replay
        ):
            return False
        if isinstance(exc, RequestNotCacheable):
            if not self._quiet:
                self._cache.bypass("request", "a LangChain call goes uncached: %s", exc)
        elif isinstance(exc, ValueNotCacheable):
            self._cache.bypass("value", "an answer was not stored: %s", exc)
        else:
            self._cache.bypass(
                "fault", "a LangChain call goes uncached: the cache raised %s", type(exc).__name__
            )
        return True
