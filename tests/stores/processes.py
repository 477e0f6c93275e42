"""Children made by fork, for tests of what processes do to one another: they report as JSON, and
are killed when they hang."""

import json
import os
import select
import signal
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["ChildFailed", "fork", "in_child", "outcome"]


class ChildFailed(Exception):
    """A child hung, died, or raised what the text tells."""


def fork(work: Callable[[], Any], *, uid: int | None = None) -> tuple[int, int]:
    """Run *work* in a child, as user *uid* if given; its process id and the pipe its report comes
    through."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    status = 1
    try:  # nothing may get past here: this is a copy of the test run
        os.close(reader)
        if uid is not None:
            os.setgid(uid)
            os.setuid(uid)
        report = json.dumps({"result": work()})
        status = 0
    except BaseException:
        report = json.dumps({"error": traceback.format_exc()})
    try:
        data = report.encode()
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(status)


def outcome(pid: int, reader: int, *, timeout: float = 60.0) -> Any:
    """What the child's work returned. ChildFailed when it raised, died, or took longer than
    *timeout* seconds."""
    data = b""
    try:
        while True:
            ready, _, _ = select.select([reader], [], [], timeout)
            if not ready:
                raise ChildFailed(f"no sign of life for {timeout} s")
            chunk = os.read(reader, 65536)
            if not chunk:
                break
            data += chunk
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    report = json.loads(data) if data else {"error": "died without a word"}
    if "error" in report:
        raise ChildFailed(report["error"])
    return report["result"]


def in_child(work: Callable[[], Any], *, timeout: float = 60.0, uid: int | None = None) -> Any:
    return outcome(*fork(work, uid=uid), timeout=timeout)
