"""Run: the requests of a map, which of them need a call, and the order of their results.

It does no waiting: the drivers in ``mapping`` make the calls, and report their ends.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from llm_cache_mem._util.exceptions import copy_exception
from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.engine.calls import Answer
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.errors import BudgetSpent
from llm_cache_mem.evaluation.budget import Budget
from llm_cache_mem.evaluation.pace import Pace
from llm_cache_mem.evaluation.reading import read_request
from llm_cache_mem.evaluation.results import MapResult
from llm_cache_mem.keys.request import Request
from llm_cache_mem.values.entry import Entry

if TYPE_CHECKING:
    from llm_cache_mem.engine.verification import Verifier

__all__ = ["CHUNK", "Item", "OnError", "Outcome", "Run", "RunSettings"]

OnError = Literal["raise", "collect"]

CHUNK: Final = 64
"""How many requests are looked up at once."""
_WINDOW: Final = 1024
"""How many requests are read ahead of the result that is due, beside those being answered."""

_log = logging.getLogger(__name__)


class RunSettings(NamedTuple):
    """The arguments of a run, checked by ``check``."""

    concurrency: int = 8
    progress: bool = True
    on_error: OnError = "raise"
    budget_usd: float | None = None
    in_order: bool = True

    def check(self) -> "RunSettings":
        """Itself; TypeError or ValueError for an argument that is wrong."""
        if isinstance(self.concurrency, bool) or not isinstance(self.concurrency, int):
            raise TypeError(
                f"concurrency must be a whole number, not {type(self.concurrency).__name__}"
            )
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {self.concurrency}")
        if self.on_error not in ("raise", "collect"):
            raise ValueError(f"on_error must be 'raise' or 'collect', not {self.on_error!r}")
        usd = self.budget_usd
        if usd is not None and (isinstance(usd, bool) or not isinstance(usd, (int, float))):
            raise TypeError(f"budget_usd must be a number or None, not {type(usd).__name__}")
        if usd is not None and not 0 <= usd < float("inf"):
            raise ValueError(f"budget_usd must be at least 0, not {usd!r}")
        return self


class Item:
    """One request of a run. *request* is None if it is called uncached; *duplicates* are equal
    requests that wait for its answer."""

    __slots__ = ("began", "duplicates", "index", "messages", "params", "request", "result")

    def __init__(self, index: int) -> None:
        self.index = index
        self.messages: Any = None
        self.params: Mapping[str, Any] = {}
        self.request: Request | None = None
        self.result: MapResult | None = None
        self.duplicates: list[Item] = []
        self.began = perf_counter()


@without_content
class Outcome(NamedTuple):
    """How a call of a run ended; *answer* makes copies for the duplicates."""

    value: Any = None
    hit: bool = False
    usd: float | None = 0.0
    error: BaseException | None = None
    answer: Answer | None = None


class Run:
    """The state of one map of *fn*. One thread or task takes and finishes; ``pace`` and ``budget``
    are shared with those that make the calls."""

    def __init__(self, engine: Engine, fn: Callable[..., Any], settings: RunSettings) -> None:
        self.engine = engine
        self.fn = fn
        self.settings = settings
        self.context = copy_context()  # the options of where the run was asked for
        self.pace = Pace()
        self.budget = Budget(settings.budget_usd)
        self.done = self.hits = self.paid = self.in_progress = 0
        self._to_verify: list[tuple[Item, Verifier, Entry]] = []
        self._read = 0
        self._pending: deque[Item] = deque()
        self._ready: deque[MapResult] = deque()
        self._leaders: dict[str, Item] = {}
        self._evicted = engine.ledger.evictions

    @property
    def has_room(self) -> bool:
        """Whether more requests may be read."""
        held = len(self._pending) if self.settings.in_order else self.in_progress
        return held + CHUNK <= _WINDOW + self.settings.concurrency

    def read(self, given: Any) -> Item:
        """The item of the next request."""
        index, self._read = self._read, self._read + 1
        item = Item(index)
        try:
            item.messages, item.params = read_request(given)
            item.request = self.engine.request_of(self.fn, item.messages, item.params)
        except Exception as exc:  # noqa: BLE001  # raised or collected, as all errors are
            self._answer(item, Outcome(error=exc))
        return item

    def take(self, items: list[Item]) -> list[Item]:
        """Answer those of *items* that hit, and return those that need a call."""
        self._answer_hits([item for item in items if item.result is None and item.request])
        if self.settings.in_order:
            self._pending.extend(items)
        return self._to_call([item for item in items if item.result is None])

    def finish(self, item: Item, outcome: Outcome) -> list[Item]:
        """Note how the call for *item* ended, answer its duplicates, and return those that need
        calls of their own. In ``on_error="raise"``, raises what the call raised."""
        error = outcome.error
        if error is not None and self._raises(error):
            raise error
        self.in_progress -= 1
        self.paid += error is None and not outcome.hit
        self._answer(item, outcome)
        if item.request is not None and self._leaders.get(item.request.key) is item:
            del self._leaders[item.request.key]
        return self._to_call(
            [
                duplicate
                for duplicate in item.duplicates
                if not self._answer_duplicate(duplicate, item, outcome)
            ]
        )

    def hits_to_verify(self) -> "list[tuple[Item, Verifier, Entry]]":
        """Those of the hits since the last call of this that are to be verified."""
        found, self._to_verify = self._to_verify, []
        return found

    def results(self) -> Iterator[MapResult]:
        """The results that are due. Raises the error of one that stops the run."""
        while self._ready or (self._pending and self._pending[0].result is not None):
            result = self._ready.popleft() if self._ready else self._pending.popleft().result
            assert result is not None
            if result.error is not None and self.settings.on_error == "raise":
                raise result.error
            yield result

    def close(self) -> None:
        """Say so if answers of this run are gone from the cache already."""
        evicted = self.engine.ledger.evictions - self._evicted
        if evicted > 0:
            _log.warning(
                "the cache is full, and evicted %d answers during this run: another run will pay"
                " for them again; LLMCache(max_size=None) has no limit",
                evicted,
            )

    # -- Inside

    def _answer_hits(self, items: list[Item]) -> None:
        """Look up *items*; a miss is counted when it is looked up again to be called."""
        requests = [item.request for item in items if item.request is not None]
        hits = self.engine.reader.lookup_many(requests, defer=_later) if requests else ()
        for item, hit in zip(items, hits, strict=True):
            if hit is None or item.request is None:
                continue
            verifier = self.engine.verifier_for(item.request)
            if verifier is not None:
                self._to_verify.append((item, verifier, hit.entry))
            self._answer(item, Outcome(hit.value, hit=True))

    def _to_call(self, items: list[Item]) -> list[Item]:
        """Those of *items* that need a call. The others are duplicates of a request that is being
        answered."""
        calls = []
        for item in items:
            leader = item
            if item.request is not None:
                leader = self._leaders.setdefault(item.request.key, item)
                if not _is_of_same_documents(item, leader):
                    leader = self._leaders[item.request.key] = item
            calls.append(item) if leader is item else leader.duplicates.append(item)
        self.in_progress += len(calls)
        return calls

    def _answer_duplicate(self, duplicate: Item, leader: Item, outcome: Outcome) -> bool:
        """Answer *duplicate* as its *leader* was; whether that could be done."""
        request, answer = duplicate.request, outcome.answer
        if outcome.error is not None:
            if not _is_same_call(duplicate, leader):
                return False
            error = copy_exception(outcome.error, outcome.error.__traceback__)
            self._answer(duplicate, outcome._replace(error=error))
            return True
        if answer is None or request is None:
            return False
        try:
            began = self.engine.settings.clock() - (perf_counter() - duplicate.began)
            value = self.engine.calls.copy(request, answer, began=began)
        except Exception:  # noqa: BLE001  # it has no stored form: each makes its own call
            return False
        if answer.below is None or answer.below.outcome != "hit":  # else the copy is a hit
            self.engine.ledger.miss(request.key, request.model, request.tags)
        self._answer(duplicate, Outcome(value, hit=True))
        return True

    def _answer(self, item: Item, outcome: Outcome) -> None:
        value, hit, usd, error, _ = outcome
        if not isinstance(error, Exception):
            error = None
        seconds = perf_counter() - item.began
        item.result = MapResult(value, hit, seconds, usd, error, item.index)
        self.done += 1
        self.hits += hit
        if not self.settings.in_order:
            self._ready.append(item.result)

    def _raises(self, error: BaseException) -> bool:
        """Whether *error* ends the run at once. That the budget is spent ends it in its turn."""
        if not isinstance(error, Exception):
            return True
        return self.settings.on_error == "raise" and not isinstance(error, BudgetSpent)


def _is_of_same_documents(one: Item, other: Item) -> bool:
    """Whether nothing that the answers depend on was invalidated between the two lookups."""
    needs, others = (item.request and item.request.depends_on for item in (one, other))
    return one is other or not needs or not others or needs.lane == others.lane


def _is_same_call(one: Item, other: Item) -> bool:
    """Whether two items are alike also in what is outside their key, such as an API key: only then
    does one fail as the other does."""
    try:
        return bool(one.messages == other.messages and one.params == other.params)
    except Exception:  # noqa: BLE001  # objects that cannot be compared
        return False


def _later(count: Callable[[], None]) -> None:
    """A miss that is counted with the lookup before its call."""
