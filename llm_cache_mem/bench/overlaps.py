"""Which calls of a trace meet another for the same key before they are answered: for only these
single-flight has anything to do."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final

from llm_cache_mem.bench.trace import Call

__all__ = ["with_overlaps"]

_AHEAD: Final = 50_000  # calls that are looked at before their turn
_END: Final = Call(float("inf"), "", 0, 0)


def with_overlaps(calls: Iterable[Call]) -> Iterator[tuple[Call, float, bool]]:
    """Each of *calls*, which come by arrival, the seconds it took, and whether another for its key
    arrives before it is answered.

    Where more than some ten thousand calls arrive before that, True stands for "perhaps".
    """
    ahead = deque[
        list[Any]
    ]()  # when it is answered, whether another arrives before that, the call, its seconds
    latest: dict[str, list[Any]] = {}  # of the calls ahead, by key
    for following in chain(calls, (_END,)):
        at, key, *_ = following
        while ahead and (ahead[0][0] <= at or len(ahead) >= _AHEAD):
            first = ahead.popleft()
            answered, overlaps, call, took = first
            if latest[call.key] is first:
                del latest[call.key]
            yield call, took, overlaps or answered > at
        took = following.took()
        waiting = [at + took, False, following, took]
        ahead.append(waiting)
        before = latest.get(key)
        if before is not None and at < before[0]:
            before[1] = True
        latest[key] = waiting
