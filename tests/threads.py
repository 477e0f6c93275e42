"""Threads that tests start and wait for."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

WAIT_SECONDS = 120.0
"""Seconds that a test waits for what is to happen at once: the machine may be busy with others."""


def start(call: Callable[[], Any]) -> "Future[Any]":
    """Run *call* in a thread of its own; unlike a pool, a Future here also takes a
    KeyboardInterrupt."""
    future: Future[Any] = Future()

    def body() -> None:
        try:
            future.set_result(call())
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=body, daemon=True).start()
    return future


def until(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    """Let other threads run until *condition* holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {seconds:g} seconds"
        time.sleep(0.0005)
