"""Vectors come back bit for bit, in as few bytes as their numbers need."""

import json
import struct
import zlib
from typing import Any

import pytest

from llm_cache_mem.values.vectors import PACKED, Vector, pack, packed, unpack, unpacked


def single(number: float) -> float:
    return float(struct.unpack("f", struct.pack("f", number))[0])


TENTHS = [round(0.1 * number, 1) for number in range(20)]


@pytest.mark.parametrize(
    ("value", "kind", "size"),
    [
        ([0.5 * number for number in range(20)], "f", 80),
        ([single(number) for number in TENTHS], "f", 80),
        (TENTHS, "s", 80),
        ([1.2345678, 0.12345679, 123456.7, 1e-30, -0.0], "s", 20),
        ([0.1 + 0.2, 1 / 3], "d", 16),
        ([1e300, 0.1], "d", 16),
        ([float("inf"), -0.0], "f", 8),
        ([-128, 127], "i", 2),
        ([0, 255], "u", 2),
        ("QUJDRA==", "b", 4),
    ],
)
def test_numbers_come_back_in_few_bytes(value: Any, kind: str, size: int) -> None:
    made = Vector.of(value)
    assert made is not None
    assert (made.kind, len(made.data)) == (kind, size)
    assert repr(made.value) == repr(value)
    assert made == Vector(kind, made.data)
    assert hash(made) == hash(Vector(kind, made.data))
    assert made != Vector("d", bytes(8))
    assert made != made.data
    assert repr(made) == f"Vector({kind!r}, {size} bytes)"


@pytest.mark.parametrize(
    "value", [[1.0, 1], [True, False], [256, 0], [-1, 255], [], "no base64", "QUI", "QUJ=", ["a"]]
)
def test_anything_else_is_no_vector(value: Any) -> None:
    assert Vector.of(value) is None


def test_the_bytes_are_little_endian() -> None:
    found = Vector.of([1.0])
    assert found is not None
    assert found.data == struct.pack("<f", 1.0)


def test_a_kind_must_be_known() -> None:
    with pytest.raises(ValueError, match="kind"):
        Vector("x", b"")


def test_long_lists_and_texts_anywhere_are_vectors() -> None:
    long, short = [0.5] * 20, [0.5] * 2
    value = {
        "a": [{"embedding": long}, {"embedding": "QUJD" * 8}],
        "b": [long, short],
        "c": ["x", long],
        "d": "!" * 20,
        "e": [],
        "f": [True] * 20,
    }
    made = packed(value)
    assert made == {
        "a": [{"embedding": Vector.of(long)}, {"embedding": Vector.of("QUJD" * 8)}],
        "b": [Vector.of(long), short],
        "c": ["x", long],
        "d": "!" * 20,
        "e": [],
        "f": [True] * 20,
    }
    assert unpacked(made) == value
    assert unpacked([Vector.of(long)]) == [long]


def text_with(*bodies: str) -> bytes:
    return json.dumps([{"$vector": ["f", body]} for body in bodies], separators=(",", ":")).encode()


@pytest.mark.parametrize("text", [text_with("QUJD", "", "QUJDRA=="), text_with("QUI", "A"), b"{}"])
def test_packed_json_is_the_same_text_again(text: bytes) -> None:
    assert pack(text)[:1] == PACKED == b"\0"
    assert unpack(pack(text)) == text


def test_packed_json_that_is_damaged_is_an_error() -> None:
    data = pack(text_with("QUJD", "QUJDRA=="))
    for end in range(1, len(data)):
        with pytest.raises((ValueError, LookupError, struct.error, zlib.error)):
            unpack(data[:end])
    with pytest.raises(ValueError, match="not packed JSON"):
        unpack(data + struct.pack(">I", 1) + b"x")
