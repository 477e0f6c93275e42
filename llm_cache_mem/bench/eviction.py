"""Eviction policies compared with each other and with the best possible one, on keys alone.

A missing key is admitted at once, and every policy holds at most *size* keys. LRU and SIEVE are the
library's own stores; the others follow their papers, with the authors' settings.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Final, Protocol

from llm_cache_mem.stores.memory import MemoryStore
from llm_cache_mem.stores.sieve import SieveStore
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

__all__ = ["DEFAULT_SIZES", "POLICIES", "StorePolicy", "best_hits", "compare", "count_hits"]

DEFAULT_SIZES: Final = (64, 256, 1000, 4000)
_ANSWER: Final = Entry(Payload.of(None), stored_at=0.0)  # for every key: never read


class Policy(Protocol):
    """An eviction policy, which sees every request in order."""

    def request(self, key: int) -> bool:
        """Return whether *key* is held; if not, admit it or not, as the policy decides."""
        ...


class StorePolicy:
    """The policy of *store*, which does the evicting."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self._get, self._put = store.get, store.put

    def request(self, key: int) -> bool:
        name = str(key)
        if self._get(name) is not None:
            return True
        self._put(name, _ANSWER)
        return False


class FIFO:
    """Evicts the oldest key."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._keys: dict[int, None] = {}
        self._queue: deque[int] = deque()

    def request(self, key: int) -> bool:
        if key in self._keys:
            return True
        self._keys[key] = None
        self._queue.append(key)
        if len(self._queue) > self._size:
            del self._keys[self._queue.popleft()]
        return False


class S3FIFO:
    """S3-FIFO (Yang et al., SOSP 2023): a small queue for new keys, a main queue for keys requested
    again, and a ghost queue of evicted ones."""

    def __init__(self, size: int) -> None:
        self._small_size = max(1, size // 10)
        self._main_size = size - self._small_size
        self._small: deque[int] = deque()
        self._main: deque[int] = deque()
        self._ghost: OrderedDict[int, None] = OrderedDict()
        self._uses: dict[int, int] = {}

    def request(self, key: int) -> bool:
        uses = self._uses.get(key)
        if uses is not None:
            self._uses[key] = min(uses + 1, 3)
            return True
        while len(self._uses) >= self._small_size + self._main_size:
            self._evict()
        if key in self._ghost:
            del self._ghost[key]
            self._main.append(key)
        else:
            self._small.append(key)
        self._uses[key] = 0
        return False

    def _evict(self) -> None:
        if len(self._small) >= self._small_size or not self._main:
            self._evict_small()
        else:
            self._evict_main()

    def _evict_small(self) -> None:
        while self._small:
            key = self._small.popleft()
            if self._uses[key] <= 1:
                del self._uses[key]
                self._ghost[key] = None
                if len(self._ghost) > self._main_size:
                    self._ghost.popitem(last=False)
                return
            self._uses[key] = 0
            self._main.append(key)
            if len(self._main) > self._main_size:
                self._evict_main()
                return

    def _evict_main(self) -> None:
        while True:
            key = self._main.popleft()
            if not self._uses[key]:
                del self._uses[key]
                return
            self._uses[key] -= 1
            self._main.append(key)


class WTinyLFU:
    """W-TinyLFU (Einziger et al., ToS 2017): a window of 1 % in front of a segmented LRU.

    A key enters the latter only if it was requested more often than the key it would replace.
    Frequencies are counted exactly, and halved after ten times *size* requests.
    """

    def __init__(self, size: int) -> None:
        self._window_size = max(1, size // 100)
        self._main_size = size - self._window_size
        self._protected_size = self._main_size * 8 // 10
        self._window: OrderedDict[int, None] = OrderedDict()
        self._probation: OrderedDict[int, None] = OrderedDict()
        self._protected: OrderedDict[int, None] = OrderedDict()
        self._uses: dict[int, int] = {}
        self._left = self._period = 10 * size

    def request(self, key: int) -> bool:
        self._count(key)
        for segment in (self._window, self._protected):
            if key in segment:
                segment.move_to_end(key)
                return True
        if key in self._probation:
            del self._probation[key]
            self._protected[key] = None
            if len(self._protected) > self._protected_size:
                demoted, _ = self._protected.popitem(last=False)
                self._probation[demoted] = None
            return True
        self._window[key] = None
        if len(self._window) > self._window_size:
            candidate, _ = self._window.popitem(last=False)
            self._admit(candidate)
        return False

    def _count(self, key: int) -> None:
        self._uses[key] = min(self._uses.get(key, 0) + 1, 15)
        self._left -= 1
        if not self._left:
            self._left = self._period
            self._uses = {key: uses // 2 for key, uses in self._uses.items() if uses > 1}

    def _admit(self, candidate: int) -> None:
        if len(self._probation) + len(self._protected) < self._main_size:
            self._probation[candidate] = None
            return
        segment = self._probation or self._protected
        if not segment:  # the main part has no room
            return
        victim = next(iter(segment))
        if self._uses.get(candidate, 0) > self._uses.get(victim, 0):
            del segment[victim]
            self._probation[candidate] = None


POLICIES: Final[dict[str, Callable[[int], Policy]]] = {
    "LRU": lambda size: StorePolicy(MemoryStore(max_size=size)),
    "FIFO": FIFO,
    "SIEVE": lambda size: StorePolicy(SieveStore(max_size=size)),
    "S3-FIFO": S3FIFO,
    "W-TinyLFU": WTinyLFU,
}


def count_hits(policy: Policy, requests: Iterable[int]) -> int:
    """Return how many of *requests*, in order, are hits."""
    return sum(map(policy.request, requests))


def best_hits(size: int, requests: Sequence[int]) -> int:
    """Return the most hits that any cache of *size* keys can have: Belady's policy, which knows all
    of *requests*, evicts the key needed last, or does not admit it."""
    never = len(requests)
    following = [never] * len(requests)
    last: dict[int, int] = {}
    for place in range(len(requests) - 1, -1, -1):
        key = requests[place]
        following[place] = last.get(key, never)
        last[key] = place
    held: dict[int, int] = {}  # the keys in the cache, and when each is needed next
    latest: list[tuple[int, int]] = []  # a heap of (-when, key), with outdated pairs in it
    hits = 0
    for key, then in zip(requests, following, strict=True):
        if key in held:
            hits += 1
        elif then == never:  # not worth admitting
            continue
        if then == never:
            del held[key]
            continue
        held[key] = then
        heappush(latest, (-then, key))
        if len(held) > size:
            while held.get(latest[0][1]) != -latest[0][0]:
                heappop(latest)
            _, victim = heappop(latest)
            del held[victim]
        if len(latest) > 4 * size + 1000:
            latest = [(-when, key) for key, when in held.items()]
            heapify(latest)
    return hits


def compare(requests: Sequence[int], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Return the hits of the best possible eviction and of each policy for each of *sizes*;
    *requests* are keys as numbers."""
    return [
        {
            "max_size": size,
            "best": best_hits(size, requests),
            "hits": {name: count_hits(policy(size), requests) for name, policy in POLICIES.items()},
        }
        for size in sizes
    ]
