"""The totals of all processes as one hash, and the hits of each entry as a small one beside it."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from llm_cache_mem.accounting.bounded import MOST_NAMES, OTHER
from llm_cache_mem.accounting.counts import NAMES, Batch, Counts, EntryHits, Place
from llm_cache_mem.accounting.totals import StoreTotals
from llm_cache_mem.stores.failures import UnexpectedReply
from llm_cache_mem.stores.redis.client import GivenClient, UrlClient

__all__ = ["HITS_PREFIX", "KEY_PREFIX", "TOTALS", "RedisCounts"]

TOTALS: Final = b"llm-cache-mem-{totals}"  # the braces put its neighbours on the same node
KEY_PREFIX: Final = b"llm-cache-mem:"  # in front of the keys of entries
HITS_PREFIX: Final = b"llm-cache-mem-hits:"
_BATCH = 256  # entries that are asked about at once
_REMEMBERED_SECONDS = 3600  # that a batch was added
_MICRO = 1e6
_GONE, _FOR_EVER = -2, -1  # in place of a lifetime

# KEYS: the totals, and the last batch of a process. ARGV: the number of the batch, for how long to
# remember it, the most places, the time; then for each place its name, its name once there are
# too many, the number of sums, and these by name.
_ADD = b"""if redis.call('GET', KEYS[2]) == ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
redis.call('HSETNX', KEYS[1], 'since', ARGV[4])
local at = 5
while ARGV[at] do
local place = ARGV[at]
if redis.call('HEXISTS', KEYS[1], place) == 0 then
if tonumber(redis.call('HGET', KEYS[1], 'places') or 0) >= tonumber(ARGV[3]) then
place = ARGV[at + 1]
else
redis.call('HINCRBY', KEYS[1], 'places', 1)
end
redis.call('HSET', KEYS[1], place, 1)
end
local last = at + 2 + 2 * tonumber(ARGV[at + 2])
for i = at + 3, last, 2 do
redis.call('HINCRBY', KEYS[1], place .. ARGV[i], ARGV[i + 1])
end
at = last + 1
end
return 1"""


class RedisCounts:
    """Counts through *client*. Raises what that raises."""

    def __init__(self, client: UrlClient | GivenClient) -> None:
        self._client = client

    def add(self, batch: Batch) -> None:
        """Add the totals of *batch*, all or nothing, unless they have been, then the hits of its
        entries."""
        reply = self._client.call(*_adding(batch))
        if type(reply) is not int:
            self._client.renew()
            raise UnexpectedReply(type(reply).__name__)
        left = list(batch.hits.items())
        for at in range(0, len(left), _BATCH):
            self._add_hits(left[at : at + _BATCH], batch.now)

    def _add_hits(self, hits: Sequence[tuple[str, int]], now: float) -> None:
        """Add *hits* of those entries that there still are; they live as long as these."""
        lifetimes = self._client.calls([(b"PTTL", KEY_PREFIX + key.encode()) for key, _ in hits])
        commands: list[tuple[bytes, ...]] = []
        for (key, number), left in zip(hits, lifetimes, strict=True):
            if type(left) is not int or left == _GONE:
                continue
            name = HITS_PREFIX + key.encode()
            commands.append((b"HINCRBY", name, b"hits", b"%d" % number))
            commands.append((b"HSET", name, b"last", b"%.6f" % now))
            ends = left != _FOR_EVER
            commands.append(
                (b"PEXPIRE", name, b"%d" % max(1, left)) if ends else (b"PERSIST", name)
            )
        if commands:
            self._client.calls(commands)

    def totals(self) -> StoreTotals:
        """The sums of all batches. What this version does not know is left out."""
        reply = self._client.call(b"HGETALL", TOTALS)
        since: float | None = None
        sums: dict[Place, Counts] = {}
        for field, amount in _pairs(reply):
            with suppress(ValueError):  # of a later version, or no number
                place, bracket, end = field.rpartition(b"]")
                name, number = end.decode(), int(amount)
                if not bracket and name == "since":
                    since = number / _MICRO
                elif bracket and name in NAMES:
                    setattr(sums.setdefault(_place(place + bracket), Counts()), name, number)
        return StoreTotals(since, sums)

    def entry_hits(self, keys: Sequence[str]) -> dict[str, EntryHits]:
        """The hits of the entries under *keys*, of those that had some."""
        found = {}
        for at in range(0, len(keys), _BATCH):
            some = keys[at : at + _BATCH]
            commands = [(b"HMGET", HITS_PREFIX + key.encode(), b"hits", b"last") for key in some]
            for key, reply in zip(some, self._client.calls(commands), strict=True):
                if type(reply) is list and None not in reply:
                    found[key] = EntryHits(int(reply[0]), float(reply[1]))
        return found


def _adding(batch: Batch) -> tuple[bytes, ...]:
    """The command that adds the totals of *batch*."""
    process = batch.number.partition("-")[0].encode()
    words = [batch.number.encode(), b"%d" % _REMEMBERED_SECONDS, b"%d" % MOST_NAMES]
    words.append(b"%d" % round(batch.now * _MICRO))
    for place, sums in batch.counts.items():
        amounts = list(sums.amounts())
        words += [_field(place), _field((OTHER, OTHER)), b"%d" % len(amounts)]
        for name, amount in amounts:
            words += [name.encode(), b"%d" % amount]
    return (b"EVAL", _ADD, b"2", TOTALS, TOTALS + b":" + process, *words)


def _field(place: Place) -> bytes:
    """The field of *place*, in front of those of its sums."""
    return json.dumps(place).encode()


def _place(field: bytes) -> Place:
    """The place that *field* is of; ValueError if it is of none."""
    names = json.loads(field)
    if [type(name) for name in names] != [str, str]:
        raise ValueError(names)
    return names[0], names[1]


def _pairs(reply: Any) -> Iterable[tuple[bytes, bytes]]:
    """The fields and values in a *reply* to HGETALL: redis-py makes a dict of it."""
    return reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
