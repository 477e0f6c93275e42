"""Connections of redis-py to the server of a URL, each with a deadline for a whole exchange."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from llm_cache_mem.stores.deadline import DeadlineSocket, call_within, is_host_name
from llm_cache_mem.stores.failures import UnexpectedReply
from llm_cache_mem.stores.pool import Pool
from llm_cache_mem.stores.redis.replies import MORE, Replies, packed

try:
    from redis._parsers import BaseParser
    from redis.backoff import NoBackoff
    from redis.connection import Connection, parse_url
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import RedisError, ResponseError
    from redis.retry import Retry
except ModuleNotFoundError as exc:
    if exc.name != "redis":  # installed but broken: let that error speak
        raise
    raise ImportError(
        "RedisStore needs redis: pip install 'llm-cache-mem[redis]'", name="redis"
    ) from None

from llm_cache_mem.values.entry import MAX_ENTRY_BYTES

__all__ = ["MAX_REPLY_BYTES", "ResponseError", "Server", "ask", "ask_all", "open_pool", "server_of"]

_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
}  # ours, and redis-py's

_SECONDS_PER_COMMAND = 0.002  # more time for many at once
MAX_REPLY_BYTES = MAX_ENTRY_BYTES + 64 * 1024


class Server(NamedTuple):
    """A server: its *name* for people, the *timeout* and the *limit* of its URL, and a function
    that makes a connection."""

    name: str
    timeout: float
    limit: int
    connect: Callable[[], Any]


def server_of(url: str, *, timeout: float, limit: int) -> Server:
    """The server that *url* names. ValueError for a URL that can never work.

    ``redis://``, ``rediss://`` (TLS), ``unix://``, and ``valkey://`` and ``valkeys://``, which are
    the first two by another name, with the options that redis-py knows.
    """
    options = _parsed(url)
    timeout = options.setdefault("socket_timeout", timeout)
    limit = options.pop("max_connections", limit)
    if not (timeout > 0 and limit > 0):
        raise ValueError("a redis URL needs a socket_timeout and max_connections above 0")
    connection_class = _with_deadline(options.pop("connection_class", Connection))
    ours = {
        "protocol": 2,  # in which a server sends nothing that was not asked for
        "decode_responses": False,
        "retry": Retry(NoBackoff(), 0),
    }
    options = {"socket_connect_timeout": timeout} | options | ours
    scheme = urlsplit(url).scheme
    connect_seconds = options["socket_connect_timeout"] + (
        timeout if _SCHEMES[scheme] == "rediss" else 0
    )  # the TLS handshake has its own time

    def connect() -> Any:
        connection = connection_class(**options)
        if is_host_name(str(options.get("host", "127.0.0.1"))):
            call_within(connect_seconds, connection.connect, late=lambda _: connection.disconnect())
        else:
            connection.connect()
        connection.expect_no_more()
        return connection

    try:
        connection_class(**options)
    except (TypeError, ValueError, RedisError) as exc:
        raise ValueError(
            f"a {scheme}:// URL with an option that redis-py does not take:"
            f" {_option_in(exc, options)}"
        ) from None
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return Server(f"{scheme}://{where}/{options.get('db', 0)}", timeout, limit, connect)


def open_pool(server: Server) -> Pool[Any]:
    """A pool of connections to *server*, which are made when first needed."""
    return Pool(
        server.connect,
        is_usable=lambda connection: connection.deadline.is_quiet(),
        close=lambda connection: connection.disconnect(),
        limit=server.limit,
        timeout=server.timeout,
        store="RedisStore",
    )


def ask(connection: Any, *command: bytes) -> Any:
    """The reply to *command*; a ResponseError that the server sent is returned."""
    sock = connection.deadline
    sock.begin(connection.socket_timeout, MAX_REPLY_BYTES)
    sock.sendall(packed(command))
    reply = _reply(sock, connection.replies)
    connection.expect_no_more()
    return reply


def ask_all(connection: Any, commands: Sequence[Sequence[bytes]]) -> list[Any]:
    """The replies to *commands*, which are sent at once."""
    sock = connection.deadline
    sock.begin(
        connection.socket_timeout + len(commands) * _SECONDS_PER_COMMAND,
        len(commands) * MAX_REPLY_BYTES,
    )
    sock.sendall(b"".join(map(packed, commands)))
    replies = [_reply(sock, connection.replies) for _ in commands]
    connection.expect_no_more()
    return replies


def _reply(sock: Any, replies: Replies) -> Any:
    while (reply := replies.take()) is MORE:
        data = sock.recv(0)
        if not data:
            raise ConnectionError("the server closed the connection")
        replies.feed(data)
    return reply


class _Parser(BaseParser):
    """Reads the replies of the handshake, in which redis-py makes a connection ready."""

    def __init__(self, socket_read_size: int) -> None:
        self.replies = Replies(_refusal)

    def on_connect(self, connection: Any) -> None:
        self._sock = connection.deadline
        self.replies = connection.replies = Replies(_refusal)

    def on_disconnect(self) -> None:
        self._sock = None

    def can_read(self, timeout: float = 0) -> bool:
        return self.replies.unread

    def read_response(self, disable_decoding: bool = False, **_: Any) -> Any:
        return _reply(self._sock, self.replies)


def _refusal(text: str) -> Exception:
    """The error of redis-py that the server sent as *text*, with its *code*, such as NOAUTH. Raised
    if the connection is of no use any more."""
    error: Any = _Parser.parse_error(text)  # type: ignore[no-untyped-call]
    error.code = text.partition(" ")[0]
    if isinstance(error, RedisConnectionError):
        raise error
    return error  # type: ignore[no-any-return]


def _with_deadline(connection_class: Any) -> Any:
    class DeadlineConnection(connection_class):  # type: ignore[misc]  # a class of redis-py
        """Over a socket that bounds the handshake and each exchange, not only each part of it."""

        deadline: DeadlineSocket
        replies: Replies

        def __init__(self, **options: Any) -> None:
            super().__init__(parser_class=_Parser, **options)
            self.driver_info = self.lib_name = self.lib_version = None  # two round trips less

        def _connect(self) -> DeadlineSocket:
            self.deadline = DeadlineSocket(super()._connect(), self.socket_timeout)
            return self.deadline

        def expect_no_more(self) -> None:
            """UnexpectedReply if more has arrived than was asked for."""
            if self.replies.unread:
                raise UnexpectedReply("more than one reply")

    return DeadlineConnection


def _parsed(url: str) -> dict[str, Any]:
    """The options of *url*. No message of these repeats a part of it: a password that is not
    escaped may be anywhere."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError(
            "RedisStore needs a URL such as redis://localhost:6379/0, or a client of redis-py"
        )
    try:
        options: dict[str, Any] = parse_url(f"{_SCHEMES[scheme]}{separator}{rest}")  # type: ignore[no-untyped-call]
        path = urlsplit(url).path.strip("/")
    except ValueError:
        hint = (
            "check its port and options, and write / ? # @ : in a password as %2F %3F %23 %40 %3A"
        )
        raise ValueError(f"not a {scheme}:// URL: {hint}") from None
    if scheme != "unix" and path and not path.isdecimal():
        raise ValueError(
            f"what follows the host in a {scheme}:// URL is the number of a database, as in"
            f" {scheme}://localhost:6379/0"
        )
    if scheme == "unix" and not options.get("path"):
        raise ValueError(
            "a unix:// URL needs the path of a socket, as in unix:///run/redis/redis.sock"
        )
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in options and not os.path.isfile(options[name]):
            raise ValueError(f"{name} in a {scheme}:// URL is not a file: {options[name]!r}")
    return options


def _option_in(exc: Exception, options: dict[str, Any]) -> str:
    """The name of the option that *exc* complains of."""
    return next((name for name in options if name in str(exc)), type(exc).__name__)
