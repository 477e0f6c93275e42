"""Which calls of a trace meet another for the same key before they are answered: for only these single-flight has anything to do."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from llm_cache_mem.bench.trace import Call

__all__ = ["with_overlaps"]

_AHEAD: Final = 50_000  # calls that are looked at before their turn
_END: Final = Call(float("inf"), "", 0, 0)


def with_overlaps(calls: Iterable[Call]) -> Iterator[tuple[Call, float, bool]]:
    """Each of *calls*, which come by arrival, the seconds it took, and whether another for its key arrives before it is answered.

    Where more than some ten thousand calls arrive before that, True stands for "perhaps".
    """
    ahead = deque[Call]()
    keys = set[str]()  # of the calls ahead
    repeats: dict[str, deque[float]] = {}  # when those of the calls ahead arrive that are not the first for their key
    took = answered = 0.0  # of the first call ahead
    for following in chain(calls, (_END,)):
        at = following.at
        while ahead and (answered <= at or len(ahead) >= _AHEAD):
            call = ahead.popleft()
            key = call.key
            if key in repeats:
                times = repeats[key]
                overlaps = times.popleft() < answered
                if not times:
                    del repeats[key]
            else:
                keys.remove(key)
                overlaps = answered > at
            yield call, took, overlaps
            if ahead:
                took = ahead[0].took()
                answered = ahead[0].at + took
        if not ahead:
            took = following.took()
            answered = at + took
        ahead.append(following)
        if following.key in keys:
            repeats.setdefault(following.key, deque()).append(at)
        else:
            keys.add(following.key)
