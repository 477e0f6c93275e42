"""The provider's prompt cache: which leading blocks of a prompt were sent before, and lately enough
to be still there.

Unlimited in size, kept alive by use, and there as soon as the request that writes it arrives. A
block counts only behind the same blocks.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

from llm_cache_mem.bench.trace import Call, Run

__all__ = ["MINIMUM_TOKENS", "PrefixTree", "Reuse"]

MINIMUM_TOKENS: Final = 1024  # below this providers neither write nor read
_FIRST_PRUNING: Final = 100_000  # nodes
_NEVER: Final = float("-inf")


Reuse: TypeAlias = tuple[tuple[int, ...], Sequence[tuple[int, ...]] | None, Sequence[int] | None]
"""The tokens of a call that were read, by lifetime, where every call reaches the provider; the same
behind each client cache, or None where it is the same; and how many tokens, written without
surcharge so far, turn out to have been worth it now that they are read where every call reaches the
provider, by lifetime, or None where there are none."""


class _Node:
    """A run of blocks behind those of its parents. *used*: when; *behind*: when behind each client
    cache, or None where that is the same.

    *paid*: the bits of the lifetimes for which whoever writes only what will be read has paid for
      these blocks.
    """

    __slots__ = ("behind", "children", "count", "paid", "tokens", "used")

    def __init__(
        self, count: int, tokens: int, used: float, behind: tuple[float, ...] | None
    ) -> None:
        self.count = count
        self.tokens = tokens
        self.used = used
        self.behind = behind
        self.children = _NO_CHILDREN
        self.paid = 0


_NO_CHILDREN: Final[dict[int, _Node]] = {}  # of all that have none: most nodes never get any
_Path: TypeAlias = list[tuple[_Node, int, float, tuple[float, ...] | None]]
"""From the root down: nodes, the tokens up to their ends, and when they were used before this call,
alone and behind each client cache."""


class PrefixTree:
    """What a provider's prompt cache holds, for several *lifetimes* (seconds), alone and behind
    each of so many *clients*.

    A call that a client cache answered does not reach the provider behind it.
    """

    def __init__(self, lifetimes: Sequence[float], clients: int = 0) -> None:
        self._lifetimes = tuple(lifetimes)
        self._shortest, self._longest = min(self._lifetimes), max(self._lifetimes)
        self._bits = [1 << place for place in range(len(self._lifetimes))]
        self._everyone = sum(self._bits)
        self._clients = clients
        self._roots: dict[tuple[str, str | None], _Node] = {}
        self._nodes = 0
        self._prune_at = _FIRST_PRUNING
        self._nothing = (0,) * len(self._lifetimes)
        self._nobody: Reuse = (self._nothing, None, None)

    def send(self, call: Call, went: Sequence[bool] | None = None) -> Reuse:
        """What *call* reads, and writes from now on. *went*: behind which client caches it reaches
        the provider; None: behind all."""
        at, _, total, _, runs, scope, model, _ = call
        if total < MINIMUM_TOKENS or not runs:
            return self._nobody
        where = (scope, model)
        root = self._roots.get(where) or self._roots.setdefault(where, _Node(0, 0, _NEVER, None))
        path = self._walk(root, runs, at, went)
        if self._nodes > self._prune_at:
            self._prune(at)
        if not path:
            return self._nobody
        alone = self._read(path, at, total)
        behind = None
        for _, _, _, before in path:
            if before is not None:
                behind = [
                    self._read_behind(client, path, at, total) for client in range(self._clients)
                ]
                break
        return alone, behind, self._pay(path, alone, total)

    def _walk(
        self, node: _Node, runs: Sequence[Run], at: float, went: Sequence[bool] | None
    ) -> _Path:
        """The nodes below *node* that *runs* begin with; for the rest of them, nodes are made. From
        now on all of them were used now."""
        path: _Path = []
        end = 0
        for place, (first, count, tokens) in enumerate(runs, 1):
            while True:
                child = node.children.get(first)
                if child is None:
                    behind = (
                        None if went is None else tuple([at if goes else _NEVER for goes in went])
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
                node.behind = None if went is None else _mixed(node, at, went)
                node.used = at
                if blocks == count:
                    break
                first += blocks
                count -= blocks
        return path

    def _grow(self, node: _Node, first: int, child: _Node) -> _Node:
        """Make *child*, whose blocks begin at *first*, one of *node*, and return it."""
        if node.children:
            node.children[first] = child
        else:
            node.children = {first: child}
        self._nodes += 1
        return child

    def _split(self, node: _Node, first: int, count: int) -> None:
        """Let *node*, whose blocks begin at *first*, end after *count* of them; the rest becomes
        its child."""
        rest = _Node(node.count - count, node.tokens, node.used, node.behind)
        rest.children, rest.paid = node.children, node.paid
        node.children, node.count = {first + count: rest}, count
        self._nodes += 1

    def _read(self, path: _Path, at: float, total: int) -> tuple[int, ...]:
        """The tokens that are still there, by lifetime. A node is used no later than those above
        it."""
        _, end, used, _ = path[-1]
        if used >= at - self._shortest:
            return (_counted(end, total),) * len(self._lifetimes)
        if path[0][2] < at - self._longest:
            return self._nothing
        return self._still_there([(end, used) for _, end, used, _ in path], at, total)

    def _read_behind(self, client: int, path: _Path, at: float, total: int) -> tuple[int, ...]:
        return self._still_there(
            [(end, used if behind is None else behind[client]) for _, end, used, behind in path],
            at,
            total,
        )

    def _still_there(self, ends: list[tuple[int, float]], at: float, total: int) -> tuple[int, ...]:
        found = []
        for lifetime in self._lifetimes:
            limit = at - lifetime
            found.append(
                _counted(max([end for end, used in ends if used >= limit], default=0), total)
            )
        return tuple(found)

    def _pay(self, path: _Path, read: tuple[int, ...], total: int) -> list[int] | None:
        """What is owed for what is *read* of *path*; see Reuse. What is not read is written anew,
        and not yet paid for."""
        owed, begin = None, 0
        least, most = min(read), max(read)
        for node, end, _, _ in path:
            if end > total:
                end = total
            if end <= least:
                reading = self._everyone
            elif end > most:
                reading = 0
            else:
                reading = sum(
                    [bit for bit, tokens in zip(self._bits, read, strict=True) if end <= tokens]
                )
            new = reading & ~node.paid
            if new:
                owed = owed or [0] * len(read)
                for place, bit in enumerate(self._bits):
                    if new & bit:
                        owed[place] += end - begin
            node.paid = reading
            begin = end
        return owed

    def _prune(self, now: float) -> None:
        """Forget what no lifetime reaches any more. A node is used no later than those above it."""
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


def _counted(end: int, total: int) -> int:
    return min(end, total) if end >= MINIMUM_TOKENS else 0


def _mixed(node: _Node, now: float, went: Sequence[bool]) -> tuple[float, ...]:
    """When *node* is used behind each client cache, after this call."""
    if node.behind is None:
        return tuple([now if goes else node.used for goes in went])
    return tuple([now if goes else then for goes, then in zip(went, node.behind, strict=True)])
