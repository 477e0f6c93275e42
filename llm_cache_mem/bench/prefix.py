"""The provider's prompt cache: which leading blocks of a prompt were sent before, and lately enough to be still there.

Unlimited in size, kept alive by use, and there as soon as the request that writes it arrives. A block counts only behind the same blocks.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from llm_cache_mem.bench.trace import Call

__all__ = ["MINIMUM_TOKENS", "PrefixTree", "Reuse"]

MINIMUM_TOKENS: Final = 1024  # below this providers neither write nor read
_FIRST_PRUNING: Final = 100_000  # nodes
_NEVER: Final = float("-inf")


class _Node:
    """A run of blocks behind those of its parents. *used*: when, by each stream of calls, or for all of them alike.

    *paid*: the bits of the lifetimes for which whoever writes only what will be read has paid for these blocks.
    """

    __slots__ = ("children", "count", "paid", "tokens", "used")

    def __init__(self, count: int, tokens: int, used: "float | tuple[float, ...]") -> None:
        self.count = count
        self.tokens = tokens
        self.used = used
        self.children: dict[int, _Node] = {}
        self.paid = 0


class PrefixTree:
    """What a provider's prompt cache holds, for several *streams* of calls at once and for several *lifetimes* (seconds).

    The streams are the same calls behind different client caches: a call that one of them answered does not reach the provider.
    """

    def __init__(self, lifetimes: Sequence[float], streams: int = 1) -> None:
        self._lifetimes = tuple(lifetimes)
        self._shortest, self._longest = min(self._lifetimes), max(self._lifetimes)
        self._bits = [1 << place for place in range(len(self._lifetimes))]
        self._streams = streams
        self._roots: dict[tuple[str, str | None], _Node] = {}
        self._nodes = 0
        self._prune_at = _FIRST_PRUNING
        self._nothing: tuple[int, ...] = (0,) * len(self._lifetimes)
        self._nobody = Reuse((self._nothing,) * self._streams, self._nothing)

    def send(self, call: Call, went: Sequence[bool] | None = None) -> "Reuse":
        """What *call* reads, by stream and lifetime, and writes from now on. *went*: which streams it is in; None: in all of them."""
        if call.input_tokens < MINIMUM_TOKENS or not call.runs:
            return self._nobody
        matched = self._match(call)
        reads = self._reads(call, matched)
        paid = self._pay(matched, reads[0], call.input_tokens)
        if went is None:
            at = call.at
            for node, _ in matched:
                node.used = at
        else:
            for node, _ in matched:
                node.used = _mixed(node.used, call.at, went)
        if self._nodes > self._prune_at:
            self._prune(call.at)
        return Reuse(reads, paid)

    def _match(self, call: Call) -> list[tuple[_Node, int]]:
        """The nodes that *call* is made of, each with the tokens up to its end; those that are not there yet are made."""
        where = (call.scope, call.model)
        node = self._roots.get(where) or self._roots.setdefault(where, _Node(0, 0, _NEVER))
        path, end = [], 0
        for first, count, tokens in call.runs:
            while True:
                children = node.children
                node = children.get(first)  # type: ignore[assignment]  # looked at in the next line
                if node is None:
                    node = children[first] = _Node(count, tokens, _NEVER)
                    self._nodes += 1
                elif node.count > count:
                    self._split(node, first, count)
                blocks = node.count
                end += blocks * tokens
                path.append((node, end))
                if blocks == count:
                    break
                first += blocks
                count -= blocks
        return path

    def _split(self, node: _Node, first: int, count: int) -> None:
        """Let *node*, whose blocks begin at *first*, end after *count* of them; the rest becomes its child."""
        rest = _Node(node.count - count, node.tokens, node.used)
        rest.children, rest.paid = node.children, node.paid
        node.children, node.count = {first + count: rest}, count
        self._nodes += 1

    def _reads(self, call: Call, matched: list[tuple[_Node, int]]) -> tuple[tuple[int, ...], ...]:
        """The tokens of *call* that are still there. A node is used no later than those above it."""
        sure, oldest = call.at - self._shortest, call.at - self._longest
        for_all, differ = 0, None
        for node, end in matched:
            used = node.used
            if isinstance(used, tuple):
                limits = [call.at - lifetime for lifetime in self._lifetimes]
                return tuple([self._read_by(stream, call, matched, limits) for stream in range(self._streams)])
            if used >= sure:
                for_all = end
            elif used < oldest:
                break
            else:
                differ = differ or [for_all] * len(self._lifetimes)
                for place, lifetime in enumerate(self._lifetimes):
                    if used >= call.at - lifetime:
                        differ[place] = end
        return (_counted(differ or [for_all] * len(self._lifetimes), call),) * self._streams

    def _read_by(self, stream: int, call: Call, matched: list[tuple[_Node, int]], limits: list[float]) -> tuple[int, ...]:
        found = [0] * len(limits)
        for node, end in matched:
            used = node.used[stream] if isinstance(node.used, tuple) else node.used
            for place, limit in enumerate(limits):
                if used >= limit:
                    found[place] = end
        return _counted(found, call)

    def _pay(self, matched: list[tuple[_Node, int]], read: tuple[int, ...], total: int) -> tuple[int, ...]:
        """How many tokens, written without surcharge so far, turn out to have been worth it now that they are read, by lifetime.

        What is not read is written anew, and not yet paid for.
        """
        owed, begin = None, 0
        least, most = min(read), max(read)
        everyone = (1 << len(read)) - 1
        for node, end in matched:
            end = min(end, total)
            if end > most:
                node.paid = 0
            else:
                reading = everyone if end <= least else sum([bit for bit, tokens in zip(self._bits, read, strict=True) if end <= tokens])
                if reading != node.paid:
                    owed = owed or [*self._nothing]
                    for place, bit in enumerate(self._bits):
                        if reading & bit and not node.paid & bit:
                            owed[place] += end - begin
                    node.paid = reading
            begin = end
        return tuple(owed) if owed else self._nothing

    def _prune(self, now: float) -> None:
        """Forget what no lifetime reaches any more. A node is used no later than those above it."""
        limit = now - self._longest
        self._nodes = 0
        for where, root in list(self._roots.items()):
            stack = [root]
            while stack:
                node = stack.pop()
                node.children = {first: child for first, child in node.children.items() if _latest(child) >= limit}
                self._nodes += len(node.children)
                stack.extend(node.children.values())
            if not root.children:
                del self._roots[where]
        self._prune_at = max(_FIRST_PRUNING, 2 * self._nodes)


class Reuse(NamedTuple):
    """*read*: tokens of a call that were read, by stream and lifetime. *owed*: see ``_pay``; of the first stream, by lifetime."""

    read: tuple[tuple[int, ...], ...]
    owed: tuple[int, ...]


def _counted(ends: list[int], call: Call) -> tuple[int, ...]:
    total = call.input_tokens
    return tuple([(end if end < total else total) if end >= MINIMUM_TOKENS else 0 for end in ends])


def _mixed(used: float | tuple[float, ...], now: float, went: Sequence[bool]) -> tuple[float, ...]:
    before = used if isinstance(used, tuple) else (used,) * len(went)
    return tuple([now if goes else then for goes, then in zip(went, before, strict=True)])


def _latest(node: _Node) -> float:
    return max(node.used) if isinstance(node.used, tuple) else node.used
