"""The same calls at the same time, of a store that is well: what a call costs here and now, with
the machine as busy as it is."""

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from llm_cache_mem import LLMCache
from llm_cache_mem.stores.base import Store

__all__ = ["PAUSE", "Control"]

PAUSE = 0.003  # of a caller, between two calls
# a caller of a store in trouble goes on and off the processor, and waits for its turn, more often
TIMES = 10
TIMEOUT = 0.25  # of the stores that are judged


def _p99(taken: Sequence[float]) -> float:
    return sorted(taken)[len(taken) * 99 // 100]


class Control:
    """Threads that ask what is in *store*, and note what each call took; the store is closed in the
    end.

    Give it a store with time: one that gives up on a busy machine would be no measure of it.
    """

    def __init__(self, store: Store, *, threads: int = 2) -> None:
        self.taken: list[float] = []
        self._store = store
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._store.close()

    def _work(self) -> None:
        cache = LLMCache(backend=self._store, coalesce=False, namespace="control")
        while True:
            began = time.monotonic()
            assert cache.get_or_call("well?", lambda messages: "well") == "well"
            self.taken.append(time.monotonic() - began)
            if self._stop.wait(PAUSE):
                return

    def judge(self, taken: Sequence[float], *, finding_out: int = 0) -> None:
        """That of the calls that *taken* tells of, one in a hundred was delayed by 50 ms, and none
        by more than its waits: for a read and a write, each of which may have to connect first.

        So many as *finding_out* may be delayed in any case: nobody knows yet that the store fails.
        Beyond that the machine is to blame, as far as the calls of the control were slow as well.
        """
        slow, slowest = _p99(self.taken), max(self.taken)
        delayed = sum(seconds >= 0.05 + TIMES * slow for seconds in taken)
        print(f"{len(taken)} calls: {delayed} delayed, longest {max(taken) * 1e3:.0f} ms")
        print(
            f"{len(self.taken)} of the control: p99 {slow * 1e3:.1f} ms, longest"
            f" {slowest * 1e3:.0f} ms"
        )
        assert delayed <= max(len(taken) / 100, finding_out)
        assert max(taken) < 4 * TIMEOUT + 0.1 + TIMES * slowest
