"""The protocol of Redis, RESP2: commands to bytes, and replies out of bytes as they arrive."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from llm_cache_mem.stores.failures import UnexpectedReply

__all__ = ["MORE", "Replies", "packed"]

MORE: Final = object()  # the rest of the next reply has not arrived

_END = b"\r\n"
_STATUS, _ERROR, _NUMBER, _STRING, _LIST = b"+-:$*"
_LONGEST_LINE = 64 * 1024
_DEEPEST = 32  # lists in lists


def packed(command: Sequence[bytes]) -> bytes:
    """The bytes of *command*."""
    words = [b"$%d\r\n%b\r\n" % (len(word), word) for word in command]
    return b"*%d\r\n%b" % (len(words), b"".join(words))


class Replies:
    """Replies, one after the other: bytes, int, None, a list of replies, or what *refusal* makes of
    the text of an error.

    UnexpectedReply or ValueError for bytes that are no reply. What the server says of lengths to
    come takes no memory.
    """

    def __init__(self, refusal: Callable[[str], Any]) -> None:
        self._refusal = refusal
        self._parts: list[bytes] = []  # what has arrived; all before *at* is read
        self._size = self._at = 0
        self._needed = 1  # the size at which there is something to read
        self._lists: list[tuple[list[Any], int]] = []  # begun, with the number of their items

    @property
    def unread(self) -> bool:
        """Whether more has arrived than the replies that were taken."""
        return self._size > self._at or bool(self._lists)

    def feed(self, data: bytes) -> None:
        """Take *data*, which has arrived, for the next replies."""
        self._parts.append(data)
        self._size += len(data)

    def take(self) -> Any:
        """The next reply, or MORE."""
        if self._size < self._needed:
            return MORE
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        while True:
            reply = self._item(self._parts[0])
            if reply is MORE:
                return MORE
            while self._lists:
                items, length = self._lists[-1]
                if reply is not items:  # it has only begun
                    items.append(reply)
                if len(items) < length:
                    break
                reply, _ = self._lists.pop()
            else:
                self._needed = self._at + 1
                if self._at == self._size:
                    self._parts, self._size, self._at, self._needed = [], 0, 0, 1
                return reply

    def _item(self, data: bytes) -> Any:
        """The next string, number, refusal, or list, which may only have begun."""
        end = data.find(_END, self._at, self._at + _LONGEST_LINE)
        if end < 0:
            if len(data) - self._at >= _LONGEST_LINE:
                raise UnexpectedReply("a line without an end")
            return self._wait_for(len(data) + 1)
        kind, text, start = data[self._at], data[self._at + 1 : end], end + 2
        if kind == _STRING and text != b"-1":
            end = start + _length(text)
            if len(data) < end + 2:
                return self._wait_for(end + 2)
            if data[end : end + 2] != _END:
                raise UnexpectedReply("a string of another length")
            self._at = end + 2
            return data[start:end]
        self._at = start
        if kind == _STATUS:
            return text
        if kind == _NUMBER:
            return int(text)
        if kind == _ERROR:
            return self._refusal(text.decode("utf-8", "replace"))
        if text == b"-1" and kind in (_STRING, _LIST):
            return None
        if kind != _LIST or len(self._lists) >= _DEEPEST:
            raise UnexpectedReply("no reply of RESP2")
        items: list[Any] = []
        if length := _length(text):
            self._lists.append((items, length))
        return items

    def _wait_for(self, size: int) -> Any:
        """Let go of what is read, and read on when the rest has *size*, counted from before."""
        if self._at:
            self._parts = [self._parts[0][self._at :]]
        self._needed = size - self._at
        self._size -= self._at
        self._at = 0
        return MORE


def _length(text: bytes) -> int:
    if not text.isdigit():
        raise UnexpectedReply("no length")
    return int(text)
