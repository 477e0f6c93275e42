"""Replies of Redis out of bytes: hiredis reads the same, and bytes that are none are an error."""

import random
import secrets
from typing import Any

import hiredis
import pytest

from llm_cache_mem.stores.failures import UnexpectedReply
from llm_cache_mem.stores.redis.replies import MORE, Replies


def reply(rng: random.Random, depth: int = 0) -> bytes:
    kind = rng.choice("+:-$0*" if depth < 4 else "+:-$0")
    text = bytes(rng.choices(b"abc ", k=rng.randrange(6)))
    if kind in "+-":
        return kind.encode() + text + b"\r\n"
    if kind == ":":
        return b":%d\r\n" % rng.randrange(-999, 999)
    if kind == "0":
        return rng.choice([b"$-1\r\n", b"*-1\r\n"])
    if kind == "$":
        value = rng.randbytes(rng.choice([0, 1, 5, 50, 3000]))
        return b"$%d\r\n%b\r\n" % (len(value), value)
    items = [reply(rng, depth + 1) for _ in range(rng.randrange(4))]
    return b"*%d\r\n%b" % (len(items), b"".join(items))


class Refused(Exception):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refused) and other.args == self.args

    def __hash__(self) -> int:
        return hash(self.args)


def read(pieces: list[bytes]) -> list[Any]:
    replies, found = Replies(Refused), []
    for piece in pieces:
        replies.feed(piece)
        while (one := replies.take()) is not MORE:
            found.append(one)
    return [*found, "more"] if replies.unread else found


def read_by_hiredis(data: bytes) -> list[Any]:
    reader = hiredis.Reader(replyError=Refused)
    reader.feed(data)
    found = []
    while (one := reader.gets()) is not False:
        found.append(one)
    return found


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    at = sorted(rng.choices(range(len(data) + 1), k=rng.randrange(6)))
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


@pytest.mark.parametrize("cases", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_replies_are_those_that_hiredis_reads(cases: int) -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    for _ in range(cases):
        data = b"".join(reply(rng) for _ in range(rng.randrange(1, 4)))
        assert read(cut(data, rng)) == read_by_hiredis(data)


@pytest.mark.parametrize("cases", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_damaged_replies_are_others_or_an_error(cases: int) -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    refused = 0
    for _ in range(cases):
        data = bytearray(reply(rng) + reply(rng))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.choice(b"$*:+-\r\n0129x\0")
        try:
            read(cut(bytes(data), rng))
        except (UnexpectedReply, ValueError):
            refused += 1
    assert refused > cases / 10
