"""A trace from what a store kept: each entry is the call that was paid for, when it was made."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from time import time
from typing import NamedTuple

from llm_cache_mem.bench.recorder import TraceRecorder
from llm_cache_mem.entry import Entry
from llm_cache_mem.stats import Event
from llm_cache_mem.stores import open_store

__all__ = ["Converted", "convert"]


class Converted(NamedTuple):
    """How many calls a trace got, and for how many of them the store had kept no request, so that nothing is known of their prompts."""

    calls: int
    without_request: int


def convert(store: str, recorder: TraceRecorder) -> Converted:
    """Record every entry of *store* (a URL or a path as for ``backend=``), in its order: read the trace with ``--sort``.

    Nothing in the store changes.
    """
    calls = without = 0
    with ExitStack() as stack:
        for key, entry in _entries(store, stack):
            calls += 1
            sent, received = (entry.usage or (0, 0))[:2]
            at = max(0.0, entry.stored_at - (entry.seconds or 0.0))
            request = json.loads(entry.request) if entry.request is not None else None
            if isinstance(request, dict):
                messages = request.pop("messages", None)
                recorder.note(messages, request, entry.model, sent, received, at=at, seconds=entry.seconds)
            else:
                without += 1
                recorder(Event("stored", entry.stored_at, key, entry.model, entry.seconds, usage=entry.usage))
    return Converted(calls, without)


def _entries(store: str, stack: ExitStack) -> Iterator[tuple[str, Entry]]:
    if store.startswith("jsonl://") or store.endswith(".jsonl"):
        path = store.removeprefix("jsonl://")
        os.stat(path)  # OSError that names it: to open it would make it
        opened = open_store(store if "://" in store else f"jsonl://{store}", max_size=None, max_bytes=None, clock=time)
        yield from stack.enter_context(closing(opened.store)).entries()
        return
    from llm_cache_mem.cli.store import Reader, database_path

    for found in stack.enter_context(closing(Reader(database_path(store)))).entries():
        yield found.key, found.entry
