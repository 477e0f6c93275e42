"""Pace: a provider that says when to come back holds up the whole run, not just one call."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any, Final

__all__ = ["LONGEST_HOLD", "Pace", "retry_after"]

LONGEST_HOLD: Final = 600.0
"""Seconds. A limit that lasts longer, such as that of a day, is an error."""


class Pace:
    """When the next call of a run may begin. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._until = 0.0
        self._lock = threading.Lock()

    def hold(self, seconds: float) -> None:
        """Let no call begin for *seconds* from now on."""
        with self._lock:
            self._until = max(self._until, self._clock() + seconds)

    def seconds_left(self) -> float:
        """For how long no call may begin; 0.0 if one may now."""
        return max(0.0, self._until - self._clock())


def retry_after(exc: BaseException, now: Callable[[], float] | None = None) -> float | None:
    """The seconds after which to try again, if *exc* is a provider's 429 that names them.

    Read from the attributes that the SDKs' errors share: ``status_code``, or that of ``response``,
    and its ``headers``. None for any other error, and for a wait of more than LONGEST_HOLD.
    """
    response = getattr(exc, "response", None)
    status = getattr(exc, "status_code", None) or getattr(response, "status_code", None)
    if status != 429:
        return None
    try:
        given = getattr(response, "headers", None) or {}
        headers = {str(name).lower(): value for name, value in given.items()}
        seconds = _seconds(headers, now)
    except (AttributeError, TypeError, ValueError):
        return None
    return seconds if seconds is not None and 0 <= seconds <= LONGEST_HOLD else None


def _seconds(headers: dict[str, Any], now: Callable[[], float] | None) -> float | None:
    if "retry-after-ms" in headers:
        return float(headers["retry-after-ms"]) / 1000
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        at = datetime.now(UTC).timestamp() if now is None else now()
        return max(0.0, parsedate_to_datetime(text).timestamp() - at)
