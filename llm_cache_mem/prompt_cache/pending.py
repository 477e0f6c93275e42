"""PendingCalls: calls of a framework that have begun and not yet ended."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from threading import Lock
from time import monotonic
from typing import Any

__all__ = ["PendingCalls"]

_MOST = 4096


class PendingCalls:
    """Requests of pending calls, and when they began. Thread-safe; the oldest calls that never end
    are forgotten."""

    def __init__(self) -> None:
        self._calls: OrderedDict[Hashable, tuple[Mapping[str, Any], float]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._calls)

    def begin(self, call: Hashable, request: Mapping[str, Any]) -> None:
        with self._lock:
            self._calls[call] = request, monotonic()
            if len(self._calls) > _MOST:
                self._calls.popitem(last=False)

    def end(self, call: Hashable) -> tuple[Mapping[str, Any], float] | None:
        """The request of *call* and the seconds it took; None if it never began."""
        with self._lock:
            request, began = self._calls.pop(call, (None, 0.0))
        return None if request is None else (request, monotonic() - began)
