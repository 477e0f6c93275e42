"""Deadlines for what has none of its own: one exchange with a server, and the look-up of a name."""

import select
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

__all__ = ["BYTES_PER_SECOND", "DeadlineSocket", "TooMuchData", "call_within", "is_host_name"]

R = TypeVar("R")

BYTES_PER_SECOND = 4 * 1024 * 1024  # large requests and replies get more time, at this rate
_CHUNK = 64 * 1024
_SMALL = 4 * 1024
_MAX_BYTES = 1024 * 1024 * 1024  # in one exchange, unless its caller knows better


class TooMuchData(Exception):
    """The server sends more than any reply can be."""


class DeadlineSocket:
    """A connected socket whose calls must all end before the deadline of the current exchange.

    The timeout of a socket starts again with every part of a reply, so a reply that drips in would
    never end. Wraps *sock*, which may be a TLS socket, and stands in for it in a client library.
    """

    def __init__(self, sock: Any, seconds: float) -> None:
        self._sock = sock
        self._timeout = sock.gettimeout()
        self._poll: Callable[[int], Any] | None = None
        self._pending = getattr(sock, "pending", int)  # bytes that a TLS socket has decrypted, or 0
        self.begin(seconds)

    def begin(self, seconds: float, max_bytes: int = _MAX_BYTES) -> None:
        """Start an exchange that must end in *seconds*, plus a second for every 4 MiB, and in which
        the server may send *max_bytes*."""
        self._deadline = monotonic() + seconds
        self._room = max_bytes
        self._fresh = True
        if self._timeout != seconds:
            self._set_timeout(seconds)

    def is_quiet(self) -> bool:
        """Whether nothing has arrived since the last reply: neither unrequested data nor the end of
        the connection."""
        if self._pending():
            return False
        if not hasattr(select, "poll"):
            return not select.select([self._sock], [], [], 0)[0]
        if self._poll is None:
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            self._poll = poll.poll
        return not self._poll(0)

    def unblocked(self) -> Any:
        """The socket itself, which does not block any more: for an event loop, which has deadlines
        of its own. It stays open for as long as this object lives."""
        self._sock.setblocking(False)
        return self._sock

    def sendall(self, data: Any) -> None:
        if len(data) <= _SMALL:
            self._sock.sendall(data)
            return
        self._deadline += len(data) / BYTES_PER_SECOND
        rest = memoryview(data)
        while rest:  # in parts: a TLS socket would start its timeout again with every record
            self._limit()
            rest = rest[self._sock.send(rest) :]

    def recv(self, size: int) -> bytes:
        """What has arrived, up to 64 KiB whatever *size* is: both libraries keep the rest."""
        self._limit()
        data: bytes = self._sock.recv(_CHUNK)
        self._deadline += len(data) / BYTES_PER_SECOND
        self._room -= len(data)
        if self._room < 0:
            raise TooMuchData
        return data

    def close(self) -> None:
        self._sock.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def __del__(self) -> None:
        with suppress(Exception):  # a store that was never closed
            self._sock.close()

    def _limit(self) -> None:
        """Give the next call what is left of the time, unless its timeout is about that already: to
        set it is a system call."""
        if self._fresh:  # it has all of the time
            self._fresh = False
            return
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        if abs(self._timeout - left) > left / 10:
            self._set_timeout(left)

    def _set_timeout(self, seconds: float) -> None:
        self._timeout = seconds
        self._sock.settimeout(seconds)


def is_host_name(host: str) -> bool:
    """Whether *host* must be looked up: anything but the digits of an address."""
    return not (":" in host or host.replace(".", "").isdigit())


def call_within(seconds: float, work: Callable[[], R], *, late: Callable[[R], object]) -> R:
    """Return what ``work()`` returns, from a thread that is left behind after *seconds*.

    Raises what it raises, or TimeoutError; what it returns after that is given to *late*.
    """
    results: list[R] = []
    failures: list[BaseException] = []
    lock, done = threading.Lock(), threading.Lock()
    done.acquire()
    abandoned = False

    def run() -> None:
        try:
            results.append(work())
        except BaseException as exc:  # noqa: BLE001  # raised in the caller's thread
            failures.append(exc)
        with lock:
            done.release()
        if abandoned and results:
            late(results[0])

    thread = threading.Thread(target=run, name="llm-cache-mem connecting", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # too many threads, or the interpreter is shutting down
        return work()
    try:
        done.acquire(timeout=seconds)
    finally:
        with lock:
            abandoned = not (results or failures)
    if abandoned:
        raise TimeoutError("timed out")
    if failures:
        raise failures[0]
    return results[0]
