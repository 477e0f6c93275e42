"""The kinds of sources, and how the records of one become entries of a cache."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.errors import StoreError

__all__ = ["SOURCES", "UNREADABLE", "Form", "Moved", "Record", "Skipped", "move"]


UNREADABLE: Final = "a record that cannot be read"


class Skipped(Exception):
    """A record that cannot become an entry; its text is the reason, and quotes nothing."""


Form = Callable[[Any], Any]
"""What a chat completion, a dict, is stored as."""


class Record(Protocol):
    """One answer of a source."""

    def ask(self, cache: LLMCache, form: Form) -> None:
        """Ask *cache* for the record's request, with the recorded answer in the provider's place,
        in that *form* if it is a dict. Raises Skipped, or whatever the cache raises."""
        ...


Source = Callable[..., Iterator["Record | Skipped"]]

SOURCES: Final[Mapping[str, str]] = {
    "langchain": "llm_cache_mem.migration.langchain",
    "diskcache": "llm_cache_mem.migration.diskcache",
    "vcr": "llm_cache_mem.migration.cassettes",
    "langfuse": "llm_cache_mem.migration.langfuse",
    "otel": "llm_cache_mem.migration.otel",
    "gptcache": "llm_cache_mem.migration.gptcache",
    "litellm": "llm_cache_mem.migration.hashes:litellm",
    "dspy": "llm_cache_mem.migration.hashes:dspy",
}
"""The kinds of sources, each with the module whose function reads it, by default ``records``."""


@dataclass
class Moved:
    """What came of a source: *imported* entries, *present* ones that the store had, and those that
    were *skipped*, by reason."""

    imported: int = 0
    present: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def move(
    kind: str,
    source: str,
    cache: LLMCache,
    count: Callable[[], object],
    *,
    request: dict[str, Any] | None = None,
    form: Form = lambda answer: answer,
) -> Moved:
    """Move every record of a source into a cache.

    Args:
        kind: One of SOURCES.
        source: A path or a URL.
        cache: It is asked for each record.
        count: Called for each record.
        request: What all requests of a GPTCache had beside the question, as a dict of messages and
            params; the model at least.
        form: What a chat completion, a dict, is stored as.

    Raises:
        ImportError: if a package that reads this kind is missing.
        OSError: if *source* cannot be read.
        StoreError: if it is damaged, or if its server or the store fails.
    """
    module, _, name = SOURCES[kind].partition(":")
    records: Source = getattr(import_module(module), name or "records")
    moved = Moved()
    for record in _read(kind, records(source) if request is None else records(source, request)):
        count()
        if isinstance(record, Skipped):
            moved.skipped[str(record)] += 1
            continue
        before = cache.stats()
        try:
            record.ask(cache, form)
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


def _read(kind: str, records: Iterator[Record | Skipped]) -> Iterator[Record | Skipped]:
    """*records*; what the library raises that reads them, which may quote from them or name a
    password, as a StoreError."""
    try:
        yield from records
    except (ImportError, OSError, StoreError):
        raise
    except Exception as exc:  # noqa: BLE001  # drivers have errors of their own
        raise StoreError(kind, "read", type(exc).__name__) from None


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
