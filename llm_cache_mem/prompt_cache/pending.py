"""Calls that a framework has told the begin of and not yet the end of."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from threading import Lock
from time import monotonic
from typing import Any

__all__ = ["UnderWay"]

_MOST = 4096


class UnderWay:
    """For one watcher of calls. Threads may share it; of calls that never end, it forgets the
    oldest."""

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
        """Its request and the seconds it took; None if its begin was never told."""
        with self._lock:
            request, began = self._calls.pop(call, (None, 0.0))
        return None if request is None else (request, monotonic() - began)
