"""Counts of what was written, shared by all processes: what was read under a count is valid for as
long as that stays as it is."""

import os
from binascii import crc32
from collections.abc import Iterable
from mmap import ACCESS_READ, mmap

from llm_cache_mem.stores.filelock import FileLock, Held, opened

__all__ = ["Changes"]

_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_GROUPS = 2048  # of keys, each with its count; the first is that of writes to any key
_COUNT_BYTES = 8
_SIZE = _GROUPS * _COUNT_BYTES


class Changes:
    """The counts in the file of *lock*, which holds nothing else.

    A reader finds them in memory. The holder of the lock writes them, and by a system call: on a
    full disk that fails, where a write to a mapped page would end the process.
    """

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock
        self._counts: mmap | None = None  # of the file that was last found at the path,
        self._file = (0, 0)  # which it is

    def look(self) -> bool:
        """Find the file that is at the path now; whether it is the one that was there before."""
        try:
            found = os.stat(self._lock.path)
            if self._counts is not None and self._file == (found.st_dev, found.st_ino):
                return True
            self._counts = None
            if self._lock.between_processes and found.st_size >= _SIZE:
                self._map()
        except (OSError, ValueError):  # not there, or not to be read: nothing is known
            self._counts = None
        return False

    def _map(self) -> None:
        """Open the file for this alone: a lock is held for as long as the open file that has it is
        mapped."""
        with opened(self._lock.path, _FLAGS) as file:
            found = os.fstat(file.fileno())
            counts = mmap(file.fileno(), _SIZE, access=ACCESS_READ)
        self._file = found.st_dev, found.st_ino
        self._counts = counts

    def of(self, key: str) -> bytes | None:
        """The counts that change with every write to *key*; None if they are not known."""
        counts = self._counts
        if counts is None:
            return None
        at = _place(key)
        return counts[:_COUNT_BYTES] + counts[at : at + _COUNT_BYTES]

    def after_write(self, key: str) -> bytes | None:
        """What ``of(key)`` will be when the write to *key* that is in progress is counted, to that
        key alone; for the holder of the lock."""
        counts = self._counts
        if counts is None:
            return None
        at = _place(key)
        count = int.from_bytes(counts[at : at + _COUNT_BYTES], "little") + 1
        return counts[:_COUNT_BYTES] + count.to_bytes(_COUNT_BYTES, "little")

    def of_all(self) -> bytes | None:
        """The counts that change with every write; None if they are not known."""
        counts = self._counts
        return None if counts is None else counts[:]

    def count(self, held: Held, keys: Iterable[str] | None) -> None:
        """Count a write to *keys*, or to any if that is None, by the holder of the lock."""
        fd, found = held.fd, held.found
        if fd is None or found is None:
            return
        if found.st_size < _SIZE:
            os.ftruncate(fd, _SIZE)
            self.look()
        mapped = self._counts if self._file == (found.st_dev, found.st_ino) else None
        for at in (0,) if keys is None else {_place(key) for key in keys}:
            if mapped is None:
                written = os.pread(fd, _COUNT_BYTES, at)
            else:
                written = mapped[at : at + _COUNT_BYTES]
            count = int.from_bytes(written, "little") + 1
            os.pwrite(fd, count.to_bytes(_COUNT_BYTES, "little"), at)

    def close(self) -> None:
        """Let go of the file."""
        self._counts = None


def _place(key: str) -> int:
    return (1 + crc32(key.encode("utf-8", "surrogatepass")) % (_GROUPS - 1)) * _COUNT_BYTES
