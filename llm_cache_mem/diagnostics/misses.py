"""The last lookups that found nothing, with what was asked and what became of the answer, for those
who ask why."""

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_cache_mem.keys.request import Request

__all__ = ["Miss", "Misses"]

_MOST = 20


class Miss:
    """One of them: *at* in Unix seconds; *state* as in Explanation; *outcome*: ``stored``, why not,
    or "" as long as nobody knows."""

    __slots__ = ("at", "outcome", "request", "state")

    def __init__(self, request: "Request", at: float, state: str) -> None:
        self.request, self.at, self.state, self.outcome = request, at, state, ""


class Misses:
    """The last 20 of a cache that keeps requests. Thread-safe."""

    def __init__(self) -> None:
        self._misses: deque[Miss] = deque(maxlen=_MOST)

    def note(self, request: "Request", at: float, state: str) -> None:
        """*request* was looked for *at* that time, in vain."""
        self._misses.append(
            Miss(request._replace(messages=None, params={}), at, state)
        )  # *kept* is enough: the caller's objects may go

    def became(self, key: str, outcome: str) -> None:
        """The answer to the request of *key* was ``stored``, or not: for what reason."""
        for miss in self.last(_MOST):
            if miss.request.key == key:
                miss.outcome = outcome
                return

    def last(self, most: int) -> list[Miss]:
        """The latest of them first, at most *most*."""
        return list(self._misses)[: -max(most, 0) - 1 : -1]

    def cause(self, miss: Miss) -> tuple[str, str]:
        """The state that explains *miss*, with what came before it in sight; and, of answers that
        are not kept, why."""
        same = [other for other in self.last(_MOST) if other.request.key == miss.request.key]
        unkept = next((other.outcome for other in same if other.outcome not in ("", "stored")), "")
        if unkept and miss.outcome != "stored":
            return "unkept", unkept
        earlier = same[same.index(miss) + 1 :] if miss in same else []
        if miss.state == "absent" and any(other.outcome == "stored" for other in earlier):
            return "gone", ""
        return miss.state, ""
