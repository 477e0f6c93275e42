"""``%load_ext llm_cache_mem``: one line in a notebook turns the cache on for every framework in it,
another shows what it saved."""

import contextlib
import shlex
from collections.abc import Callable
from typing import Any

from llm_cache_mem._util import strict_json
from llm_cache_mem._util.durations import parse_duration
from llm_cache_mem.accounting.render import by_reason
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.errors import StoreError
from llm_cache_mem.frameworks import frameworks
from llm_cache_mem.installation.switch import put, take_off
from llm_cache_mem.options import MODES, current, options

__all__ = ["Magics", "begin_cell", "load", "unload"]

_HELP = """\
%llm_cache on [BACKEND] [name=value ...]   cache every SDK, LangChain and LlamaIndex
%llm_cache off                             stop; what was set before is set again
%llm_cache stats | clear                   what it saved; forget all of it
%llm_cache why [NUMBER | all]              why the last calls missed; all: what costs hits
%%llm_cache [MODE] [name=value ...]        one cell: mode (on, off, refresh, replay), ttl, ...

BACKEND: memory (default), sqlite://./cache.db, or any other that LLMCache takes.
Names for `on`: ttl, max_size, namespace, mode, keep_requests (yes or no; yes in memory)."""

_NAME = "llm_cache"  # of the variable that holds the cache

_REPORTS = (
    ("llm_cache_mem.accounting.stats", "CacheStats"),
    ("llm_cache_mem.accounting.totals", "StoreTotals"),
    ("llm_cache_mem.diagnostics.survey", "Survey"),
    ("llm_cache_mem.tools.counters", "ToolCacheStats"),
)
"""The tuples that a prompt without HTML shows as their text."""


class _CellOptions(options):
    """The options of one cell."""


class Magics:
    """The magics of one shell: the cache that is on, and what it replaced."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._cache: LLMCache | None = None
        self._words: tuple[str, ...] = ()
        self._undo: dict[str, Callable[[], object]] = {}

    # -- Lines

    def line(self, line: str) -> Any:
        """``%llm_cache ...``"""
        verb, *words = _words(line) or ["stats" if self._cache is not None else "help"]
        if verb == "help":
            print(_HELP)  # noqa: T201  # a person asked
            return None
        if verb == "on":
            return self.turn_on(*words)
        if verb not in ("off", "stats", "clear", "why"):
            return _wrong(f"%llm_cache does not know {verb!r}")
        if words and verb != "why":
            return _wrong(f"%llm_cache {verb} takes nothing more, not {' '.join(words)!r}")
        if self._cache is None:
            return _wrong("the cache is off: turn it on with  %llm_cache on")
        if verb == "off":
            return self.turn_off()
        return self._cache.stats() if verb == "stats" else _told(verb, self._cache, *words)

    def turn_on(self, *words: str) -> Any:
        """Open the backend, and put the cache into the frameworks that are there; those imported
        later follow."""
        if self._cache is not None and words == self._words:
            return self._cache  # the cell runs again
        values = dict(word.split("=", 1) for word in words if "=" in word.partition("://")[0])
        backend = [word for word in words if "=" not in word.partition("://")[0]] or ["memory"]
        unknown = set(values) - {"ttl", "max_size", "namespace", "mode", "keep_requests"}
        if unknown or len(backend) > 1:
            _wrong(f"%llm_cache on does not know {' '.join([*sorted(unknown), *backend[1:]])!r}")
        keep = values.get(
            "keep_requests", "yes" if backend == ["memory"] else "no"
        ).lower()  # its entries stay in this process
        if keep not in ("yes", "no"):
            _wrong(f"keep_requests must be yes or no, not {values['keep_requests']!r}")
        given: dict[str, Any] = {
            name: values[name] for name in ("namespace", "mode") if name in values
        }
        if "ttl" in values:
            given["ttl_seconds"] = _seconds(values["ttl"])
        if "max_size" in values:
            given["max_size"] = (
                None
                if values["max_size"].lower() == "none"
                else _number(int, "max_size", values["max_size"])
            )
        try:
            cache = LLMCache(backend=backend[0], keep_requests=keep == "yes", **given)
        except (ValueError, TypeError, ImportError, OSError, StoreError) as exc:
            return _wrong(str(exc), help_text="")
        if self._cache is not None:
            self.turn_off()
        self._cache, self._words = cache, words
        installation = put("with", cache)
        self._undo["sdks"] = lambda: take_off(installation)
        self._shell.user_ns[_NAME] = cache
        self._install(lambda framework: False)
        return cache

    def turn_off(self) -> None:
        """Undo turn_on, and close the cache."""
        undo, self._undo = self._undo, {}
        for put_back in undo.values():
            put_back()
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()
            if self._shell.user_ns.get(_NAME) is cache:
                del self._shell.user_ns[_NAME]

    def _install(self, wanted: Callable[[str], bool]) -> None:
        for framework in frameworks():
            if (
                self._cache is not None
                and framework.name not in self._undo
                and (framework.is_imported or wanted(framework.name))
            ):
                undo = framework.install(self._cache)
                if undo is not None:
                    self._undo[framework.name] = undo

    # -- Cells

    def transform(self, lines: list[str]) -> list[str]:
        """Let ``%%llm_cache ...`` be a first line that sets options, so that the cell may still
        await and hold other magics."""
        if not lines or not lines[0].startswith("%%llm_cache"):
            return lines
        words = lines[0].removeprefix("%%llm_cache").strip()
        return [
            (
                "__import__('llm_cache_mem.notebook', fromlist=['_']).begin_cell(get_ipython(),"
                f" {words!r})\n"
            ),
            *lines[1:],
        ]

    def begin_cell(self, line: str) -> None:
        """Enter the options of ``%%llm_cache line``, for the rest of this cell."""
        given: dict[str, Any] = {}
        for word in _words(line):
            name, separator, value = word.partition("=")
            if not separator and word in MODES:
                given["mode"] = word
            elif separator and name in ("mode", "namespace"):
                given[name] = value
            elif separator and name == "ttl":
                given["ttl_seconds"] = _seconds(value)
            elif separator and name == "sample":
                given["sample"] = _number(int, name, value)
            else:
                _wrong(f"%%llm_cache does not know {word!r}")
        try:
            _CellOptions(**given).__enter__()
        except ValueError as exc:
            _wrong(str(exc), help_text="")

    def pre_run_cell(self, info: Any) -> None:
        """End the options of earlier cells, and see which frameworks this one is about to use."""
        # of any earlier one: a cell that awaits has a context of its own, where alone they end
        while isinstance(made_by := current().made_by, _CellOptions):
            made_by.__exit__(None, None, None)
        source = getattr(info, "raw_cell", None) or ""
        self._install(lambda framework: framework in source)


def load(shell: Any) -> None:
    """What ``%load_ext llm_cache_mem`` does."""
    magics = Magics(shell)
    shell.llm_cache_magics = magics
    shell.register_magic_function(magics.line, "line", "llm_cache")
    shell.input_transformers_cleanup.append(magics.transform)
    shell.events.register("pre_run_cell", magics.pre_run_cell)
    plain = shell.display_formatter.formatters["text/plain"]
    for module, name in _REPORTS:
        plain.for_type_by_name(module, name, lambda report, out, cycle: out.text(str(report)))


def unload(shell: Any) -> None:
    """What ``%unload_ext llm_cache_mem`` does: the cache goes off."""
    magics = shell.__dict__.pop("llm_cache_magics", None)
    if magics is not None:
        magics.turn_off()
        shell.events.unregister("pre_run_cell", magics.pre_run_cell)
        shell.input_transformers_cleanup.remove(magics.transform)
        shell.magics_manager.magics["line"].pop("llm_cache", None)


def begin_cell(shell: Any, line: str) -> None:
    """What the first line of a ``%%llm_cache`` cell becomes."""
    shell.llm_cache_magics.begin_cell(line)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        # it raises
        return _wrong(f"a quotation is not closed in {line!r}", help_text="")  # type: ignore[no-any-return]


def _seconds(text: str) -> float | None:
    if text.lower() == "none":
        return None
    with contextlib.suppress(ValueError):
        return float(text)
    try:
        return parse_duration(text)
    except ValueError as exc:
        return _wrong(f"ttl: {exc}")  # type: ignore[no-any-return]  # it raises


def _number(kind: Callable[[str], Any], name: str, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        return _wrong(f"{name} must be a number, not {text!r}")


def _told(verb: str, cache: LLMCache, *words: str) -> Any:
    """What ``clear`` or ``why`` gives; that the store fails is told in one line."""
    try:
        return cache.clear() if verb == "clear" else _why(cache, *words)
    except StoreError as exc:
        what = (
            "nothing was cleared, or not all"
            if verb == "clear"
            else "what is stored cannot be compared"
        )
        return _wrong(f"{what}: {exc}", help_text="")


def _why(cache: LLMCache, word: str = "1", *more: str) -> Any:
    """Why the last calls missed: an Explanation, or several; with ``all`` what costs hits over all
    that is stored."""
    if more or not (word == "all" or (word.isdecimal() and int(word) > 0)):
        return _wrong(
            f"%llm_cache why takes a number of misses, or all, not {' '.join([word, *more])!r}"
        )
    if not cache.engine.keyer.texts:
        hint = "turn it on with  %llm_cache on BACKEND keep_requests=yes"
        return _wrong(
            f"explaining a miss needs stored requests, and this cache stores none: {hint}",
            help_text="",
        )
    found = _surveys(cache) if word == "all" else cache.explain_misses(int(word))
    if found:
        return found[0] if len(found) == 1 else _Several(found)
    print(_nothing(cache, word))  # noqa: T201  # a person asked
    return None


def _nothing(cache: LLMCache, word: str) -> str:
    """What to say where there is nothing to explain."""
    if word == "all":
        return "no entry with its request is stored yet"
    skipped = by_reason(cache.stats().skipped)
    return f"no call has missed yet{f'; uncached or not stored: {skipped}' if skipped else ''}"


def _surveys(cache: LLMCache) -> list[Any]:
    """A survey of the stored requests of each kind: kinds do not answer one another."""
    from llm_cache_mem.diagnostics.explain import StoredRequest
    from llm_cache_mem.diagnostics.survey import survey

    kinds: dict[str, list[Any]] = {}
    for key, entry in cache.engine.entries():
        if entry.request is not None:
            kinds.setdefault(StoredRequest.from_key(key, None).kind, []).append(
                strict_json.parse(entry.request)
            )
    return [
        survey(requests, ignore=()) for requests in kinds.values()
    ]  # a cache keeps what it does not ignore


class _Several(tuple[Any, ...]):
    """Some reports, shown one below the other."""

    def __repr__(self) -> str:
        return "\n\n".join(map(str, self))

    def _repr_html_(self) -> str:
        return "".join(each._repr_html_() for each in self)


def _wrong(what: str, help_text: str = f"\n{_HELP}") -> Any:
    from IPython.core.error import UsageError  # it is shown as one line, without a traceback

    raise UsageError(f"{what}{help_text}")
