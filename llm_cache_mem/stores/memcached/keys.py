"""What a Memcached server can be made to tell about its keys: its crawler's list, which goes
through all of them."""

from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any
from urllib.parse import unquote_to_bytes

__all__ = ["CannotList", "list_keys"]

# By the hash table: on its way along the lists of recent use the crawler misses what moves. Older
# servers have only that way.
_COMMANDS = (b"lru_crawler metadump hash\r\n", b"lru_crawler metadump all\r\n")
_BUSY_SECONDS = 1.0  # how long to wait while another list is being written
_CHUNK = 64 * 1024
_LONGEST_LINE = 4096


class CannotList(Exception):
    """The server does not list its keys."""


def list_keys(wire: Any) -> Iterator[bytes]:
    """The keys of the server at the other end of the socket *wire*, read as they come: the list is
    to be read to its end."""
    for command in _COMMANDS:
        line, lines = _begun(wire, command)
        if line == b"END" or line.startswith(b"key="):
            break
    else:
        raise CannotList(
            "it does not list its keys: its LRU crawler is switched off, or it is too old to"
            " have one"
        )
    while line != b"END":
        yield unquote_to_bytes(line.removeprefix(b"key=").partition(b" ")[0])
        line = next(lines)


def _begun(wire: Any, command: bytes) -> tuple[bytes, Iterator[bytes]]:
    """The first line of the reply to *command*, and those that follow."""
    give_up_at = monotonic() + _BUSY_SECONDS
    while True:
        wire.sendall(command)
        lines = _lines(wire)
        first = next(lines)
        if not first.startswith(b"BUSY"):
            return first, lines
        if monotonic() > give_up_at:
            raise CannotList("it is busy listing its keys for others")
        sleep(0.02)


def _lines(wire: Any) -> Iterator[bytes]:
    rest = b""
    while data := wire.recv(_CHUNK):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise CannotList("what it lists are no keys")
        for line in lines:
            yield line.removesuffix(b"\r")
    raise ConnectionError("closed by the server")
