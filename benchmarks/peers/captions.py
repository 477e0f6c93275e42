"""What is said of each table beside its numbers: what was measured, and why others are ahead where
they are."""

from typing import NamedTuple

from benchmarks.peers.contestant import OURS
from benchmarks.peers.tables import Table

__all__ = ["COMMAND", "INTRODUCTION", "SAID", "Said", "said"]

COMMAND = "make bench-peers"


class Said(NamedTuple):
    """The *title*, *about* what was measured, and *losing*: what it is that others leave out where
    they are ahead."""

    title: str
    about: str
    losing: str


def said(table: Table) -> Said:
    """What is said of *table*, with its numbers in it."""
    title, about, losing = (" ".join(text.split()) for text in SAID[table.name])
    return Said(title, about.format(**table.numbers), losing)


SAID = {
    "hits-fresh": Said(
        "Hits in memory, new request objects",
        """Each request is built anew, as programs do: equal to an earlier one, but sharing no object with it. µs of CPU.""",
        """On a small request, the key is the smaller part of a hit. Copying the answer, checking its age and accounting for the savings cost
        more, and caches that omit one of these are faster.""",
    ),
    "hits-warm": Said(
        "Hits in memory, the same request objects",
        "The program keeps its request objects and passes the same ones again. µs of CPU.",
        "As for new request objects: a cache that returns the stored object itself saves the copy.",
    ),
    "hits-first": Said(
        "Hits in memory, first sight",
        """The first hit of an entry, on a request that this process has not seen, as after a restart. µs of CPU.""",
        """The canonical JSON has to be written once, and the answer is copied. A key without JSON, such as a tuple, is faster to make, but is
        not the published key.""",
    ),
    "misses": Said(
        "Misses in memory, with the put",
        """A lookup that misses and the put after it. Every request and answer is new, and the cache is full, so that each put evicts an
        entry. µs of CPU.""",
        """A miss does more here than elsewhere: the request is checked to have one wire form, and the answer is encoded, so that no caller
        can change it and a hit can report its savings. Next to an LLM call, this is not noticeable.""",
    ),
    "sqlite": Said(
        "SQLite and other files",
        """Each cache uses its own files on one disk, with {entries:,} entries, and new request objects. µs of CPU, without the time spent
        waiting for the disk. This library, diskcache and caches built on it write with WAL and synchronous=NORMAL; LangChain's
        SQLiteCache with a rollback journal and an fsync for each put. File per entry: the bytes of all files, logs included, divided by
        {entries:,} entries (S).""",
        """A put here encodes the answer as data that cannot run, reads its cost, and adds a checksum; a hit verifies the checksum and
        records the use. On small requests and first hits, that is visible next to a pickle.""",
    ),
    "redis": Said(
        "Redis",
        """One redis-server on loopback, each cache with its own client, one call after the other, new request objects. µs of wall time,
        most of which is waiting.""",
        """Every hit is one round trip. Async calls here use a thread, so that the event loop never blocks; an asyncio client saves that.""",
    ),
    "langchain": Said(
        "Under LangChain",
        """A whole invoke() of a LangChain chat model that hits, with new message objects. Most of it is LangChain's own work and the same
        for all caches: the strings that it makes from messages, callbacks, a message for the caller. The floor is a model without a cache
        whose answer is ready. µs of CPU.""",
        "LangChain's InMemoryCache looks the strings up in a dict and returns the stored object.",
    ),
    "stampede": Said(
        "Stampede",
        """{callers} callers, threads or tasks, ask the same new question at once; the model takes {seconds:g} s. How often was it called
        (1 is right), and after how many seconds did all callers have their answer? Then {different} callers ask different questions at
        once, since a global lock would make them wait for one another. Each library is called through its own wrapper; — if it has none.""",
        "A tenth of a second over the model's own time is spent waking the others.",
    ),
    "threads": Said(
        "Threads, in memory",
        """The same hits (M, new request objects) made by one thread and by {threads} that start together, on one cache; the start of the
        threads is included. µs per hit: CPU of the process, and wall time.""",
        "With Python's global lock, threads make hits no faster.",
    ),
    "threads-sqlite": Said(
        "Threads, on SQLite and other files",
        """M, new request objects, each cache on its own files: nine hits, then a put of a new entry, by one thread and by {threads} that
        start together. µs per call: CPU of the process, and wall time with the disk. Errors: of all calls, those that raised.""",
        "Writers wait for the one writer that SQLite allows.",
    ),
    "memory": Said(
        "Memory",
        """{entries:,} different questions, each with its own answer (1.4 KB of JSON), each cache in its own process. Resident bytes of the
        process per entry; and the time that they add to a full garbage collection, during which every thread stops, the least of three.""",
        """Plain text or a pickle holds an answer in fewer bytes; entries here also hold the times of storing and expiry, the cost, and a
        checksum.""",
    ),
    "growth": Said(
        "Growth in memory",
        """Hits on random questions (S), new request objects, among {few:,} entries and among {entries:,}, in turn. µs of CPU; the growth is
        the median of the rounds.""",
        """Among so many entries, most hits are the first of their entry: the answer is decoded then, and the memo holds only recent
        requests.""",
    ),
    "growth-sqlite": Said(
        "Growth on SQLite and other files",
        "Hits on random questions (S), new request objects, among {few:,} entries on a disk and"
        " among {entries:,}, in turn. µs of CPU.",
        "Hits all over the file record uses all over it, so that used entries stay; a cache that"
        " drops the oldest writes none.",
    ),
}

INTRODUCTION = f"""\
# Performance

<!-- Written by {COMMAND}, from benchmarks/peers/results.json. Change benchmarks/peers/, not this page. -->

The cost of hits, misses, entries and concurrent callers in {OURS} and in other caches, and where others are faster. `{COMMAND}` makes this
page in its own environment; `{COMMAND} ARGS="hits redis"` repeats the named parts.

![Hits and misses in memory, against {OURS}](benchmarks.svg)

How to read it:

- Each table is one run: the caches take turns (A B C C B A) in one process, round after round. A time is the 10th percentile of the
  rounds, which is closest to a quiet machine. The ratio in brackets is the median over the rounds, relative to {OURS}: (2.0×) is twice as
  slow. **Bold** is the best of its column. Less is better everywhere.
- S is one message (0.3 KB), M a system prompt and ten turns (8.7 KB), L a hundred turns (206 KB). An answer is 1.4 KB of JSON: text, a tool
  call, usage.
- "own" tells whether a caller has its own copy of the answer, found out by changing it: *yes*; *hits only*, when changes by the first caller
  reach all later ones; or *no*, when every change does.
- A floor is no cache: it shows the least possible cost, with the bytes of the key ready.
- Every cache does its own part only: [who makes the key and who copies](#who-does-what). Before the clock starts, messages are LangChain's
  objects for LangChain's caches and dicts for the others; LangChain's strings are made while it runs, as its models do. litellm has
  `max_messages=None`: by default it leaves conversations of more than four messages uncached.
"""
