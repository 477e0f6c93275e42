"""What takes no timeout of its own, such as the look-up of a name, in a thread that is left behind
when it takes too long."""

import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["in_time", "is_name"]

R = TypeVar("R")


def is_name(host: str) -> bool:
    """Whether *host* must be looked up: anything but the digits of an address."""
    return not (":" in host or host.replace(".", "").isdigit())


def in_time(
    work: Callable[[], R], seconds: float, *, late: Callable[[], object] = lambda: None
) -> R:
    """What ``work()`` returns or raises. TimeoutError after *seconds*; *late* is called when it
    ends after all."""
    results: list[R] = []
    failures: list[BaseException] = []
    lock, done = threading.Lock(), threading.Event()
    abandoned = False

    def run() -> None:
        try:
            results.append(work())
        except BaseException as exc:  # noqa: BLE001  # raised where it is waited for
            failures.append(exc)
        with lock:
            done.set()
        if abandoned:
            late()

    thread = threading.Thread(target=run, name="llm-cache-mem connecting", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # too many, or the interpreter is about to end
        return work()
    try:
        done.wait(seconds)
    finally:
        with lock:
            abandoned = not done.is_set()
    if abandoned:
        raise TimeoutError("timed out")
    if failures:
        raise failures[0]
    return results[0]
