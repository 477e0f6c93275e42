"""The kinds of sources, and how the records of one become entries of a cache."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.errors import StoreError

__all__ = ["SOURCES", "UNKEYED", "UNREADABLE", "Moved", "Record", "Skipped", "move"]


UNREADABLE: Final = "a record that cannot be read"


class Skipped(Exception):
    """A record that cannot become an entry; its text is the reason, and quotes nothing."""


class Record(Protocol):
    """One answer of a source."""

    def ask(self, cache: LLMCache) -> None:
        """Ask *cache* for the record's request, with the recorded answer in the provider's place.
        Raises Skipped, or whatever the cache raises."""
        ...


Source = Callable[[str], Iterator["Record | Skipped"]]

SOURCES: Final[Mapping[str, str]] = {
    "langchain": "llm_cache_mem.migration.langchain",
    "vcr": "llm_cache_mem.migration.cassettes",
    "langfuse": "llm_cache_mem.migration.langfuse",
    "otel": "llm_cache_mem.migration.otel",
}
"""The kinds of sources, each with the module whose ``records`` reads it."""

UNKEYED: Final[Mapping[str, str]] = {
    "litellm": "it stores hashes of requests, not requests: read through it as in the migration"
    " guide for LiteLLM",
    "dspy": "it stores hashes of requests, and its answers are pickled, which is never read",
    "gptcache": "it stores the text of the last message alone, without the model and all else"
    " that decides an answer",
    "diskcache": "its keys are those of your own program: see the migration guide for diskcache",
}
"""The caches whose files cannot be imported, each with the reason and the way that works."""


@dataclass
class Moved:
    """What came of a source: *imported* entries, *present* ones that the store had, and those that
    were *skipped*, by reason."""

    imported: int = 0
    present: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def move(kind: str, source: str, cache: LLMCache, count: Callable[[], object]) -> Moved:
    """Ask *cache* for every record of *source*, a path or a URL; *count* is called for each.

    Raises:
        ImportError: if a package that reads this kind is missing.
        OSError: if *source* cannot be read.
    """
    records: Source = import_module(SOURCES[kind]).records
    moved = Moved()
    for record in records(source):
        count()
        if isinstance(record, Skipped):
            moved.skipped[str(record)] += 1
            continue
        before = cache.stats()
        try:
            record.ask(cache)
        except Skipped as exc:
            moved.skipped[str(exc)] += 1
            continue
        except StoreError:
            raise
        except Exception:  # noqa: BLE001  # foreign data, of which nothing is quoted
            moved.skipped[UNREADABLE] += 1
            continue
        _count(moved, before.stored, before.hits, before.skipped, cache)
    return moved


def _count(
    moved: Moved, stored: int, hits: int, skipped: Mapping[str, int], cache: LLMCache
) -> None:
    after = cache.stats()
    if after.stored > stored:
        moved.imported += 1
    elif after.hits > hits:
        moved.present += 1
    else:
        reasons = [name for name, n in after.skipped.items() if n > skipped.get(name, 0)]
        moved.skipped[reasons[0] if reasons else "not a request for a model"] += 1


def files_in(source: str, *suffixes: str) -> Iterable[Path]:
    """The file *source* itself, or those below the folder with one of the *suffixes*, in order."""
    path = Path(source)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.name.endswith(suffixes))
    with path.open("rb"):  # OSError now, and not in the middle
        return [path]
