"""Hostile bytes make a miss, and nothing else: nothing is run, imported, opened or built."""

import json
import os
import subprocess
import sys
import tracemalloc
from decimal import Decimal
from pathlib import Path
from time import process_time
from typing import Any
from uuid import UUID

import pytest

from llm_cache_mem._util import strict_json
from llm_cache_mem.errors import EntryUnreadable, ValueNotCacheable
from llm_cache_mem.values.payload import Payload

FUZZ = Path(__file__).with_name("codec_fuzz.py")


def fuzz(seed: int, rounds: int) -> dict[str, Any]:
    print("seed", seed)
    root = str(FUZZ.parents[2])
    run = [sys.executable, str(FUZZ), str(seed), str(rounds)]
    out = subprocess.run(
        run,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    assert out.returncode == 0, out.stderr[-2000:]
    return dict(json.loads(out.stdout))


@pytest.mark.parametrize(
    ("seed", "rounds"), [(1, 50_000), pytest.param(2, 1_000_000, marks=pytest.mark.slow)]
)
def test_hostile_bytes_are_misses(seed: int, rounds: int) -> None:
    found = fuzz(seed, rounds)
    assert found["bad"] == []
    assert found["gadgets"] >= 200
    assert found["served"] > 500, "the fuzz got past the envelope"
    assert found["grown_kib"] < 64 * 1024


MODULUS = sys.hash_info.modulus  # hash(n * MODULUS) is 0
MANY = 20_000  # a set of so many with one hash takes ten seconds
NUMBERS = [n * MODULUS for n in range(1, MANY)]
COLLIDING: dict[str, list[Any]] = {
    "integers": NUMBERS,
    "decimals": [{"$decimal": str(n)} for n in NUMBERS],
    "uuids": [{"$uuid": str(UUID(int=n))} for n in NUMBERS],
    "tuples": [{"$tuple": [n]} for n in NUMBERS],
    "frozensets": [{"$frozenset": [n]} for n in NUMBERS],
}


def tagged(tree: Any) -> Payload:
    return Payload.from_json(json.dumps({"$llm-cache-mem": tree}).encode())


@pytest.mark.parametrize("kind", COLLIDING)
@pytest.mark.parametrize("tag", ["$set", "$frozenset", "$dict"])
def test_parts_chosen_to_have_one_hash_are_refused_at_once(kind: str, tag: str) -> None:
    items = COLLIDING[kind]
    payload = tagged({tag: [[item, 0] for item in items] if tag == "$dict" else items})
    began = process_time()
    with pytest.raises(EntryUnreadable, match="one hash"):
        payload.decode()
    assert process_time() - began < 2


def test_some_parts_with_one_hash_are_served() -> None:
    values: set[Any] = {0, 1, -1, -2, UUID(int=MODULUS), Decimal(2 * MODULUS), *NUMBERS[:90]}
    assert Payload.from_json(Payload.of(values).json()).decode() == values


def test_set_that_could_not_be_read_back_is_not_stored() -> None:
    for value in (set(NUMBERS[:200]), frozenset(NUMBERS[:200]), dict.fromkeys(NUMBERS[:200])):
        with pytest.raises(ValueNotCacheable, match="one hash"):
            Payload.of(value)


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"[]," * 50_001 + b"[]]",
        b"[" + b"{}," * 50_001 + b"{}]",
        b"[" + b"1," * 200_001 + b"1]",
        b"[" + b'{"a":1},' * 50_001 + b"1]",
        b"[" * 200_001,
    ],
    ids=["arrays", "objects", "numbers", "fields", "depth"],
)
def test_deeply_split_text_is_rejected_before_allocation(
    text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict_json, "_SMALL", 0)
    monkeypatch.setattr(strict_json, "_CHUNK", 16 * 1024)
    monkeypatch.setattr(strict_json, "MAX_CONTAINERS", 50_000)
    monkeypatch.setattr(strict_json, "MAX_PARTS", 200_000)
    tracemalloc.start()
    try:
        with pytest.raises(EntryUnreadable, match="parts"):
            Payload.from_json(text).decode()
        with pytest.raises(strict_json.NotJson, match="parts"):
            strict_json.parse(text)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < 4_000_000  # a quarter of what one of them takes once it is decoded


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
def test_strings_are_told_from_parts_wherever_the_text_is_cut(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict_json, "_CHUNK", size)
    monkeypatch.setattr(strict_json, "_SMALL", 0)
    monkeypatch.setattr(strict_json, "MAX_PARTS", 9)
    most = {"a,": "\\", "\\": ',\\",', "c": [1, ",", '["', 2, "\\\\\\"]}
    text = json.dumps(most).encode()
    assert text.count(b",") > 9
    assert not strict_json.has_too_many_parts(text)
    assert strict_json.has_too_many_parts(text[:-1] + b',"d":[1,2,3]}')


def test_brackets_and_commas_in_a_text_are_not_parts() -> None:
    value = {"code": '[{"\\\\,:' * 1_000_000, "\\": "\\"}
    assert Payload.from_json(Payload.of(value).json()).decode() == value


@pytest.mark.parametrize("end", [b"", b"\\", b'\\"', b'"'])
def test_text_that_does_not_end_is_refused_at_once(end: bytes) -> None:
    text = b"[" * 1_000_001 + b'"' + b'\\"' * 1_000_000 + end
    began = process_time()
    assert strict_json.has_too_many_parts(text)
    assert process_time() - began < 2


def test_value_of_too_many_parts_is_not_stored_outside_of_memory() -> None:
    payload = Payload.of([0] * (strict_json.MAX_PARTS + 2))
    with pytest.raises(ValueNotCacheable, match="parts"):
        payload.json()
    assert len(payload.decode()) > strict_json.MAX_PARTS
