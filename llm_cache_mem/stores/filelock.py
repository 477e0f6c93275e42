"""A lock for one writer among threads and processes: flock on a file, which the kernel releases
when a process dies."""

import contextlib
import errno
import os
import sys
import threading
from random import uniform
from time import monotonic, sleep

from llm_cache_mem._util.fork import reset_after_fork

__all__ = ["FileLock", "no_folder"]

_FLAGS = (
    os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
)  # Windows has neither
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


class FileLock:
    """``with lock:`` waits at most *timeout* seconds, then raises TimeoutError. Not reentrant.

    In a forked child the lock is free, even if it was held in the parent. If the system or the file
    system has no flock, *between_processes* becomes False and the lock works among threads only.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._threads = threading.Lock()  # flock belongs to the open file, which the threads share
        self._fd = self._inode = -1
        self.between_processes = sys.platform != "win32"
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._threads = threading.Lock()
        self._drop()  # not unlock: the lock may be the parent's still

    def __enter__(self) -> None:
        if not self.acquire(self._timeout):
            raise TimeoutError("the write lock is held elsewhere")

    def acquire(self, timeout: float) -> bool:
        """Take the lock within *timeout* seconds; return whether that worked. If it did, call
        ``release`` later."""
        deadline = monotonic() + timeout
        if not self._threads.acquire(timeout=timeout):
            return False
        taken = False
        try:
            taken = not self.between_processes or self._lock_file(deadline)
        finally:
            if not taken:
                self._drop()  # it may be locked all the same, if an error came after that
                self._threads.release()
        return taken

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        try:
            if self._fd >= 0 and self.between_processes:
                _unflock(self._fd)
        except BaseException:
            self._drop()  # which unlocks too
            raise
        finally:
            self._threads.release()

    def close(self) -> None:
        """Close the file, unless it stays locked; the next ``with`` opens it again."""
        if self._threads.acquire(timeout=self._timeout):
            self._drop()
            self._threads.release()

    def _drop(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _lock_file(self, deadline: float) -> bool:
        pause = _FIRST_PAUSE
        while True:
            if self._fd < 0:
                self._fd = os.open(self._path, _FLAGS, 0o600)
                self._inode = os.fstat(self._fd).st_ino
            if not self._try_lock():
                if monotonic() >= deadline:
                    return False
                sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * uniform(1, 2))
            elif not self.between_processes or self._is_current():
                return True
            else:
                self._drop()

    def _try_lock(self) -> bool:
        try:
            return _try_flock(self._fd)
        except OSError as exc:
            if exc.errno not in _NO_FLOCK_HERE:
                raise
            self.between_processes = False
            return True

    def _is_current(self) -> bool:
        """Whether the locked file is still at the path: it may have been removed together with the
        database."""
        try:
            return os.stat(self._path).st_ino == self._inode
        except FileNotFoundError:
            return False


def no_folder(folder: str) -> str:
    """What to say of a file whose *folder* is missing."""
    return f"the folder {folder} does not exist: create it, or check the path"
