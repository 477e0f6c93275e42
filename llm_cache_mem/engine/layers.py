"""Layers above one another on one cache: the lowest answers, and each call is counted once.

An HTTP layer says which requests it has in hand, so that none under it looks them up again. While
it is installed for the whole process, a layer above, such as LangChain's, whose own lookup finds
nothing, waits to learn whether the HTTP layer answers the call that it now makes. If so, the entry,
the count and the call are those of the HTTP layer. If not, as with a model in this process, the
layer above counts its miss and stores the answer as ever.

In a test it is the other way round: a layer above answers its own calls, so that in mode ``replay``
no model is called that the HTTP layer cannot see, and recordings are of the layer that a test uses.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal
from weakref import WeakSet

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.keys.request import Request
from llm_cache_mem.values.entry import Entry

__all__ = ["Above", "Layers", "Outcome", "RequestSeen", "call_above"]

Outcome = Literal["hit", "coalesced", "miss", "skipped"]

_MOST: Final = 1024
"""How many calls may wait to be settled; the oldest have failed."""


class RequestSeen(LLMCacheError):
    """Ends a call of which only the *request* is wanted; None: the HTTP layer does not cache it."""

    def __init__(self, request: Request | None) -> None:
        super().__init__("only the request was wanted")
        self.request = request


class Above:
    """A call of a layer above that has found nothing of its own.

    *seen*: whether the HTTP layer has looked it up, and counted that. *outcome* is what became of
    it, None while nothing has; *key* is that of the HTTP layer. *zero_usage*: whether a hit is to
    report no tokens, as the layer above promises. *depends_on*: the names on which the answer
    depends. *passes*: whether the HTTP layer is to let the
    call pass.
    """

    __slots__ = (
        "_answer",
        "depends_on",
        "is_over",
        "key",
        "layers",
        "missed",
        "outcome",
        "passes",
        "seen",
        "zero_usage",
    )

    def __init__(
        self,
        layers: "Layers",
        missed: Callable[[], object],
        *,
        zero_usage: bool,
        passes: bool = False,
    ) -> None:
        self.layers = layers
        self.passes = passes
        self.missed = missed
        self.zero_usage = zero_usage
        self.depends_on: tuple[str, ...] = ()
        self.seen = False
        self.outcome: Outcome | None = None
        self.key: str | None = None
        self.is_over = False
        self._answer: Any = None

    def answered(self, outcome: Outcome, key: str | None, answer: Any = None) -> None:
        """Note what the HTTP layer made of the call; *answer* has the entry, or will have it."""
        self.outcome, self.key, self._answer = outcome, key, answer

    @property
    def entry(self) -> Entry | None:
        """The entry of the HTTP layer, as far as it is stored."""
        entry: Entry | None = getattr(self._answer, "entry", None)
        return entry

    @property
    def is_hit(self) -> bool:
        """Whether the call cost nothing."""
        return self.outcome in ("hit", "coalesced")


_in_hand: "ContextVar[tuple[Layers, ...]]" = ContextVar("llm_cache_mem.layers", default=())
_only_seen: "ContextVar[Layers | None]" = ContextVar("llm_cache_mem.only_seen", default=None)
_above: "ContextVar[Above | None]" = ContextVar("llm_cache_mem.above", default=None)


def call_above(layers: "Layers") -> Above | None:
    """The call of a layer above that this context makes, if nothing has answered it yet."""
    if not layers.active:
        return None
    above = _above.get()
    if above is None or above.layers is not layers or above.outcome or above.is_over:
        return None
    return above


class Layers:
    """The calls of layers above that are under way on one engine. Thread-safe."""

    def __init__(self) -> None:
        self.active = False
        """Whether an HTTP layer on this engine is under every call of the process."""
        self.above_answers = False
        """Whether that leaves the calls of layers above to them."""
        self.clients: WeakSet[Any] = WeakSet()
        """The clients of SDKs all of whose calls an HTTP layer on this engine sees."""
        self._waiting: dict[str, list[Above]] = {}
        self._below: dict[str, str] = {}
        self._lock = threading.Lock()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def has_in_hand(self) -> bool:
        """Whether a layer has the request in hand that this context sends."""
        return any(held is self for held in _in_hand.get())

    @contextmanager
    def in_hand(self) -> Iterator[None]:
        """Let no layer underneath answer what this block sends."""
        token = _in_hand.set((*_in_hand.get(), self))
        try:
            yield
        finally:
            _in_hand.reset(token)

    @contextmanager
    def only_seen(self) -> Iterator[None]:
        """End each call of this block with RequestSeen, before it is looked up or sent. Only for
        calls of *clients*: others would be sent."""
        token = _only_seen.set(self)
        try:
            yield
        finally:
            _only_seen.reset(token)

    @property
    def sees_only(self) -> bool:
        """Whether only the request of the call is wanted."""
        return _only_seen.get() is self

    def after_lookup(
        self, request: Request, missed: Iterable[Callable[[], None]], *, zero_usage: bool
    ) -> None:
        """After a lookup of a layer above: if it *missed*, which counts that, see to the call that
        this context makes next."""
        for count in missed:
            if self.above_answers:
                count()
                _above.set(Above(self, count, zero_usage=False, passes=True))
            else:
                needs = () if request.depends_on is None else request.depends_on.names
                self.expect(request.key, count, zero_usage=zero_usage, depends_on=needs)

    def expect(
        self,
        key: str,
        missed: Callable[[], object],
        *,
        zero_usage: bool,
        depends_on: tuple[str, ...] = (),
    ) -> None:
        """Wait for what becomes of the call that missed under *key*. *missed* counts the miss.
        *depends_on*: the names on which its answer depends."""
        above = Above(self, missed, zero_usage=zero_usage)
        above.depends_on = depends_on
        with self._lock:
            self._waiting.setdefault(key, []).append(above)
            if len(self._waiting) > _MOST:
                del self._waiting[next(iter(self._waiting))]
        _above.set(above)

    def peek(self, key: str) -> Above | None:
        """The call that missed under *key*, still to be settled."""
        mine, waiting = _above.get(), self._waiting.get(key)
        if not waiting:
            return None
        return mine if mine in waiting else waiting[0]

    def settle(self, key: str) -> Above | None:
        """The call that missed under *key*, if the HTTP layer has seen to it; else its miss is
        counted now. To be called once, when the answer is there."""
        if not self._waiting:
            return None
        with self._lock:
            above = self.peek(key)
            if above is None:
                return None
            above.is_over = True
            self._waiting[key].remove(above)
            if not self._waiting[key]:
                del self._waiting[key]
            if above.key is not None:
                self._below[key] = above.key
                if len(self._below) > _MOST:
                    del self._below[next(iter(self._below))]
        if above.outcome:
            return above
        if not above.seen:
            above.missed()
        return None

    def drop(self, key: str) -> None:
        """Forget a call that missed under *key*, without counting it."""
        with self._lock:
            above = self.peek(key)
            if above is not None:
                above.seen = True
        self.settle(key)

    def key_below(self, key: str) -> str | None:
        """The key of the entry with which the HTTP layer answered the request of *key*."""
        return self._below.get(key)
