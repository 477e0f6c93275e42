"""What the live page shows of a cache: sums, entries, misses, and the health of the store."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from heapq import nlargest
from time import monotonic
from typing import Any, Final

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.generations import KIND as GENERATION
from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.gateway.workers import Workers, sums_of
from llm_cache_mem.keys import digest
from llm_cache_mem.stores.listing import Found, beginning, describe, holds

__all__ = ["SECONDS", "Findings", "Inspection"]

SECONDS: Final = 2.0
"""For how long a search looks at entries."""
_GROUPS: Final = {"namespaces": "namespace", "models": "model", "kinds": "kind"}
_MOST_GROUPS: Final = 100
_MOST_LISTED: Final = 500
_MOST_TEXT: Final = 400_000
_MISSES: Final = 20

Asked = dict[str, str]
Findings = Callable[[], list[dict[str, str]]]


class Inspection:
    """Looks into *cache*. Each method takes the fields of a request and returns JSON; what reads
    the store runs in a thread. *findings* checks the store."""

    def __init__(
        self, cache: LLMCache, workers: Workers | None = None, findings: Findings | None = None
    ) -> None:
        self._cache = cache
        self._workers = workers
        self._findings = findings

    async def summary(self, asked: Asked) -> dict[str, Any]:
        """The sums of the gateway since it began, and the size and the totals of the store."""
        backend = self._cache.engine.backend
        size = await asyncio.to_thread(backend.size, "")
        if self._workers is None:
            sums = sums_of(self._cache.engine.ledger.snapshot(0)) | {"minutes": []}
        else:
            sums = await asyncio.to_thread(self._workers.sums)
        return sums | {
            "entries": size,
            "totals": await asyncio.to_thread(self._totals),
            "store": backend.name,
            "is_open": not backend.circuit_open,
            "keeps_requests": self._cache.engine.keyer.texts,
        }

    def _totals(self) -> dict[str, Any] | None:
        """What all processes that share the store have counted; None if it cannot tell."""
        with suppress(ValueError, LLMCacheError):  # it keeps none, or does not answer
            return self._cache.totals().as_dict()
        return None

    async def entries(self, asked: Asked) -> dict[str, Any]:
        """The newest entries that match ``search`` (in key, model and stored request),
        ``namespace``, ``model`` and ``kind``, among those that can be looked at in SECONDS."""
        return await asyncio.to_thread(self._entries, asked)

    def _entries(self, asked: Asked) -> dict[str, Any]:
        now = self._cache.engine.settings.clock()
        limit = min(int(asked.get("limit", "50")), _MOST_LISTED)
        counts: dict[str, Counter[str]] = {name: Counter() for name in _GROUPS}
        searched = matching = 0
        deadline, is_partial = monotonic() + SECONDS, False

        def matches() -> Iterator[dict[str, Any]]:
            nonlocal searched, matching, is_partial
            for found in self._found(asked):
                searched += 1
                row = describe(found, now)
                for name, field in _GROUPS.items():
                    counts[name][row[field] or ""] += 1
                if _is_meant(found, row, asked):
                    matching += 1
                    yield row | {"prompt": beginning(found.entry)}
                if monotonic() > deadline:
                    is_partial = True
                    return

        return {
            "rows": nlargest(limit, matches(), key=lambda row: row["stored_at"]),
            "matching": matching,
            "searched": searched,
            "is_partial": is_partial,
            "now": now,
            **{name: groups.most_common(_MOST_GROUPS) for name, groups in counts.items()},
        }

    def _found(self, asked: Asked) -> Iterator[Found]:
        """The entries to look at: one by its key, those of a namespace by their prefix, or all."""
        backend, key = self._cache.engine.backend, asked.get("search", "").strip()
        with suppress(ValueError):
            parts = digest.parse(key)
            entry = backend.get(key)
            if entry is not None:
                yield Found(key, parts, entry)
                return
        namespace = asked.get("namespace")
        prefix = "" if namespace is None else digest.prefix(namespace, asked.get("kind"))
        for key, entry in backend.entries(prefix):
            with suppress(ValueError):  # not an entry of this library's
                parts = digest.parse(key)
                if parts.kind != GENERATION:  # a mark of what is valid, and no answer
                    yield Found(key, parts, entry)

    async def entry(self, asked: Asked) -> dict[str, Any]:
        """One entry by its ``key``, with the answer and the stored request."""
        return await asyncio.to_thread(self._entry, asked["key"])

    def _entry(self, key: str) -> dict[str, Any]:
        entry = self._cache.engine.backend.get(key)
        if entry is None:
            raise LookupError(key)
        row = describe(Found(key, digest.parse(key), entry), self._cache.engine.settings.clock())
        request = None if entry.request is None else entry.request.decode("utf-8", "replace")
        return row | {
            "request": request and _pretty(request),
            "answer": _readable(entry.payload.json()),
        }

    async def misses(self, asked: Asked) -> list[str]:
        """Why the last lookups missed, latest first."""
        if not self._cache.engine.keyer.texts:
            return []
        return [str(found) for found in await self._cache.aexplain_misses(_MISSES)]

    async def health(self, asked: Asked) -> list[dict[str, str]]:
        """The findings about the store."""
        return [] if self._findings is None else await asyncio.to_thread(self._findings)

    async def delete(self, asked: Asked) -> dict[str, Any]:
        """Delete the entry of ``key``."""
        backend = self._cache.engine.backend
        return {"deleted": await asyncio.to_thread(backend.delete, asked["key"])}

    async def clear(self, asked: Asked) -> dict[str, Any]:
        """Delete every entry of ``namespace``."""
        prefix = digest.prefix(asked["namespace"])
        return {"deleted": await asyncio.to_thread(self._cache.engine.writer.clear, prefix)}

    async def invalidate(self, asked: Asked) -> dict[str, Any]:
        """Invalidate every answer that depends on ``name``."""
        return {"invalidated": await self._cache.ainvalidate(asked["name"])}


def _is_meant(found: Found, row: dict[str, Any], asked: Asked) -> bool:
    for name in ("namespace", "model", "kind"):
        if asked.get(name) is not None and asked[name] != (row[name] or ""):
            return False
    search = asked.get("search", "").strip()
    return not search or holds(found, search)


def _readable(stored: bytes) -> str:
    """A stored answer as text: the body of an HTTP response, else its JSON."""
    value = json.loads(stored)
    if isinstance(value, dict) and isinstance(value.get("text"), str) and "status" in value:
        return _pretty(value["text"])
    return _cut(json.dumps(value, indent=2, ensure_ascii=False))


def _pretty(text: str) -> str:
    """*text* indented, if it is JSON."""
    try:
        return _cut(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
    except ValueError:
        return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + "\n… cut off here"
