"""Undo content encodings within bounds: a small body may stand for gigabytes."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

__all__ = ["MAX_ANSWER_BYTES", "TooLarge", "collected", "inflated", "pieces_of"]

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""Of one answer, as it came and decoded."""

_PIECE: Final = 4096  # of which a decoder makes four megabytes at the most


class TooLarge(ValueError):
    """The decoded body would be larger than an answer may be."""


def pieces_of(body: bytes) -> Iterator[bytes]:
    """*body* in pieces to be decoded one at a time."""
    for at in range(0, len(body), _PIECE):
        yield body[at : at + _PIECE]


def collected(pieces: Iterable[bytes]) -> bytes:
    """All *pieces* as one. Raises TooLarge as soon as they are more than an answer may have."""
    parts, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise TooLarge(f"more than {MAX_ANSWER_BYTES} bytes")
        parts.append(piece)
    return b"".join(parts)


def inflated(body: bytes, wbits: int) -> bytes:
    """What *body* was compressed from by zlib in the format of *wbits*.

    Raises zlib.error, or ValueError if it breaks off or is too large.
    """
    decoder = zlib.decompressobj(wbits)
    whole = collected(decoder.decompress(piece) for piece in pieces_of(body))
    if not decoder.eof:
        raise ValueError("the compressed body breaks off")
    return whole
