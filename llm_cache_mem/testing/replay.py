"""Recordings in tests: which file a test uses, in which mode, and which recordings no test uses."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llm_cache_mem.accounting.stats import Event
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.diagnostics.redaction import Redaction
from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.options import Mode, check_mode
from llm_cache_mem.stores import Removed
from llm_cache_mem.stores.jsonl import JsonlStore
from llm_cache_mem.stores.jsonl.fields import BadLine
from llm_cache_mem.stores.jsonl.lines import from_line, has_secret
from llm_cache_mem.values.entry import Entry

__all__ = [
    "SETTINGS",
    "FileUse",
    "Recordings",
    "Run",
    "lines_with_secrets",
    "module_of",
    "orphans",
    "recordings_beside",
    "remove",
    "resolve_mode",
]

SETTINGS: Final = frozenset({"key_fn", "ignore", "namespace", "admit", "redact"})
"""The arguments of LLMCache that a test may set."""

_FOLDER = "llm_cache"


def recordings_beside(module: Path) -> Path:
    """Return the file with a test module's recordings: ``llm_cache/test_x.jsonl`` beside
    ``test_x.py``."""
    return module.parent / _FOLDER / f"{module.stem}.jsonl"


def resolve_mode(
    requested: Mode | None, marked: Mode | None, environment: Mapping[str, str]
) -> Mode:
    """Return the mode of a test: from the command line (*requested*), its marker (*marked*) or the
    environment; else ``on``.

    If CI is set and no mode is requested, ``replay`` is. A test marked ``off`` or ``replay`` is
    never recorded; if ``replay`` is requested, no test is.
    """
    if requested is None and environment.get("CI", "").lower() not in ("", "0", "false", "no"):
        requested = "replay"
    if requested == "off" or marked is None:
        return requested or check_mode(
            environment.get("LLM_CACHE_MEM_MODE") or "on", "LLM_CACHE_MEM_MODE"
        )
    if requested is None or requested == "on" or marked in ("off", "replay"):
        return marked
    return requested


class FileUse:
    """What a run did with the recordings of one file: the keys *used*, the test *modules* that used
    them, whether the file is *shared* with other modules, and whether a test ran with mode
    *off*."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.modules: set[str] = set()
        self.shared = False
        self.off = False
        self.recorded = 0
        self.unrecorded: dict[str, int] = {}

    def on_event(self, event: Event) -> None:
        """Count an event of a cache; called from any thread."""
        if event.name in ("hit", "stored", "coalesced") and event.key is not None:
            self.used.add(event.key)
        if event.name == "stored":
            self.recorded += 1
        elif event.name == "skipped":
            reason = event.reason or ""
            self.unrecorded[reason] = self.unrecorded.get(reason, 0) + 1

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the uses of another process (``as_dict``)."""
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
    """A test run: the tests of each module, their outcomes, and whether they are all tests of the
    project (*complete*). Modules are node ids; *partial* ones do not run all their tests."""

    def __init__(self) -> None:
        self.tests: dict[str, set[str]] = {}
        self.partial: set[str] = set()
        self.complete = True
        self._outcomes: dict[str, bool] = {}

    def collected(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            self.tests.setdefault(module_of(node), set()).add(node)

    def mark_partial(self, nodes: Iterable[str]) -> None:
        """Mark the modules of *nodes*, tests or modules, as partial."""
        self.partial.update(module_of(node) for node in nodes)

    def ended(self, node: str, *, passed: bool) -> None:
        """Note the outcome of one phase of a test, which passes if all its phases do."""
        self._outcomes[node] = passed and self._outcomes.get(node, True)

    def is_complete(self, module: str) -> bool:
        """Return whether all tests of *module* have run and passed."""
        tests = self.tests.get(module, set())
        return (
            bool(tests)
            and module not in self.partial
            and all(self._outcomes.get(node, False) for node in tests)
        )

    def can_judge(self, use: FileUse) -> bool:
        """Return whether this run can tell that recordings of the file are unused."""
        modules = self.tests if use.shared else use.modules
        return (
            not use.off
            and (self.complete or not use.shared)
            and bool(modules)
            and all(map(self.is_complete, modules))
        )

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the tests of another process (``as_dict``)."""
        for nodes in other["tests"].values():
            self.collected(nodes)
        self.partial.update(other["partial"])
        self.complete &= other["complete"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "tests": {name: sorted(nodes) for name, nodes in self.tests.items()},
            "partial": sorted(self.partial),
            "complete": self.complete,
        }


def module_of(node: str) -> str:
    return node.partition("::")[0]


class Recordings:
    """The files with recordings that a run uses."""

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
        """Return a cache on the recordings at *path*.

        It stores every answer without expiry, including refused and truncated ones, and raises
        StoreError if the file cannot be read or written. With ``refresh``, each request is made
        once in this process, and then answered from the new recording, as it will be in replay.

        Args:
            path: The file with the recordings.
            mode: The resolved mode.
            module: The test module that uses the file.
            shared: Whether tests of other modules may use the file.
            settings: Those in SETTINGS.
        """
        store = self._store(path, tuple(settings.pop("redact", ())), refresh=mode == "refresh")
        use = self.files.setdefault(store.path, FileUse())
        use.modules.update(() if module is None else (module,))
        use.shared |= shared
        use.off |= mode == "off"
        settings = {"mode": "on" if mode == "refresh" else mode, "admit": "any"} | settings
        return LLMCache(
            ttl_seconds=None, backend=store, strict=True, on_event=use.on_event, **settings
        )

    def unused(self, run: Run) -> dict[str, list[str]]:
        """Return the keys of unused recordings by file, as far as *run* can tell. Unreadable files
        are left out."""
        found = {}
        for path, use in self.files.items():
            if run.can_judge(use) and os.path.exists(path):
                try:
                    keys = [key for key, _ in JsonlStore(path).entries() if key not in use.used]
                except LLMCacheError:
                    continue  # the tests that use it have reported it
                if keys:
                    found[path] = keys
        return found

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the files of another process (``as_dict``)."""
        for path, use in other.items():
            self.files.setdefault(path, FileUse()).add(use)

    def as_dict(self) -> dict[str, Any]:
        return {path: use.as_dict() for path, use in self.files.items()}

    def close(self) -> None:
        for store in self._stores.values():
            store.close()

    def _store(self, path: Path, redact: tuple[Any, ...], *, refresh: bool) -> JsonlStore:
        name = (os.path.realpath(path), redact, refresh)
        if name not in self._stores:
            self._stores[name] = (_RefreshStore if refresh else JsonlStore)(
                path, redact=redact, make_folder=True
            )
        return self._stores[name]


class _RefreshStore(JsonlStore):
    """Recordings to be made again: it finds only entries stored by this process."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self._stored: set[str] = set()
        super().__init__(path, **settings)

    def get(self, key: str) -> Entry | None:
        return super().get(key) if key in self._stored else None

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        return super().get_many([key for key in keys if key in self._stored])

    def put_many(self, entries: Mapping[str, Entry]) -> Removed:
        removed = super().put_many(entries)
        self._stored.update(entries)
        return removed


def remove(path: str, keys: Iterable[str]) -> None:
    """Remove recordings from a file, and the file if it is then empty. StoreError on failure."""
    store = JsonlStore(path)
    store.delete_many(frozenset(keys))
    empty = store.size() == 0
    store.close()
    if empty:
        os.unlink(path)


def lines_with_secrets(path: str) -> list[int]:
    """The numbers of the lines of the recordings at *path* that hold what looks like a secret,
    whatever was redacted when they were made. A line that is no recording is left out."""
    redaction, found = Redaction(), []
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if line.strip() and has_secret(*from_line(line), redaction):
                    found.append(number)
            except BadLine:  # the tests that use it have reported it
                continue
    return found


def orphans(paths: Iterable[str]) -> list[str]:
    """Return files beside *paths* whose test module does not exist: it may have been renamed or
    removed."""
    known = set(paths)
    folders = {Path(path).parent for path in known if Path(path).parent.name == _FOLDER}
    beside = (path for folder in sorted(folders) for path in sorted(folder.glob("*.jsonl")))
    return [
        str(path)
        for path in beside
        if str(path) not in known and not (path.parent.parent / f"{path.stem}.py").exists()
    ]
