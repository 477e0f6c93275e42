"""The clock that everything uses unless it is given another."""

import time

__all__ = ["now"]


def now() -> float:
    """Unix seconds, of ``time.time`` as it is at the call: a test may have replaced it."""
    return time.time()
