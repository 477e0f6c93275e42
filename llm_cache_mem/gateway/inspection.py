"""What the live page shows of a cache: sums, entries, misses, and the health of the store."""

import asyncio
import json
from collections.abc import Callable, Iterator
from heapq import nlargest
from itertools import islice
from typing import Any, Final

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.gateway.feed import Feed
from llm_cache_mem.keys import digest
from llm_cache_mem.stores.listing import Found, describe

__all__ = ["Findings", "Inspection"]

_MOST_SCANNED: Final = 100_000
_MOST_LISTED: Final = 500
_MOST_TEXT: Final = 400_000
_MISSES: Final = 20

Asked = dict[str, str]
Findings = Callable[[], list[dict[str, str]]]


class Inspection:
    """Looks into *cache*. Each method takes the fields of a request and returns JSON; what reads
    the store runs in a thread. *findings* checks the store."""

    def __init__(
        self, cache: LLMCache, feed: Feed | None = None, findings: Findings | None = None
    ) -> None:
        self._cache = cache
        self._feed = feed
        self._findings = findings

    async def summary(self, asked: Asked) -> dict[str, Any]:
        """The sums of this process since it began, and the size of the store."""
        stats = await self._cache.astats()
        size = await asyncio.to_thread(self._cache.engine.backend.size, "")
        return {
            "asked": stats.hits + stats.misses,
            "hits": stats.hits,
            "coalesced": stats.coalesced,
            "avoided": stats.hits + stats.coalesced,
            "stored": stats.stored,
            "skipped": dict(stats.skipped),
            "errors": stats.errors,
            "usd": stats.saved_usd,
            "seconds": stats.seconds_saved,
            "tokens": stats.tokens_saved,
            "models": [
                {"model": name, **model._asdict(), "tokens": model.tokens_saved}
                for name, model in stats.by_model.items()
            ],
            "entries": size,
            "store": self._cache.engine.backend.name,
            "is_open": not self._cache.engine.backend.circuit_open,
            "began": self._feed.began if self._feed else None,
            "minutes": self._feed.minutes() if self._feed else [],
            "keeps_requests": self._cache.engine.keyer.texts,
        }

    async def entries(self, asked: Asked) -> dict[str, Any]:
        """The newest entries that match ``search`` (in key, model and stored request),
        ``namespace``, ``model`` and ``kind``."""
        return await asyncio.to_thread(self._entries, asked)

    def _entries(self, asked: Asked) -> dict[str, Any]:
        now = self._cache.engine.settings.clock()
        limit = min(int(asked.get("limit", "50")), _MOST_LISTED)
        counts: dict[str, dict[str, int]] = {"namespaces": {}, "models": {}, "kinds": {}}
        scanned = matching = 0

        def matches() -> Iterator[dict[str, Any]]:
            nonlocal scanned, matching
            for found in islice(self._found(), _MOST_SCANNED):
                scanned += 1
                row = describe(found, now)
                for name, value in (
                    ("namespaces", row["namespace"]),
                    ("models", row["model"] or ""),
                    ("kinds", row["kind"]),
                ):
                    counts[name][value] = counts[name].get(value, 0) + 1
                if _is_meant(found, row, asked):
                    matching += 1
                    yield row | {"has_request": found.entry.request is not None}

        rows = nlargest(limit, matches(), key=lambda row: row["stored_at"])
        largest = {
            name: nlargest(100, groups.items(), key=lambda group: group[1])
            for name, groups in counts.items()
        }
        return {
            "rows": rows,
            "matching": matching,
            "scanned": scanned,
            "is_partial": scanned >= _MOST_SCANNED,
            "now": now,
            **largest,
        }

    def _found(self) -> Iterator[Found]:
        for key, entry in self._cache.engine.backend.entries(""):
            try:
                yield Found(key, digest.parse(key), entry)
            except ValueError:  # not an entry of this library's
                continue

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


def _is_meant(found: Found, row: dict[str, Any], asked: Asked) -> bool:
    for name in ("namespace", "model", "kind"):
        if asked.get(name) is not None and asked[name] != (row[name] or ""):
            return False
    search = asked.get("search", "").lower()
    if not search or search in found.key.lower() or search in (row["model"] or "").lower():
        return True
    request = found.entry.request
    return request is not None and search in request.decode("utf-8", "replace").lower()


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
