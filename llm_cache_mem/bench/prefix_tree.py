"""The provider's prompt cache: the leading blocks of a prompt that were sent before and have not
expired.

It is unlimited in size, refreshed by use, and readable as soon as the request that writes it
arrives. A block matches only behind the same blocks.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

from llm_cache_mem.bench.trace import Call, Run

__all__ = ["MINIMUM_TOKENS", "PrefixTree", "Reuse"]

MINIMUM_TOKENS: Final = 1024  # providers cache no shorter prompts
_FIRST_PRUNING: Final = 100_000  # nodes
_NEVER: Final = float("-inf")


Reuse: TypeAlias = tuple[tuple[int, ...], Sequence[tuple[int, ...]] | None, Sequence[int] | None]
"""What a call reads, one number of tokens per TTL: without a client cache; behind each client
cache, or None if that is the same; and how many tokens written without a client cache are now read
for the first time (the useful writes), or None if there are none."""


class _Node:
    """A run of blocks behind those of its parents.

    *used* is when it was last sent without a client cache, and *behind* when behind each client
    cache, or None if that is the same. *counted* has a bit for each TTL whose useful writes include
    these blocks.
    """

    __slots__ = ("behind", "children", "count", "counted", "tokens", "used")

    def __init__(
        self, count: int, tokens: int, used: float, behind: tuple[float, ...] | None
    ) -> None:
        self.count = count
        self.tokens = tokens
        self.used = used
        self.behind = behind
        self.children = _NO_CHILDREN
        self.counted = 0


_NO_CHILDREN: Final[dict[int, _Node]] = {}  # shared: most nodes never get a child
_Path: TypeAlias = list[tuple[_Node, int, float, tuple[float, ...] | None]]
"""From the root down: each node, the tokens up to its end, and its *used* and *behind* before this
call."""


class PrefixTree:
    """The contents of a provider's prompt cache for several *ttls* (seconds), without a client
    cache and behind each of *clients* caches, whose hits do not reach the provider."""

    def __init__(self, ttls: Sequence[float], clients: int = 0) -> None:
        self._ttls = tuple(ttls)
        self._shortest, self._longest = min(self._ttls), max(self._ttls)
        self._bits = [1 << place for place in range(len(self._ttls))]
        self._all_bits = sum(self._bits)
        self._clients = clients
        self._roots: dict[tuple[str, str | None], _Node] = {}
        self._nodes = 0
        self._prune_at = _FIRST_PRUNING
        self._zeros = (0,) * len(self._ttls)
        self._nothing_read: Reuse = (self._zeros, None, None)

    def send(self, call: Call, missed: Sequence[bool] | None = None) -> Reuse:
        """Send *call* and return what it reads. *missed*: in which client caches it missed, and so
        reaches the provider; None: in all."""
        at, _, total, _, runs, scope, model, _ = call
        if total < MINIMUM_TOKENS or not runs:
            return self._nothing_read
        where = (scope, model)
        root = self._roots.get(where) or self._roots.setdefault(where, _Node(0, 0, _NEVER, None))
        path = self._walk(root, runs, at, missed)
        if self._nodes > self._prune_at:
            self._prune(at)
        if not path:
            return self._nothing_read
        alone = self._read(path, at, total)
        behind = None
        for _, _, _, before in path:
            if before is not None:
                behind = [
                    self._read_behind(client, path, at, total) for client in range(self._clients)
                ]
                break
        return alone, behind, self._useful_writes(path, alone, total)

    def _walk(
        self, node: _Node, runs: Sequence[Run], at: float, missed: Sequence[bool] | None
    ) -> _Path:
        """Return the nodes below *node* that match the beginning of *runs*, add nodes for the rest,
        and mark all of them as used."""
        path: _Path = []
        end = 0
        for place, (first, count, tokens) in enumerate(runs, 1):
            while True:
                child = node.children.get(first)
                if child is None:
                    behind = (
                        None
                        if missed is None
                        else tuple([at if reaches else _NEVER for reaches in missed])
                    )
                    node = self._grow(node, first, _Node(count, tokens, at, behind))
                    for first, count, tokens in runs[place:]:
                        node = self._grow(node, first, _Node(count, tokens, at, behind))
                    return path
                blocks = child.count
                if blocks > count:
                    self._split(child, first, count)
                    blocks = count
                node = child
                end += blocks * tokens
                path.append((node, end, node.used, node.behind))
                node.behind = None if missed is None else _used_behind(node, at, missed)
                node.used = at
                if blocks == count:
                    break
                first += blocks
                count -= blocks
        return path

    def _grow(self, node: _Node, first: int, child: _Node) -> _Node:
        """Add *child*, whose blocks begin at *first*, to *node* and return it."""
        if node.children:
            node.children[first] = child
        else:
            node.children = {first: child}
        self._nodes += 1
        return child

    def _split(self, node: _Node, first: int, count: int) -> None:
        """Cut *node*, whose blocks begin at *first*, after *count* of them; the rest becomes its
        child."""
        rest = _Node(node.count - count, node.tokens, node.used, node.behind)
        rest.children, rest.counted = node.children, node.counted
        node.children, node.count = {first + count: rest}, count
        self._nodes += 1

    def _read(self, path: _Path, at: float, total: int) -> tuple[int, ...]:
        """Return the unexpired tokens, one number per TTL. A node is used no later than its
        parents."""
        _, end, used, _ = path[-1]
        if used >= at - self._shortest:
            return (_readable(end, total),) * len(self._ttls)
        if path[0][2] < at - self._longest:
            return self._zeros
        return self._unexpired([(end, used) for _, end, used, _ in path], at, total)

    def _read_behind(self, client: int, path: _Path, at: float, total: int) -> tuple[int, ...]:
        return self._unexpired(
            [(end, used if behind is None else behind[client]) for _, end, used, behind in path],
            at,
            total,
        )

    def _unexpired(self, ends: list[tuple[int, float]], at: float, total: int) -> tuple[int, ...]:
        found = []
        for ttl in self._ttls:
            limit = at - ttl
            found.append(
                _readable(max([end for end, used in ends if used >= limit], default=0), total)
            )
        return tuple(found)

    def _useful_writes(self, path: _Path, read: tuple[int, ...], total: int) -> list[int] | None:
        """Return the useful writes among what is *read* of *path*; see Reuse. What is not read is
        written again, and not useful yet."""
        useful, begin = None, 0
        least, most = min(read), max(read)
        for node, end, _, _ in path:
            if end > total:
                end = total
            if end <= least:
                reading = self._all_bits
            elif end > most:
                reading = 0
            else:
                reading = sum(
                    [bit for bit, tokens in zip(self._bits, read, strict=True) if end <= tokens]
                )
            new = reading & ~node.counted
            if new:
                useful = useful or [0] * len(read)
                for place, bit in enumerate(self._bits):
                    if new & bit:
                        useful[place] += end - begin
            node.counted = reading
            begin = end
        return useful

    def _prune(self, now: float) -> None:
        """Forget nodes that have expired for every TTL. A node is used no later than its
        parents."""
        limit = now - self._longest
        self._nodes = 0
        for where, root in list(self._roots.items()):
            stack = [root]
            while stack:
                node = stack.pop()
                children = node.children
                for first in [first for first, child in children.items() if child.used < limit]:
                    del children[first]
                self._nodes += len(children)
                stack.extend([child for child in children.values() if child.children])
            if not root.children:
                del self._roots[where]
        self._prune_at = max(_FIRST_PRUNING, 2 * self._nodes)


def _readable(end: int, total: int) -> int:
    return min(end, total) if end >= MINIMUM_TOKENS else 0


def _used_behind(node: _Node, now: float, missed: Sequence[bool]) -> tuple[float, ...]:
    """Return when *node* was last used behind each client cache, this call included."""
    if node.behind is None:
        return tuple([now if reaches else node.used for reaches in missed])
    return tuple(
        [now if reaches else then for reaches, then in zip(missed, node.behind, strict=True)]
    )
