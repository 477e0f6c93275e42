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
        "Hits in memory, requests built anew",
        """A hit in memory; every request is built anew, as programs do: equal to one that was asked before, sharing no object with it. µs
        of CPU.""",
        """Of a hit on a small request the key is the lesser part: more is the copy of the answer that keeps callers apart, the look at its
        age, and the account of what was saved. Who leaves out one of them is ahead.""",
    ),
    "hits-warm": Said(
        "Hits in memory, the same request objects again",
        "A hit in memory; the program still holds its requests and asks them again, the same"
        " objects each time. µs of CPU.",
        "The same as for requests built anew: who hands out the stored object itself spares the"
        " copy.",
    ),
    "hits-first": Said(
        "Hits in memory, first sight",
        """The first hit of an entry, on a request of which this process remembers nothing, as after a restart: nobody's key or value is
        warm. µs of CPU.""",
        """The canonical JSON has to be written once whatever one does, and the answer is copied. Faster keys are to be had without JSON (a
        tuple), but not the published one, byte for byte.""",
    ),
    "misses": Said(
        "Misses in memory, with the put",
        """A look in vain and the put after it; every request and every answer is a new one, and the cache is full, so that an older entry
        goes. µs of CPU.""",
        """A miss is where we do more than others: the request is checked to have only one wire form, and the answer is encoded, so that no
        caller can change it and a hit can say what it saved. Before an LLM call none of it is felt.""",
    ),
    "sqlite": Said(
        "On SQLite and other files",
        """Each on files of its own on one disk, {entries:,} entries beforehand, requests built anew. µs of CPU: what a contestant waits
        for the disk is not in it. Ours, diskcache and all that is built on it write with WAL and synchronous=NORMAL; LangChain's
        SQLiteCache with a rollback journal and an fsync for each put. File, an entry: the bytes of all files, logs included, over those
        {entries:,} entries (S).""",
        """A put of ours encodes the answer as data that cannot run, reads it for what it cost, and adds a checksum; a hit checks that, and
        notes that the entry was used. On small requests, and on first hits, that shows beside a pickle.""",
    ),
    "redis": Said(
        "On Redis",
        """One redis-server on loopback, each contestant with the client that it brings, one call after the other, requests built anew. µs
        on the wall clock, of which most is waiting.""",
        """Everybody's hit is one round trip. Async, ours gives each call to a thread, so that nothing that waits is in the event loop; a
        client that is asynchronous itself spares that.""",
    ),
    "langchain": Said(
        "Under LangChain",
        """A whole invoke() of a chat model of LangChain that hits, message objects built anew. Most of it is LangChain's own and the same
        for all: the strings that it makes of the messages, callbacks, a message for the caller. The floor is a model without a cache
        that has its answer in its hand. µs of CPU.""",
        "LangChain's InMemoryCache looks the strings up in a dict and hands out what lies there.",
    ),
    "stampede": Said(
        "Stampede",
        """{callers} callers, threads or tasks, ask the same new question at once; the model takes {seconds:g} s. How often was it called
        (1 is right), and after how many seconds had all their answer? Then {different} callers with different questions at once, since
        a lock around everything would make them wait for one another. Each through the wrapper that the library offers for a call; —
        where it offers none.""",
        "A tenth of a second more than the model's own is that of waking the others.",
    ),
    "threads": Said(
        "Threads, in memory",
        """The same hits (M, requests built anew) made by one thread and by {threads} that start together, on one cache; the start of the
        threads is in the times. µs a hit: CPU of the process, and on the wall clock.""",
        "With Python's global lock, threads make nobody's hits faster.",
    ),
    "threads-sqlite": Said(
        "Threads, on SQLite and other files",
        """M, requests built anew, on files of their own: nine hits, then a put of a new entry, by one thread and by {threads} that start
        together. µs a call: CPU of the process, and on the wall clock, disk included. Errors: of all calls, those that raised.""",
        "Whoever writes waits for the one writer that SQLite lets in.",
    ),
    "memory": Said(
        "Memory",
        """{entries:,} different questions, each with an answer of its own (1.4 KB of JSON), each contestant in a process of its own.
        Resident bytes of the process over the entries; and what they add to a full garbage collection, during which every thread
        stands still, the least of three.""",
        """Plain text, or a pickle, holds an answer in fewer bytes than ours, which keeps beside it when it was stored, when it expires,
        what it cost, and a checksum.""",
    ),
    "growth": Said(
        "Growth in memory",
        """Hits on random questions (S), built anew, among {few:,} entries and among {entries:,}, in turn. µs of CPU; the growth is the
        median of the rounds.""",
        """Among so many, most hits are on entries that were never hit before: ours decodes the answer then, and of requests it remembers
        the last few thousand.""",
    ),
    "growth-sqlite": Said(
        "Growth on SQLite and other files",
        "Hits on random questions (S), built anew, among {few:,} entries on a disk and among"
        " {entries:,}, in turn. µs of CPU.",
        "Hits all over the file make notes of use all over it, so that what is used stays; who"
        " drops the oldest writes none.",
    ),
}

INTRODUCTION = f"""\
# Beside other caches

<!-- Written by {COMMAND}, from benchmarks/peers/results.json. Change benchmarks/peers/, not this page. -->

What hits, misses, entries and crowds cost in {OURS} and in other caches, and where those are faster. `{COMMAND}` made this page, in an
environment of its own; `{COMMAND} ARGS="hits redis"` makes the parts that it names again.

![Hits and misses in memory, against {OURS}](benchmarks.svg)

How to read it:

- Each table is one run, its contestants in turn (A B C C B A) in one process, round after round. A time is the 10th percentile of the
  rounds, which comes nearest to a quiet machine. Behind it, in brackets, stands how many times that of {OURS} it was, the median of the
  rounds: (2.0×) is twice as slow. **Bold** is the best of its column. Less is better everywhere.
- S is one message (0.3 KB), M a system prompt and ten turns (8.7 KB), L a hundred turns (206 KB). An answer is 1.4 KB of JSON: text, a tool
  call, usage.
- "own" says whether an answer is its caller's own, found out by changing it: *yes*; *hits only*, when what the first caller changes reaches
  all later ones; or *no*, when whatever anybody changes does.
- A floor is no cache: it shows what the least would be, with the key's bytes ready made.
- Every cache does its own part and nobody else's: who builds the key and who copies is [below](#who-does-what). Before the clock starts,
  messages are LangChain's objects for LangChain's caches and dicts for the others; LangChain's strings are made while it runs, as its
  models do. litellm has `max_messages=None`: by default it leaves conversations of more than four messages uncached.
"""
