"""The latest misses, with their requests and what became of the answers."""

from collections import deque

from llm_cache_mem.keys.request import Request

__all__ = ["Miss", "Misses"]

_MOST = 20


class Miss:
    """A lookup that found nothing: *at* in Unix seconds; *state* as in Explanation; *outcome*:
    ``stored``, why the answer was not stored, or "" while that is unknown."""

    __slots__ = ("at", "outcome", "request", "state")

    def __init__(self, request: Request, at: float, state: str) -> None:
        self.request, self.at, self.state, self.outcome = request, at, state, ""


class Misses:
    """The latest 20 misses of a cache that stores requests. Thread-safe."""

    def __init__(self) -> None:
        self._misses: deque[Miss] = deque(maxlen=_MOST)

    def add(self, request: Request, at: float, state: str) -> None:
        """Remember that *request* was looked for *at* that time and not found."""
        bare = request._replace(messages=None, params={})  # its text is enough: let objects go
        self._misses.append(Miss(bare, at, state))

    def set_outcome(self, key: str, outcome: str) -> None:
        """Set the *outcome* of the latest miss of *key*."""
        for miss in self.last(_MOST):
            if miss.request.key == key:
                miss.outcome = outcome
                return

    def last(self, most: int) -> list[Miss]:
        """At most *most* misses, the latest first."""
        return list(self._misses)[: -max(most, 0) - 1 : -1]

    def cause(self, miss: Miss) -> tuple[str, str]:
        """The state that explains *miss*, given the misses before it, and why its answers are not
        stored, if they are not."""
        same = [other for other in self.last(_MOST) if other.request.key == miss.request.key]
        reason = next((other.outcome for other in same if other.outcome not in ("", "stored")), "")
        if reason and miss.outcome != "stored":
            return "skipped", reason
        earlier = same[same.index(miss) + 1 :] if miss in same else []
        if miss.state == "absent" and any(other.outcome == "stored" for other in earlier):
            return "gone", ""
        return miss.state, ""
