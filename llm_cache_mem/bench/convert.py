"""A trace from what a store kept: each entry is the call that was paid for, when it was made."""

import json
from collections.abc import Iterable
from typing import NamedTuple

from llm_cache_mem.accounting.stats import Event
from llm_cache_mem.bench.recorder import TraceRecorder
from llm_cache_mem.values.entry import Entry

__all__ = ["Converted", "convert"]


class Converted(NamedTuple):
    """How many calls a trace got, and for how many of them the store had kept no request, so that
    nothing is known of their prompts."""

    calls: int
    without_request: int


def convert(entries: Iterable[tuple[str, Entry]], recorder: TraceRecorder) -> Converted:
    """Record each of *entries*, with their keys, in the order in which they come: read the trace
    with ``--sort``."""
    calls = without = 0
    for key, entry in entries:
        calls += 1
        sent, received = (entry.usage or (0, 0))[:2]
        request = json.loads(entry.request) if entry.request is not None else None
        if isinstance(request, dict):
            at = max(0.0, entry.stored_at - (entry.seconds or 0.0))
            messages = request.pop("messages", None)
            recorder.note(
                messages, request, entry.model, sent, received, at=at, seconds=entry.seconds
            )
        else:
            without += 1
            recorder(
                Event("stored", entry.stored_at, key, entry.model, entry.seconds, usage=entry.usage)
            )
    return Converted(calls, without)
