"""A pytest plugin, and a guard for any process: whoever connects anywhere, or asks for a name, gets
an error."""

import socket
from typing import Any

__all__ = ["NetworkReached", "cut"]


class NetworkReached(BaseException):
    """Something tried to leave the process; not an Exception, so that nobody takes it for a server
    that is down."""


def cut() -> None:
    """From now on nothing in this process reaches a network."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise NetworkReached("the network was to be left alone")

    class Cut(socket.socket):
        connect = connect_ex = sendto = refuse

    socket.socket = Cut  # type: ignore[misc]
    socket.create_connection = socket.getaddrinfo = refuse


def pytest_configure() -> None:
    cut()
