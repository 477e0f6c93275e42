"""Caches in files: each as it comes, on the same disk, all of them with room for what is stored and
none in memory-backed files."""

from pathlib import Path
from typing import Any

from benchmarks.peers.contestant import Contestant, Place
from benchmarks.peers.in_memory import Cashews, DSPy, GPTCache, Keyed, LiteLLM, Ours, OursAsync
from benchmarks.peers.langchain_caches import OnSQLite
from benchmarks.workload import key_of
from llm_cache_mem import LLMCache

__all__ = ["ALL", "DiskCache", "OursOnSQLite"]


class OursOnSQLite(Ours):
    """This library, on SQLite."""

    value = "JSON in SQLite; a new object for each hit"

    def __init__(self, place: Place) -> None:
        self._cache = LLMCache(max_size=place.entries, backend=place.folder / "ours.db")


class OursOnSQLiteAsync(OursAsync):
    """This library on SQLite, awaited: each call in a thread, so that the loop goes on."""

    value = OursOnSQLite.value

    def __init__(self, place: Place) -> None:
        self._cache = LLMCache(max_size=place.entries, backend=place.folder / "ours.db")


class DiskCache(Keyed):
    """diskcache, which bounds bytes and not entries."""

    name = "diskcache"
    package = "diskcache"
    value = "pickle in SQLite"
    spares = (
        "pickle, which runs what a file says; the oldest goes first, so a hit writes nothing; no"
        " checksum, no account of what it saved"
    )

    def __init__(self, place: Place) -> None:
        import diskcache

        self._cache: Any = diskcache.Cache(str(place.folder))

    def get(self, asked: dict[str, Any]) -> Any:
        return self._cache.get(key_of(asked))

    def put(self, asked: dict[str, Any], answer: Any) -> None:
        self._cache.set(key_of(asked), answer, expire=3600)

    def close(self) -> None:
        self._cache.close()


class DSPyOnDisk(DSPy):
    """DSPy's cache on disk alone: sixteen files of diskcache."""

    name = "dspy, disk"
    value = "pickle in SQLite, then deepcopy"
    spares = f"orjson makes the key; {DiskCache.spares}, no time to live"

    def __init__(self, place: Place) -> None:
        from dspy.clients.cache import Cache

        self._cache = Cache(
            enable_disk_cache=True,
            enable_memory_cache=False,
            disk_cache_dir=str(place.folder),
            disk_size_limit_bytes=1 << 30,
        )

    def close(self) -> None:
        self._cache.disk_cache.close()


class LiteLLMOnDisk(LiteLLM):
    """LiteLLM's cache on disk, where there still is one."""

    name = "litellm, disk"
    value = "JSON text, in diskcache"
    spares = f"{LiteLLM.spares}; no checksum"

    def __init__(self, place: Place) -> None:
        self._cache = self._made(type="disk", disk_cache_dir=str(place.folder), max_messages=None)

    def close(self) -> None:
        self._cache.cache.disk_cache.close()


class GPTCacheOnSQLite(GPTCache):
    """GPTCache with SQLite for its answers."""

    name = "gptcache, SQLite"

    def __init__(self, place: Place) -> None:
        from gptcache.manager import CacheBase, get_data_manager

        self._manager = get_data_manager(
            CacheBase("sqlite", sql_url=f"sqlite:///{Path(place.folder, 'gptcache.db')}")
        )


class CashewsOnDisk(Cashews):
    """cashews on disk: diskcache, each call in a thread."""

    name = "cashews, disk, async"
    value = "pickle in diskcache"
    spares = DiskCache.spares

    def __init__(self, place: Place) -> None:
        self._cache = self._made("disk://", directory=str(place.folder))


ALL: tuple[type[Contestant], ...] = (
    OursOnSQLite,
    OursOnSQLiteAsync,
    DiskCache,
    OnSQLite,
    DSPyOnDisk,
    LiteLLMOnDisk,
    GPTCacheOnSQLite,
    CashewsOnDisk,
)
