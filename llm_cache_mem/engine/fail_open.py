"""Fail open: a fault of the cache costs its help, and the model call goes on without it."""

import logging

from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.engine.settings import Settings
from llm_cache_mem.errors import (
    CacheMissError,
    RequestNotCacheable,
    StoreError,
    ValueNotCacheable,
)

__all__ = ["FailOpen"]

_log = logging.getLogger(__name__)


class FailOpen:
    """A ``with`` block that ends where the cache fails: counted as skipped by reason, the first of
    each logged.

    Errors that the user asked for still propagate: all of them in mode ``replay``, in which no
    model may be called, and StoreError of a cache with ``strict=True``.

    Args:
        count_requests: Whether a request without a key is counted here, and not by the lookup.
    """

    def __init__(self, ledger: Ledger, settings: Settings, *, count_requests: bool = True) -> None:
        self._ledger = ledger
        self._settings = settings
        self._count_requests = count_requests

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> bool:
        if (
            not isinstance(exc, Exception)
            or isinstance(exc, (CacheMissError, StoreError))
            or self._settings.current_mode() == "replay"
        ):
            return False
        if isinstance(exc, RequestNotCacheable):
            if self._count_requests:
                self._skip(exc.skipped_as, "a call goes uncached: %s", exc)
        elif isinstance(exc, ValueNotCacheable):
            self._skip("value", "an answer was not stored: %s", exc)
        else:
            self._skip("fault", "a call goes uncached: the cache raised %s", type(exc).__name__)
        return True

    def _skip(self, reason: str, text: str, *args: object) -> None:
        if self._ledger.skip(reason):
            _log.warning(text, *args)
