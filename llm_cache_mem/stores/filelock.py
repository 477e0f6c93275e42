"""A lock for one writer among threads and processes: flock on a file, which the kernel releases
when a process dies."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from io import FileIO
from random import uniform
from time import monotonic, sleep

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem._util.turns import Turn, Turns

__all__ = ["FileLock", "Held", "no_folder"]

_FLAGS = (
    os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
)  # Windows has neither
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0001, 0.005  # between looks at a lock that others hold
_COUNT_BYTES = 8
_NO_FLOCK_HERE = frozenset((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP))

if sys.platform == "win32":  # has no flock

    def _try_flock(fd: int) -> bool:
        raise OSError(errno.ENOSYS, "no flock")

    def _unflock(fd: int) -> None:
        raise OSError(errno.ENOSYS, "no flock")

else:
    import fcntl

    def _try_flock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unflock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)


class Held:
    """The lock, held by the caller that has this object: until ``release``, or until it is gone.

    The kernel unlocks a file that is closed, so nothing stays locked when an interrupt ends the
    caller at whatever moment.
    """

    __slots__ = ("_file", "_lock", "_turn")

    def __init__(self, lock: "FileLock", turn: Turn) -> None:
        self._lock = lock
        self._turn = turn
        self._file: FileIO | None = None

    def count_write(self) -> None:
        """Count what the holder wrote, for ``FileLock.writes``."""
        file = self._file
        if file is not None and self._lock.between_processes:
            count = _count_in(file.fileno()) + 1
            os.pwrite(file.fileno(), count.to_bytes(_COUNT_BYTES, "little"), 0)

    def release(self) -> None:
        """Let others have it."""
        file, self._file = self._file, None
        try:
            if file is not None:
                if self._lock.between_processes:
                    _unflock(file.fileno())
                self._lock._file, file = file, None
        finally:
            if file is not None:
                _close(file)  # which unlocks too
            self._lock._turns.end(self._turn)


class FileLock:
    """``with lock.hold():`` waits at most *timeout* seconds, then raises TimeoutError. Not
    reentrant.

    In a forked child the lock is free, even if it was held in the parent. If the system or the file
    system has no flock, *between_processes* becomes False and the lock works among threads only.

    A file that holds nothing else may hold a count of what was written while it was locked.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._turns = Turns()  # flock belongs to the open file, which the threads share
        self._file: FileIO | None = None  # open while the lock is free
        self._counted: _Descriptor | None = None  # of the file whose count is read
        self.between_processes = sys.platform != "win32"
        reset_after_fork(self)

    def __del__(self) -> None:
        self._drop(getattr(self, "_file", None))

    def _after_fork(self) -> None:
        self._turns.reset()
        file, self._file = self._file, None
        if file is not None:
            _close(file)  # not unlock: the lock may be the parent's still

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock."""
        held = self.acquire(self._timeout)
        if held is None:
            raise TimeoutError("the write lock is held elsewhere")
        try:
            yield
        finally:
            held.release()

    def acquire(self, timeout: float) -> Held | None:
        """The lock, to be released; None if it did not come within *timeout* seconds."""
        deadline = monotonic() + timeout
        turn = self._turns.take(timeout)
        if turn is None:
            return None
        held, taken = Held(self, turn), False
        try:
            taken = not self.between_processes or self._lock_file(held, deadline)
        finally:
            if not taken:
                held._file = self._drop(held._file)  # it may be locked, if an error came after that
                held.release()
        return held if taken else None

    def close(self) -> None:
        """Close the file, unless it stays locked; the next ``with`` opens it again."""
        turn = self._turns.take(self._timeout)
        if turn is not None:
            self._file, self._counted = self._drop(self._file), None
            self._turns.end(turn)

    def writes(self) -> int | None:
        """How often the holders called ``count_write``; None if that is not known."""
        counted = self._counted
        if counted is None or not self.between_processes:
            return None
        try:
            return _count_in(counted.fd)
        except OSError:
            return None

    def look_at_file(self) -> bool:
        """Make ``writes`` read the file that is at the path now; whether it did so before."""
        if not self.between_processes:
            return True
        try:
            if self._counted is not None and self._is_at_path(self._counted.fd):
                return True
            self._counted = _Descriptor(os.open(self._path, _FLAGS & ~(os.O_RDWR | os.O_CREAT)))
        except OSError:  # not there, or not to be read: nothing is known
            self._counted = None
        return False

    @staticmethod
    def _drop(file: "FileIO | None") -> None:
        if file is not None:
            _close(file)

    def _lock_file(self, held: Held, deadline: float) -> bool:
        held._file, self._file = self._file, None
        pause = _FIRST_PAUSE
        while True:
            if held._file is None:
                held._file = FileIO(os.open(self._path, _FLAGS, 0o600), "r+")
            if not self._try_lock(held._file):
                if monotonic() >= deadline:
                    return False
                sleep(uniform(pause / 2, pause))
                pause = min(2 * pause, _LONGEST_PAUSE)
            elif not self.between_processes or self._is_at_path(held._file.fileno()):
                return True
            else:
                held._file = self._drop(held._file)

    def _try_lock(self, file: FileIO) -> bool:
        try:
            return _try_flock(file.fileno())
        except OSError as exc:
            if exc.errno not in _NO_FLOCK_HERE:
                raise
            self.between_processes = False
            return True

    def _is_at_path(self, fd: int) -> bool:
        """Whether the file is still at the path: it may have been removed together with the
        database."""
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False


class _Descriptor:
    """A file that is only read, open for as long as this object is in use."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


def _count_in(fd: int) -> int:
    return int.from_bytes(os.pread(fd, _COUNT_BYTES, 0), "little")


def _close(file: FileIO) -> None:
    with contextlib.suppress(OSError):
        file.close()


def no_folder(folder: str) -> str:
    """What to say of a file whose *folder* is missing."""
    return f"the folder {folder} does not exist: create it, or check the path"
