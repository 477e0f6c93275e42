"""One conversation with a server: however a reply is cut into pieces it is the same, and what is no
reply is none."""

import random
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llm_cache_mem.stores.redis.wire import Garbled, Refused, Wire, packed, packed_mget

REPLIES: list[tuple[bytes, Any]] = [
    (b"+OK\r\n", b"OK"),
    (b"+\r\n", b""),
    (b":-12\r\n", -12),
    (b"$-1\r\n", None),
    (b"$0\r\n\r\n", b""),
    (b"$7\r\na\r\n$1\r\n\r\n", b"a\r\n$1\r\n"),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$2\r\nbc\r\n", [b"0", [b"a", b"bc"]]),
    (b"$300000\r\n" + b"x" * 300_000 + b"\r\n", b"x" * 300_000),
]


class Connection:
    """As much of redis-py's as a wire needs."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def disconnect(self) -> None:
        self._sock.close()


@pytest.fixture
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    wire = Wire(Connection(ours), 5)
    yield wire, theirs
    wire.close()
    theirs.close()


def say(
    sock: socket.socket, pieces: list[bytes], then: Callable[[], object] = bool
) -> threading.Thread:
    """Send *pieces* once the command has come, each for itself."""

    def work() -> None:
        sock.recv(65536)
        for piece in pieces:
            sock.sendall(piece)
        then()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    if len(data) < 100:
        return [data[at : at + 1] for at in range(len(data))]
    at = sorted(rng.sample(range(1, len(data)), 5))
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


def test_a_reply_in_pieces_is_the_reply(ends: tuple[Wire, socket.socket]) -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    wire, server = ends
    for sent, expected in REPLIES:
        for pieces in ([sent], cut(sent, rng)):
            thread = say(server, pieces)
            assert wire.ask(b"x") == [expected]
            thread.join()
    together = [pair for pair in REPLIES for _ in range(2)]
    rng.shuffle(together)
    thread = say(server, cut(b"".join(sent for sent, _ in together), rng))
    assert wire.ask(b"x", replies=len(together)) == [expected for _, expected in together]
    thread.join()


def test_a_refusal_is_a_reply_with_a_code(ends: tuple[Wire, socket.socket]) -> None:
    wire, server = ends
    say(server, [b"-WRONGTYPE no\r\n:1\r\n"])
    refused, one = wire.ask(b"x", replies=2)
    assert (type(refused), refused.code, one) == (Refused, "WRONGTYPE", 1)
    say(server, [b"-OOM full\r\n"])
    with pytest.raises(Refused):
        wire.ask_values(b"x", [None])
    say(server, [b"+PONG\r\n"])
    assert wire.ask(b"x") == [b"PONG"]


@pytest.mark.parametrize(
    "sent",
    [
        *(
            b"\r\n",
            b"OK\r\n",
            b"$x\r\n",
            b"$-2\r\n",
            b"$99999999999\r\n",
            b":\r\n",
            b":1.5\r\n",
            b"*x\r\n",
            b"*-2\r\n",
            b"*99999999\r\n",
        ),
        *(
            b"*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
            b"%1\r\n+a\r\n+b\r\n",
            b"_\r\n",
            b"+OK\r\n+OK\r\n",
            b":1\r\n$",
            b"+" + b"x" * 200_000,
        ),
    ],
    ids=lambda sent: repr(sent[:20]),
)
def test_what_is_no_reply_or_more_than_one_is_an_error(
    ends: tuple[Wire, socket.socket], sent: bytes
) -> None:
    wire, server = ends
    say(server, [sent])
    with pytest.raises((Garbled, ValueError)):
        wire.ask(b"x")


@pytest.mark.parametrize("sent", [b"$5\r\nhel", b"*2\r\n:1\r\n", b"+OK", b""])
def test_the_end_in_the_middle_of_a_reply_is_an_error(
    ends: tuple[Wire, socket.socket], sent: bytes
) -> None:
    wire, server = ends
    thread = say(server, [sent], then=lambda: server.shutdown(socket.SHUT_WR))
    with pytest.raises(ConnectionError):
        wire.ask(b"x")
    thread.join()


def test_values_that_are_as_expected_are_those_very_objects(
    ends: tuple[Wire, socket.socket],
) -> None:
    wire, server = ends
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    for _ in range(200):
        stored = [
            None if rng.random() < 0.2 else rng.randbytes(rng.choice([0, 1, 10, 10, 500]))
            for _ in range(rng.randrange(1, 9))
        ]
        hints = [
            value if rng.random() < 0.6 else rng.choice([None, b"", b"0123456789"])
            for value in stored
        ]
        sent = b"*%d\r\n" % len(stored) + b"".join(
            b"$-1\r\n" if v is None else b"$%d\r\n%b\r\n" % (len(v), v) for v in stored
        )
        thread = say(server, rng.choice([[sent], cut(sent, rng) if len(sent) > 6 else [sent]]))
        found = wire.ask_values(b"x", hints)
        thread.join()
        assert found == stored
        assert all(
            got is hint for got, hint in zip(found, hints, strict=True) if hint and got == hint
        )


@pytest.mark.parametrize(
    "sent",
    [
        b"*1\r\n$1\r\na\r\n",
        b"*3\r\n$1\r\na\r\n",
        b"$1\r\na\r\n",
        b"*2\r\n:1\r\n:2\r\n",
        b"*2\r\n$1\r\na\r\n$-1\r\n+more\r\n",
    ],
)
def test_values_that_were_not_asked_for_are_an_error(
    ends: tuple[Wire, socket.socket], sent: bytes
) -> None:
    wire, server = ends
    say(server, [sent])
    with pytest.raises(Garbled):
        wire.ask_values(b"x", [b"a", None])


def test_a_wire_is_silent_until_something_comes_that_nobody_asked_for(
    ends: tuple[Wire, socket.socket],
) -> None:
    wire, server = ends
    assert wire.silent
    server.sendall(b"+")
    assert not wire.silent


def test_commands_are_packed_alike_whichever_way() -> None:
    for names in ([b"a"], [b"a", b"b"], [b"a", b"bc", b""], [b"same", b"size"]):
        assert packed_mget(names) == packed([b"MGET", *names])
