"""A proxy in front of a server that can be slow, cut off, or lie: what goes wrong between a client
and a server, on demand."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, Self

__all__ = ["CUT", "HOLD", "Proxy", "Rule", "drip", "late", "reset_halfway"]

HOLD = object()  # a rule's way to say: this reply never comes
CUT = object()  # and: the connection is closed instead
Rule = Callable[[bytes, "Sender"], Any]


class Sender:
    """What a rule may do besides giving back what is to be sent: send parts of it, wait, and break
    off."""

    def __init__(self, client: socket.socket, stopped: threading.Event) -> None:
        self._client = client
        self._stopped = stopped

    def send(self, data: bytes) -> None:
        self._client.sendall(data)

    def wait(self, seconds: float) -> None:
        self._stopped.wait(seconds)

    def reset(self) -> None:
        """Close at once, so that the other side sees a reset."""
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client.close()


class Proxy:
    """Listens on 127.0.0.1:*port* and passes everything on to *target*; what comes back goes
    through ``rule`` while there is one.

    A rule is given what the server sent, mostly one whole reply, and gives back what the client
    gets: bytes, HOLD or CUT.
    """

    def __init__(self, target: int) -> None:
        self.rule: Rule | None = None
        self.connections = 0
        self._target = target
        self._stopped = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                if self._stopped.is_set():
                    return
                client.close()
                continue
            self.connections += 1
            for one in (client, server):
                one.settimeout(None)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open.add(one)
            threading.Thread(target=self._pass_on, args=(client, server, None), daemon=True).start()
            threading.Thread(
                target=self._pass_on,
                args=(server, client, Sender(client, self._stopped)),
                daemon=True,
            ).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, sender: Sender | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                rule = self.rule
                changed = rule(data, sender) if rule is not None and sender is not None else data
                if changed is CUT:
                    break
                if changed is not HOLD:
                    sink.sendall(changed)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
            self._open.discard(one)


def late(seconds: float) -> Rule:
    def rule(data: bytes, sender: Sender) -> bytes:
        sender.wait(seconds)
        return data

    return rule


def drip(bytes_per_second: float) -> Rule:
    def rule(data: bytes, sender: Sender) -> object:
        for at in range(len(data)):
            sender.send(data[at : at + 1])
            sender.wait(1 / bytes_per_second)
        return HOLD

    return rule


def reset_halfway(data: bytes, sender: Sender) -> object:
    sender.send(data[: len(data) // 2])
    sender.reset()
    return CUT
