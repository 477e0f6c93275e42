"""One exchange with a server over redis-py: however a reply is cut into pieces it is the same, and
what is no reply, or more than one, is an error."""

import contextlib
import random
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from redis import ResponseError

from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.stores.failures import UnexpectedReply
from llm_cache_mem.stores.redis.client import UrlClient
from llm_cache_mem.values.entry import Entry

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


class Script:
    """A server of one client, that answers whatever it is sent with what the test says next."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.client = UrlClient(
            f"redis://127.0.0.1:{self._listener.getsockname()[1]}", timeout=5, limit=1
        )
        self.sock: socket.socket | None = None

    def say(self, pieces: Sequence[bytes], then: Callable[[], object] = bool) -> threading.Thread:
        """Send *pieces*, each for itself, once a command has come."""

        def work() -> None:
            if self.sock is None:
                self.sock = self._listener.accept()[0]
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self.sock.recv(65536):  # the client uses a new connection
                self.sock.close()
                self.sock = self._listener.accept()[0]
                self.sock.recv(65536)
            with contextlib.suppress(OSError):  # the client may have heard enough
                for piece in pieces:
                    self.sock.sendall(piece)
                then()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def send(self, data: bytes) -> None:
        assert self.sock is not None
        self.sock.sendall(data)

    def hang_up(self) -> None:
        assert self.sock is not None
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.client.close()
        self._listener.close()
        if self.sock is not None:
            self.sock.close()


@pytest.fixture
def server() -> Iterator[Script]:
    with contextlib.closing(Script()) as script:
        yield script


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    if len(data) < 100:
        return [data[at : at + 1] for at in range(len(data))]
    at = sorted(rng.sample(range(1, len(data)), 5))
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


def test_a_reply_in_pieces_is_the_reply(server: Script) -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    for sent, expected in REPLIES:
        for pieces in ([sent], cut(sent, rng)):
            thread = server.say(pieces)
            assert server.client.call(b"x") == expected
            thread.join()
    together = [pair for pair in REPLIES for _ in range(2)]
    rng.shuffle(together)
    thread = server.say(cut(b"".join(sent for sent, _ in together), rng))
    assert server.client.calls([(b"x",)] * len(together)) == [expected for _, expected in together]
    thread.join()


def test_a_refusal_is_a_reply_with_a_code(server: Script) -> None:
    server.say([b"-WRONGTYPE no\r\n:1\r\n"])
    refused, one = server.client.calls([(b"x",), (b"y",)])
    assert (type(refused), str(refused), one) == (ResponseError, "WRONGTYPE no", 1)
    server.say([b"-OOM full\r\n"])
    with pytest.raises(ResponseError):
        server.client.values([b"a"])
    server.say([b"+PONG\r\n"])
    assert server.client.call(b"x") == b"PONG"


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
def test_no_reply_or_more_than_one_is_no_entry(server: Script, sent: bytes) -> None:
    thread = server.say([sent], then=server.hang_up)
    with contextlib.suppress(Exception):
        reply = server.client.call(b"GET", b"k")
        with pytest.raises(EntryUnreadable):
            Entry.unpack("k", reply)
    thread.join()
    server.say([b"+PONG\r\n"])
    assert server.client.call(b"x") == b"PONG"


@pytest.mark.parametrize("more", [b"+OK\r\n", b"$", b"$3\r\nlie\r\n"])
def test_a_reply_too_many_is_an_error(server: Script, more: bytes) -> None:
    for command in (lambda: server.client.call(b"x"), lambda: server.client.calls([(b"x",)])):
        server.say([b"$4\r\ntrue\r\n" + more])
        with pytest.raises(UnexpectedReply):
            command()
    server.say([b"$5\r\nother\r\n"])
    assert server.client.call(b"GET", b"l") == b"other"


@pytest.mark.parametrize("more", [b"+OK\r\n", b"$", b"$3\r\nlie\r\n"])
def test_a_connection_on_which_more_arrives_is_not_used_again(server: Script, more: bytes) -> None:
    read = threading.Event()
    thread = server.say([b"$4\r\ntrue\r\n"], then=lambda: read.wait(60) and server.send(more))
    assert server.client.call(b"GET", b"k") == b"true"
    read.set()
    thread.join()
    server.say([b"$5\r\nother\r\n"])
    assert server.client.call(b"GET", b"l") == b"other"


@pytest.mark.parametrize("sent", [b"$5\r\nhel", b"*2\r\n:1\r\n", b"+OK", b""])
def test_the_end_in_the_middle_of_a_reply_is_an_error(server: Script, sent: bytes) -> None:
    thread = server.say([sent], then=server.hang_up)
    with pytest.raises(ConnectionError):
        server.client.call(b"x")
    thread.join()


def test_values_are_those_that_were_sent(server: Script) -> None:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    rng = random.Random(seed)
    for _ in range(200):
        stored = [
            None if rng.random() < 0.2 else rng.randbytes(rng.choice([0, 1, 10, 10, 500]))
            for _ in range(rng.randrange(1, 9))
        ]
        sent = b"*%d\r\n" % len(stored) + b"".join(
            b"$-1\r\n" if v is None else b"$%d\r\n%b\r\n" % (len(v), v) for v in stored
        )
        thread = server.say(rng.choice([[sent], cut(sent, rng) if len(sent) > 6 else [sent]]))
        assert server.client.values([b"k"] * len(stored)) == stored
        thread.join()


@pytest.mark.parametrize(
    "sent", [b"*1\r\n$1\r\na\r\n", b"*3\r\n$1\r\na\r\n$-1\r\n$-1\r\n", b"$1\r\na\r\n", b":2\r\n"]
)
def test_values_that_were_not_asked_for_are_an_error(server: Script, sent: bytes) -> None:
    server.say([sent])
    with pytest.raises(UnexpectedReply):
        server.client.values([b"a", b"b"])
