"""Vectors as few bytes: the numbers of an embedding, or its base64 text, stored so that they come
back bit for bit.

Providers compute in 32 bits. A vector whose numbers are 32-bit floats, or the shortest decimals of
such, takes four bytes a number; any other list of floats takes eight.
"""

import re
import sys
import zlib
from array import array
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final

from llm_cache_mem.values.scalars import from_base64, to_base64

__all__ = ["PACKED", "Vector", "pack", "packed", "unpack", "unpacked"]

_SHORTEST: Final = 16
"""How many numbers or characters a list or text must have to be worth it."""


class Vector:
    """A list of numbers or a base64 text, as *data* of a *kind*. Immutable."""

    __slots__ = ("data", "kind")

    def __init__(self, kind: str, data: bytes) -> None:
        if kind not in _READERS:
            raise ValueError(f"no kind of vector: {kind!r}")
        self.kind = kind
        self.data = data

    @classmethod
    def of(cls, value: list[Any] | str) -> "Vector | None":
        """*value*, a list of numbers of one type or a text in base64; None for anything else."""
        if isinstance(value, str):
            return _of_text(value)
        kinds = set(map(type, value))
        if kinds == {float}:
            return _of_floats(value)
        return _of_integers(value) if kinds == {int} else None

    @property
    def value(self) -> Any:
        """What ``of`` was given, new each time."""
        return _READERS[self.kind](self.data)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vector):
            return NotImplemented
        return (self.kind, self.data) == (other.kind, other.data)

    def __hash__(self) -> int:
        return hash((self.kind, self.data))

    def __repr__(self) -> str:
        return f"Vector({self.kind!r}, {len(self.data)} bytes)"


def packed(value: Any) -> Any:
    """*value*, plain JSON, with a Vector in place of each long list of numbers and base64 text."""
    if type(value) is dict:
        return {name: packed(item) for name, item in value.items()}
    if type(value) is list and value and type(value[0]) in (list, dict):
        return [packed(item) for item in value]
    if type(value) in (list, str) and len(value) >= _SHORTEST:
        found = Vector.of(value)
        return value if found is None else found
    return value


def unpacked(value: Any) -> Any:
    """What ``packed`` was given."""
    if type(value) is Vector:
        return value.value
    if type(value) is dict:
        return {name: unpacked(item) for name, item in value.items()}
    if type(value) is list and value and type(value[0]) in (list, dict, Vector):
        return [unpacked(item) for item in value]
    return value


# -- The kinds


def _of_text(text: str) -> Vector | None:
    try:
        data = from_base64(text)
    except ValueError:
        return None
    return Vector("b", data) if to_base64(data) == text else None


def _of_floats(numbers: list[float]) -> Vector:
    exact = array("d", numbers).tobytes()
    short = array("f", numbers)
    if array("d", short).tobytes() == exact:
        return Vector("f", _bytes(short))
    if array("d", map(float, _shortest(short))).tobytes() == exact:
        return Vector("s", _bytes(short))
    return Vector("d", _bytes(array("d", numbers)))


def _of_integers(numbers: list[int]) -> Vector | None:
    for kind in ("i", "u"):  # as int8 and uint8 embeddings are; others stay JSON
        try:
            return Vector(kind, array(_INTEGERS[kind], numbers).tobytes())
        except OverflowError:
            continue
    return None


_INTEGERS: Final = {"i": "b", "u": "B"}


def _numbers(code: str, data: bytes) -> "array[Any]":
    numbers: array[Any] = array(code)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _bytes(numbers: "array[Any]") -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _shortest(numbers: "array[float]") -> list[str]:
    """The shortest decimals that are read as these 32-bit floats."""
    found = [format(number, ".9g") for number in numbers]
    left: Sequence[int] = range(len(numbers))
    for form in (".8g", ".7g", ".6g"):  # few need less than eight digits
        texts = [format(numbers[at], form) for at in left]
        read = array("f", map(float, texts))
        alike = [number for number, at in enumerate(left) if read[number] == numbers[at]]
        for number in alike:
            found[left[number]] = texts[number]
        left = [left[number] for number in alike]
    return found


_READERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "f": lambda data: _numbers("f", data).tolist(),
    "s": lambda data: list(map(float, _shortest(_numbers("f", data)))),
    "d": lambda data: _numbers("d", data).tolist(),
    "i": lambda data: array("b", data).tolist(),
    "u": lambda data: array("B", data).tolist(),
    "b": to_base64,
}


# -- JSON that holds vectors, with their bytes after it

_IN_JSON: Final = rb'(?<="\$vector":\["[a-z]",")[A-Za-z0-9+/]*={0,2}(?="\])'
_PLACE: Final = b"\1"  # no JSON holds it as it is
_LENGTH: Final = Struct(">I")
PACKED: Final = b"\0"
"""How packed JSON begins, and no other."""
_LONGEST: Final = 64 * 1024 * 1024


def pack(text: bytes) -> bytes:
    """JSON *text*, compressed, with the base64 of each ``$vector`` as bytes after it; ``unpack``
    gives the text again."""
    found: list[bytes] = []

    def place(match: re.Match[bytes]) -> bytes:
        vector = _of_text(match[0].decode())  # None where a value of the user's looks like one
        if vector is None:
            return match[0]
        found.append(vector.data)
        return _PLACE

    parts = [zlib.compress(re.sub(_IN_JSON, place, text)), *found]
    return PACKED + b"".join(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))


def unpack(data: bytes) -> bytes:
    """The JSON text of which ``pack`` made *data*. Any error for anything else."""
    parts, at = [], len(PACKED)
    while at < len(data):
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(data, at)[0]
        parts.append(data[start:at])
    first, *rest = zlib.decompressobj().decompress(parts[0], _LONGEST).split(_PLACE)
    if at != len(data) or len(rest) != len(parts) - 1:
        raise ValueError("not packed JSON")
    pieces = [first]
    for vector, text in zip(parts[1:], rest, strict=True):
        pieces += [to_base64(vector).encode(), text]
    return b"".join(pieces)
