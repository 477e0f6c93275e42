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

from llm_cache_mem._util.fair_lock import FairLock, Place
from llm_cache_mem._util.fork import reset_after_fork

__all__ = ["FileLock", "Held", "no_folder", "opened"]

_FLAGS = (
    os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
)  # Windows has neither
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
_MODES = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "r+"}  # what a file object may do
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0001, 0.005  # between looks at a lock that others hold
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

    __slots__ = ("_file", "_lock", "_place", "found")

    def __init__(self, lock: "FileLock", place: Place) -> None:
        self._lock = lock
        self._place = place
        self._file: FileIO | None = None
        self.found: os.stat_result | None = None  # what was at the path when it was locked

    @property
    def fd(self) -> int | None:
        """The descriptor of the locked file; None where there is no flock."""
        file = self._file
        return None if file is None or not self._lock.between_processes else file.fileno()

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
            self._lock._among_threads.release(self._place)


class FileLock:
    """``with lock.hold():`` waits at most *timeout* seconds, then raises TimeoutError. Not
    reentrant.

    In a forked child the lock is free, even if it was held in the parent. If the system or the file
    system has no flock, *between_processes* becomes False and the lock works among threads only.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self._timeout = timeout
        self._among_threads = FairLock()  # flock belongs to the open file, which the threads share
        self._file: FileIO | None = None  # open while the lock is free
        self.between_processes = sys.platform != "win32"
        reset_after_fork(self)

    def __del__(self) -> None:
        self._drop(getattr(self, "_file", None))

    def _after_fork(self) -> None:
        self._among_threads.reset()
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
        place = self._among_threads.acquire(timeout)
        if place is None:
            return None
        held, taken = Held(self, place), False
        try:
            taken = not self.between_processes or self._lock_file(held, deadline)
        finally:
            if not taken:
                held._file = self._drop(held._file)  # it may be locked, if an error came after that
                held.release()
        return held if taken else None

    def close(self) -> None:
        """Close the file, unless it stays locked; the next ``with`` opens it again."""
        place = self._among_threads.acquire(self._timeout)
        if place is not None:
            self._file = self._drop(self._file)
            self._among_threads.release(place)

    @staticmethod
    def _drop(file: "FileIO | None") -> None:
        if file is not None:
            _close(file)

    def _lock_file(self, held: Held, deadline: float) -> bool:
        held._file, self._file = self._file, None
        pause = _FIRST_PAUSE
        while True:
            if held._file is None:
                held._file = opened(self.path, _FLAGS)
            if not self._try_lock(held._file):
                if monotonic() >= deadline:
                    return False
                sleep(uniform(pause / 2, pause))
                pause = min(2 * pause, _LONGEST_PAUSE)
            elif not self.between_processes or self._is_at_path(held):
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

    def _is_at_path(self, held: Held) -> bool:
        """Whether the locked file is still at the path: it may have been removed together with the
        database."""
        file = held._file
        if file is None:
            return False
        try:
            held.found = os.stat(self.path)
            return os.path.samestat(os.fstat(file.fileno()), held.found)
        except FileNotFoundError:
            return False


def opened(path: str, flags: int) -> FileIO:
    """The file at *path*, which *flags* may make for this user alone.

    Both calls are made in C: between them, a signal handler that raises would leave a descriptor
    that belongs to no object.
    """
    return next(map(FileIO, map(os.open, (path,), (flags,), (0o600,)), (_MODES[flags & _ACCESS],)))


def _close(file: FileIO) -> None:
    with contextlib.suppress(OSError):
        file.close()


def no_folder(folder: str) -> str:
    """What to say of a file whose *folder* is missing."""
    return f"the folder {folder} does not exist: create it, or check the path"
