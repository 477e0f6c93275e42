"""Commands of asyncio's tasks: one connection for each event loop, on which they do not wait for
each other's replies."""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from ssl import SSLWantReadError, SSLWantWriteError
from typing import Any, TypeVar

from llm_cache_mem._util.exceptions import copy_exception
from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem._util.in_thread import NoThread, run_in_thread
from llm_cache_mem.stores.deadline import BYTES_PER_SECOND, TooMuchData
from llm_cache_mem.stores.failures import NotAsked, UnexpectedReply
from llm_cache_mem.stores.redis.connections import MAX_REPLY_BYTES
from llm_cache_mem.stores.redis.replies import MORE, packed

__all__ = ["EventLoops", "in_thread"]

_CHUNK = 64 * 1024
_TICKS = 10  # in the time that a reply may take
_SECONDS_PER_REPLY = 0.00005  # more time for those behind it
_NOT_NOW = (BlockingIOError, SSLWantReadError, SSLWantWriteError)


T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """Return what ``call()`` returns, from a thread. NotAsked if none can be had."""
    try:
        return await run_in_thread(call)
    except NoThread:
        raise NotAsked("RedisStore", "get", "no thread could be started") from None


class EventLoops:
    """The connections of event loops, each made by *connect*, in a thread, when it is needed.

    A reply may take *timeout* seconds, in which its event loop is not busy with something else.
    """

    def __init__(self, connect: Callable[[], Any], *, timeout: float) -> None:
        self._connect = connect
        self._timeout = timeout
        self._closed = False
        self._reset()
        reset_after_fork(self)

    def _reset(self) -> None:
        self._open: dict[asyncio.AbstractEventLoop, _Connection] = {}
        self._connecting: dict[asyncio.AbstractEventLoop, asyncio.Task[_Connection]] = {}
        self._pid = os.getpid()

    def _after_fork(self) -> None:
        for connection in self._open.values():
            connection.drop()
        self._reset()

    async def ask(self, *command: bytes) -> Any:
        """The reply to *command*. A ResponseError that the server sent is returned; whatever else
        goes wrong is raised."""
        if self._pid != os.getpid():  # a fork that Python was not told of
            self._after_fork()
        loop = asyncio.get_running_loop()
        connection = self._open.get(loop)
        if connection is None or not connection.is_usable():
            connection = await self._connected(loop)
        reply = await connection.ask(packed(command))
        if type(reply) is _Failure:
            raise copy_exception(reply.reason, None)
        return reply

    def renew(self) -> None:
        """Make a new connection for each further command; those under way get their replies."""
        self._each(_Connection.retire)

    def close(self) -> None:
        self._closed = True
        self._each(_Connection.close)

    def _each(self, end: "Callable[[_Connection], object]") -> None:
        while self._open:
            with contextlib.suppress(KeyError):  # another thread was faster
                loop, connection = self._open.popitem()
                try:
                    loop.call_soon_threadsafe(end, connection)
                except RuntimeError:  # the loop is closed
                    connection.drop()

    async def _connected(self, loop: asyncio.AbstractEventLoop) -> "_Connection":
        task = self._connecting.get(loop)
        if task is None:
            task = self._connecting[loop] = loop.create_task(self._make(loop))
            task.add_done_callback(lambda _: self._connecting.pop(loop, None))
        return await asyncio.shield(task)  # others may wait for it too

    async def _make(self, loop: asyncio.AbstractEventLoop) -> "_Connection":
        for other in list(self._open):
            if other.is_closed() and (left := self._open.pop(other, None)) is not None:
                left.drop()
        connection = _Connection(await in_thread(self._connect), loop, self._timeout)
        self._open[loop] = connection
        if self._closed:
            self.close()
            raise ConnectionError("the store is closed")
        return connection


class _Failure:
    """What stands in for a reply when there will be none."""

    __slots__ = ("reason",)

    def __init__(self, reason: Exception) -> None:
        self.reason = reason


class _Connection:
    """A connection of redis-py that *loop* drives: commands are sent as they come, and each reply
    is that to the oldest of them.

    The reply to a task that waits no more is dropped when it comes, so that no other task gets it.
    Whatever goes wrong closes the connection, and then none of its commands has a reply.
    """

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._connection = connection
        self._sock = connection.deadline.unblocked()
        self._fd = self._sock.fileno()
        self._pending = getattr(self._sock, "pending", int)  # bytes that TLS has decrypted, or 0
        self._replies = connection.replies
        self._loop = loop
        self._timeout = timeout
        self._new: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._unsent = bytearray()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()  # and when they began to
        self._clock = 0.0  # seconds that the server has had, less those that replies have used
        self._room = MAX_REPLY_BYTES  # for the rest of the next reply
        self._ticks = self._writes = self._retired = False
        self._failure: _Failure | None = None  # once it is closed
        loop.add_reader(self._fd, self._or_close, self._read)

    def is_usable(self) -> bool:
        """Whether commands may be sent; if not, it is closed by and by."""
        if self._failure is not None or self._retired:
            return False
        if self._waiting or self._new or self._connection.deadline.is_quiet():
            return True
        self.close()  # something was sent that was not asked for, or nothing will be any more
        return False

    def ask(self, command: bytes) -> "asyncio.Future[Any]":
        """The reply to *command*, which is sent at once, or with those of the other tasks that are
        ready."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._new.append((command, future))
        if len(self._new) > 1:
            return future
        if self._waiting:
            self._loop.call_soon(self._or_close, self._send)
        else:
            self._or_close(self._send)
        return future

    def retire(self) -> None:
        """Close it once nothing waits for a reply."""
        self._retired = True
        if not self._waiting and not self._new:
            self.close()

    def close(self, reason: Exception | None = None) -> None:
        """Close it, for that *reason*."""
        if self._failure is None:
            self._failure = _Failure(reason or ConnectionError("the connection was closed"))
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self.drop()
        for future in [*(future for future, _ in self._waiting), *(new for _, new in self._new)]:
            if not future.done():
                future.set_result(self._failure)
        self._waiting.clear()
        self._new.clear()

    def drop(self) -> None:
        """Close it in this process only, and without its loop."""
        with contextlib.suppress(Exception):
            self._connection.deadline.close()

    # -- Called by the loop

    def _or_close(self, work: Callable[[], None]) -> None:
        try:
            if self._failure is None:
                work()
            elif self._new:
                self.close()
        except Exception as exc:  # noqa: BLE001  # raised in the tasks that wait
            self.close(exc)
        except BaseException:  # an interrupt, which may have left anything undone
            self.close()
            raise

    def _send(self) -> None:
        new, self._new = self._new, []
        self._waiting.extend((future, self._clock) for _, future in new)
        self._unsent += b"".join(command for command, _ in new)
        self._write()
        if not self._ticks:
            self._tick_later()

    def _write(self) -> None:
        with contextlib.suppress(*_NOT_NOW):
            del self._unsent[: self._sock.send(self._unsent)]
        if bool(self._unsent) == self._writes:
            return
        self._writes = not self._writes
        if self._writes:
            self._loop.add_writer(self._fd, self._or_close, self._write)
        else:
            self._loop.remove_writer(self._fd)

    def _read(self) -> None:
        size = _CHUNK
        while size == _CHUNK or self._pending():
            try:
                data = self._sock.recv(_CHUNK)
            except _NOT_NOW:
                break
            size = len(data)
            if not size:
                raise ConnectionError("the server closed the connection")
            self._take(data)
        if not self._waiting and self._retired:
            self.close()

    def _take(self, data: bytes) -> None:
        self._replies.feed(data)
        self._clock -= len(data) / BYTES_PER_SECOND
        self._room -= len(data)
        if self._room < 0:
            raise TooMuchData
        while (reply := self._replies.take()) is not MORE:
            if not self._waiting:
                raise UnexpectedReply("a reply to nothing")
            future, _ = self._waiting.popleft()
            self._clock -= _SECONDS_PER_REPLY
            self._room = MAX_REPLY_BYTES
            if not future.done():  # its task may have been cancelled
                future.set_result(reply)
        if self._replies.unread and not self._waiting:
            raise UnexpectedReply("more than one reply")

    def _tick_later(self) -> None:
        self._ticks = True
        self._loop.call_later(self._timeout / _TICKS, self._or_close, self._tick)

    def _tick(self) -> None:
        """Count time in turns of the loop, so that one in which it does other things for seconds is
        not held against the server."""
        self._ticks = False
        if not self._waiting:
            return
        self._clock += self._timeout / _TICKS
        if (
            self._clock - self._waiting[0][1] > self._timeout
            and self._connection.deadline.is_quiet()
        ):
            raise TimeoutError("timed out")
        self._tick_later()
