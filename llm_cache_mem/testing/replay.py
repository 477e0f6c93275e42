"""Record once, replay for ever: which file a test's recordings are in, in which mode they are used,
and which of them nobody uses."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llm_cache_mem.accounting.stats import Event
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.options import Mode, check_mode
from llm_cache_mem.stores import Removed
from llm_cache_mem.stores.jsonl import JsonlStore
from llm_cache_mem.values.entry import Entry

__all__ = [
    "SETTINGS",
    "FileUse",
    "Recordings",
    "Run",
    "module_of",
    "orphans",
    "recordings_beside",
    "remove",
    "resolve_mode",
]

SETTINGS: Final = frozenset({"key_fn", "ignore", "namespace", "admit", "redact"})
"""What of LLMCache a test may set for itself."""

_FOLDER = "llm_cache"


def recordings_beside(module: Path) -> Path:
    """The file of a test module's recordings: ``llm_cache/test_x.jsonl`` beside ``test_x.py``."""
    return module.parent / _FOLDER / f"{module.stem}.jsonl"


def resolve_mode(asked: Mode | None, marked: Mode | None, environment: Mapping[str, str]) -> Mode:
    """The mode of a test: what the command line *asked* for, its marker says, or the environment;
    else ``on``.

    Where CI is set and nothing is asked for, ``replay`` is. A test marked ``off`` or ``replay`` is
    never recorded; where ``replay`` is asked for, none is.
    """
    if asked is None and environment.get("CI", "").lower() not in ("", "0", "false", "no"):
        asked = "replay"
    if asked == "off" or marked is None:
        return asked or check_mode(
            environment.get("LLM_CACHE_MEM_MODE") or "on", "LLM_CACHE_MEM_MODE"
        )
    if asked is None or asked == "on" or marked in ("off", "replay"):
        return marked
    return asked


class FileUse:
    """What a run did with the recordings of one file: *used*: their keys; *modules*: by whose
    tests; *shared*: others may use it too;
    *off*: some were told to leave it alone."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.modules: set[str] = set()
        self.shared = False
        self.off = False
        self.recorded = 0
        self.unrecorded: dict[str, int] = {}

    def note(self, event: Event) -> None:
        """Take notice of what a cache did; from any thread."""
        if event.name in ("hit", "stored", "coalesced") and event.key is not None:
            self.used.add(event.key)
        if event.name == "stored":
            self.recorded += 1
        elif event.name == "skipped":
            reason = event.reason or ""
            self.unrecorded[reason] = self.unrecorded.get(reason, 0) + 1

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what another process did (``as_dict``)."""
        self.used.update(other["used"])
        self.modules.update(other["modules"])
        self.shared |= other["shared"]
        self.off |= other["off"]
        self.recorded += other["recorded"]
        for reason, count in other["unrecorded"].items():
            self.unrecorded[reason] = self.unrecorded.get(reason, 0) + count

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "used": sorted(self.used), "modules": sorted(self.modules)}


class Run:
    """What was to be run and what became of it: the tests of each module, and whether that is all
    of them. Modules are node ids."""

    def __init__(self) -> None:
        self.tests: dict[str, set[str]] = {}
        self.narrowed: set[str] = set()
        self.whole = True
        self._outcomes: dict[str, bool] = {}

    def collected(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            self.tests.setdefault(module_of(node), set()).add(node)

    def left_out(self, nodes: Iterable[str]) -> None:
        """Note tests, or modules, of which not all are to be run."""
        self.narrowed.update(module_of(node) for node in nodes)

    def ended(self, node: str, *, passed: bool) -> None:
        """Note the end of one phase of a test: it has passed if all of them have."""
        self._outcomes[node] = passed and self._outcomes.get(node, True)

    def is_complete(self, module: str) -> bool:
        """Whether all tests of *module* were run and have passed."""
        tests = self.tests.get(module, set())
        return (
            bool(tests)
            and module not in self.narrowed
            and all(self._outcomes.get(node, False) for node in tests)
        )

    def judges(self, use: FileUse) -> bool:
        """Whether this run can tell that a recording of the file is used by nobody."""
        modules = self.tests if use.shared else use.modules
        return (
            not use.off
            and (self.whole or not use.shared)
            and bool(modules)
            and all(map(self.is_complete, modules))
        )

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what another process was to run (``as_dict``)."""
        for nodes in other["tests"].values():
            self.collected(nodes)
        self.narrowed.update(other["narrowed"])
        self.whole &= other["whole"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "tests": {name: sorted(nodes) for name, nodes in self.tests.items()},
            "narrowed": sorted(self.narrowed),
            "whole": self.whole,
        }


def module_of(node: str) -> str:
    return node.partition("::")[0]


class Recordings:
    """The files of recordings that a run uses."""

    def __init__(self) -> None:
        self.files: dict[str, FileUse] = {}
        self._stores: dict[tuple[Any, ...], JsonlStore] = {}

    def open(
        self,
        path: Path,
        mode: Mode,
        *,
        module: str | None = None,
        shared: bool = False,
        **settings: Any,
    ) -> LLMCache:
        """A cache on the recordings at *path*, which is *shared* where tests of other modules than
        *module* may use it.

        It keeps every answer, refused and truncated ones too, for ever, and StoreError tells of a
        file that cannot be read or written. With ``refresh`` each request is asked once more in
        this process, and then answered from there, as it will be in replay. *settings* are those in
        SETTINGS.
        """
        store = self._store(path, tuple(settings.pop("redact", ())), again=mode == "refresh")
        use = self.files.setdefault(store.path, FileUse())
        use.modules.update(() if module is None else (module,))
        use.shared |= shared
        use.off |= mode == "off"
        settings = {"mode": "on" if mode == "refresh" else mode, "admit": "any"} | settings
        return LLMCache(ttl_seconds=None, backend=store, strict=True, on_event=use.note, **settings)

    def unused(self, run: Run) -> dict[str, list[str]]:
        """By file, the keys of recordings that the *run* could tell are used by nobody. Files that
        cannot be read are left out."""
        found = {}
        for path, use in self.files.items():
            if run.judges(use) and os.path.exists(path):
                try:
                    keys = [key for key, _ in JsonlStore(path).entries() if key not in use.used]
                except LLMCacheError:
                    continue  # the tests that use it have said so
                if keys:
                    found[path] = keys
        return found

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what another process used (``as_dict``)."""
        for path, use in other.items():
            self.files.setdefault(path, FileUse()).add(use)

    def as_dict(self) -> dict[str, Any]:
        return {path: use.as_dict() for path, use in self.files.items()}

    def close(self) -> None:
        for store in self._stores.values():
            store.close()

    def _store(self, path: Path, redact: tuple[Any, ...], *, again: bool) -> JsonlStore:
        name = (os.path.realpath(path), redact, again)
        if name not in self._stores:
            self._stores[name] = (_Again if again else JsonlStore)(
                path, redact=redact, make_folder=True
            )
        return self._stores[name]


class _Again(JsonlStore):
    """Recordings that are to be made again: what this process has not put there is not there."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self._made: set[str] = set()
        super().__init__(path, **settings)

    def get(self, key: str) -> Entry | None:
        return super().get(key) if key in self._made else None

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        return super().get_many([key for key in keys if key in self._made])

    def put_many(self, entries: Mapping[str, Entry]) -> Removed:
        removed = super().put_many(entries)
        self._made.update(entries)
        return removed


def remove(path: str, keys: Iterable[str]) -> None:
    """Remove recordings from a file, and the file when nothing is left of it. StoreError if that
    does not work."""
    store = JsonlStore(path)
    store.delete_many(frozenset(keys))
    empty = store.size() == 0
    store.close()
    if empty:
        os.unlink(path)


def orphans(paths: Iterable[str]) -> list[str]:
    """Files beside *paths* that belong to no test module, which was renamed, perhaps, or
    removed."""
    known = set(paths)
    folders = {Path(path).parent for path in known if Path(path).parent.name == _FOLDER}
    beside = (path for folder in sorted(folders) for path in sorted(folder.glob("*.jsonl")))
    return [
        str(path)
        for path in beside
        if str(path) not in known and not (path.parent.parent / f"{path.stem}.py").exists()
    ]
