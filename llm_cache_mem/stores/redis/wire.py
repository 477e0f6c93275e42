"""One conversation with a Redis server: a command goes out, its reply comes in within its time, and
nothing else does.

What redis-py does on top of a socket is left out for three reasons: it takes longer over a GET than
the server does; it waits for each part of a reply anew, so that one that drips in never ends; and
after a reply that nobody asked for it may read on where that one ended, and then every answer is
that to another question. RESP2, all that is needed here, has five kinds of reply.
"""

import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

__all__ = ["Garbled", "Refused", "Wire", "packed", "packed_mget"]

_BUFFER_BYTES = 128 * 1024
_MOST_BYTES = 512 * 1024 * 1024  # what a server keeps under one key at the most
_MOST_ITEMS = 1024 * 1024
_LONGEST_LINE = 64 * 1024
_DEPTH = 2  # a reply to SCAN is a list in a list

_SIMPLE, _ERROR, _INTEGER, _BULK, _LIST = b"+-:$*"

_LARGE = 64 * 1024
_BYTES_PER_SECOND = 4 * 1024 * 1024  # large commands and replies get more time, at this rate
_SECONDS_PER_REPLY = 0.002  # and so do many


class Refused(Exception):
    """The server's own *words* for why it does not do what it was asked to; *code* is the first of
    them, such as WRONGTYPE."""

    def __init__(self, words: str, code: str = "") -> None:
        super().__init__(words)
        self.code = code or words.partition(" ")[0]


class Garbled(Exception):
    """What came is no reply, or more than one."""


class Wire:
    """The socket of *connection*, an open one of redis-py's, for one caller at a time.

    The reply to a command must come in whole in *timeout* seconds, and a little longer for every
    byte that it brings and every other command that was sent with it. After any exception but
    Refused the wire is of no more use.
    """

    def __init__(self, connection: Any, timeout: float) -> None:
        self._connection = connection
        self._sock = connection._sock
        self._timeout = timeout
        self._seconds = timeout  # for all of a reply
        self._due = 0.0  # when they are over
        self._hurried = False
        self._ready = _readiness(self._sock)
        self._buffer = bytearray(
            _BUFFER_BYTES
        )  # of which the part from _at to _filled has come and is not yet read
        self._view = memoryview(self._buffer)
        self._at = self._filled = 0

    def close(self) -> None:
        with suppress(Exception):  # it is being thrown away, whatever state it is in
            self._connection.disconnect()

    @property
    def silent(self) -> bool:
        """Whether nothing has come since the last reply: neither what nobody asked for nor the end
        of the connection."""
        return not self._ready() and not (hasattr(self._sock, "pending") and self._sock.pending())

    def ask(self, command: bytes, *, replies: int = 1) -> list[Any]:
        """The *replies* to *command*, which is packed: bytes, int, None, lists of these, and
        Refused in place of a reply."""
        self._send(command, replies)
        found = [self._reply(_DEPTH) for _ in range(replies)]
        self._end()
        return found

    def ask_values(self, command: bytes, hints: Sequence[bytes | None]) -> list[Any]:
        """The values in the reply to *command*, a packed MGET of as many keys as there are *hints*:
        what each value may be.

        A value that is as its hint says is that very object. Refused if the server refuses.
        """
        self._send(command)
        self._begin_list(len(hints))
        found: list[bytes | None] = []
        is_next, filled = self._buffer.startswith, self._filled
        at, length, begin = self._at, -1, b""
        for hint in hints:
            if hint is not None:
                if len(hint) != length:
                    length = len(hint)
                    begin = b"$%d\r\n" % length
                start = at + len(begin)
                end = start + length + 2
                if end <= filled and is_next(begin, at) and is_next(hint, start):
                    found.append(hint)
                    at = end
                    continue
            self._at = at
            value = self._value()  # another, or not all here yet
            found.append(hint if value == hint else value)
            is_next, filled, at = self._buffer.startswith, self._filled, self._at
        self._at = at
        self._end()
        return found

    # -- Inside: out and in

    def _send(self, command: bytes, replies: int = 1) -> None:
        self._due = 0.0
        self._seconds = self._timeout + (replies - 1) * _SECONDS_PER_REPLY
        if self._hurried:
            self._hurried = False
            self._sock.settimeout(self._timeout)
        if len(command) > _LARGE:
            self._hurried = True
            self._sock.settimeout(self._timeout + len(command) / _BYTES_PER_SECOND)
        self._sock.sendall(command)

    def _fill(self) -> None:
        """Wait for more of the reply. TimeoutError when it does not come in time."""
        if not self._due:  # the first part, mostly the only one
            self._due = monotonic() + self._seconds
        else:
            left = self._due - monotonic()
            if left <= 0:
                raise TimeoutError
            self._hurried = True
            self._sock.settimeout(left)
        if self._filled == len(self._buffer):
            self._grow(2 * self._filled)
        count = self._sock.recv_into(self._view[self._filled :])
        if not count:
            raise ConnectionError("the server closed the connection")
        self._filled += count
        self._due += count / _BYTES_PER_SECOND

    def _grow(self, size: int) -> None:
        old, self._buffer = self._buffer, bytearray(size)
        self._buffer[: len(old)] = old
        self._view = memoryview(self._buffer)

    def _end(self) -> None:
        """All that was asked for is there: no more may be."""
        if self._at != self._filled:
            raise Garbled("more than a reply")
        self._at = self._filled = 0
        if len(self._buffer) > _BUFFER_BYTES:
            self._buffer = bytearray(_BUFFER_BYTES)
            self._view = memoryview(self._buffer)

    # -- Inside: replies

    def _line(self) -> bytes:
        """What is there up to the next end of a line."""
        at = self._at
        while (end := self._buffer.find(b"\r\n", at, self._filled)) < 0:
            if self._filled - at > _LONGEST_LINE:
                raise Garbled("a line without end")
            self._fill()
        self._at = end + 2
        return bytes(self._view[at:end])

    def _reply(self, depth: int) -> Any:
        if self._at == self._filled:
            self._fill()
        kind = self._buffer[self._at]
        if kind == _BULK:
            return self._value()
        line = self._line()
        if kind == _SIMPLE:
            return line[1:]
        if kind == _ERROR:
            return Refused(line[1:].decode("utf-8", "replace"))
        if kind == _INTEGER:
            return int(line[1:])
        count = int(line[1:]) if kind == _LIST else _MOST_ITEMS
        if not depth or not -1 <= count < _MOST_ITEMS:
            raise Garbled("no reply, or none of this protocol")
        return None if count < 0 else [self._reply(depth - 1) for _ in range(count)]

    def _begin_list(self, count: int) -> None:
        line = self._line()
        if line[:1] == b"-":
            self._end()
            raise Refused(line[1:].decode("utf-8", "replace"))
        if line != b"*%d" % count:
            raise Garbled("not the reply to this command")

    def _value(self) -> bytes | None:
        size = self._size()
        if size < 0:
            return None
        start, self._at = self._at, self._at + size + 2
        while self._filled < self._at:
            self._fill()
        return bytes(self._view[start : start + size])

    def _size(self) -> int:
        """How many bytes the value has whose turn it is, and which begins after this; -1 if there
        is none."""
        at = self._at
        end = self._buffer.find(b"\r\n", at, self._filled)
        if end < 0:
            end = at + len(self._line())
        self._at = end + 2
        size = int(self._buffer[at + 1 : end])
        if self._buffer[at] != _BULK or not -1 <= size <= _MOST_BYTES:
            raise Garbled("no value, or too large a one")
        return size


def packed(command: Sequence[bytes]) -> bytes:
    """*command* as it is sent."""
    return b"*%d\r\n%b" % (
        len(command),
        b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in command]),
    )


def packed_mget(names: Sequence[bytes]) -> bytes:
    """As ``packed`` for MGET of *names*."""
    return b"*%d\r\n$4\r\nMGET\r\n%b" % (len(names) + 1, _strings(names))


def _strings(words: Sequence[bytes]) -> bytes:
    """*words* as either side sends them; in one go where all are of one length, as digests are."""
    lengths = set(map(len, words))
    if len(lengths) != 1:
        return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
    begin = b"$%d\r\n" % lengths.pop()
    return b"%b%b\r\n" % (begin, (b"\r\n" + begin).join(words))


def _readiness(sock: Any) -> Callable[[], Any]:
    """What tells whether something can be read from *sock*, or its end."""
    if hasattr(select, "poll"):  # not on Windows; but select() there takes any socket
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return lambda: poll.poll(0)
    return lambda: select.select([sock], [], [], 0)[0]
