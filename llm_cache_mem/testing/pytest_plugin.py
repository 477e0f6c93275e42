"""pytest plugin: the fixture ``llm_cache`` records the answers of a model and replays them where no
model may be called.

Recordings are in ``llm_cache/test_x.jsonl`` beside ``test_x.py``. Without options they are
replayed, and missing ones are recorded. Where ``CI`` is set they are only replayed, and a miss
raises CacheMissError, which says what differs.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from llm_cache_mem import CacheMissError, LLMCache, StoreError
from llm_cache_mem.accounting.render import by_reason
from llm_cache_mem.installation.switch import put, take_off
from llm_cache_mem.options import MODES
from llm_cache_mem.testing.replay import (
    SETTINGS,
    Recordings,
    Run,
    lines_with_secrets,
    module_of,
    orphans,
    recordings_beside,
    remove,
    resolve_mode,
)

__all__ = ["llm_cache", "llm_cache_at"]

_MARKER: Final = (
    "llm_cache(mode=None, path=None, key_fn=None, ignore=None, namespace=None, admit=None,"
    " redact=None): how the llm_cache fixture works for this test: its mode; the file of"
    " recordings, relative to the test's folder; settings of LLMCache"
)
_OUTPUT: Final = "llm_cache_mem"
_STANDARD_LIBRARY: Final = os.path.dirname(os.__file__)
_PACKAGES: Final = ("llm_cache_mem", "langchain_llm_cache_mem", "llama_index_llm_cache_mem")


class _State:
    """The state of the run in this process."""

    def __init__(self) -> None:
        self.recordings = Recordings()
        self.run = Run()
        self.lines: list[str] = []


_state = pytest.StashKey[_State]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("llm-cache", "recorded LLM calls (llm-cache-mem)")
    group.addoption(
        "--llm-cache",
        choices=MODES,
        default=None,
        help=(
            "replay: only what is recorded, a miss is an error (default where CI is set); on:"
            " record what is missing (default elsewhere); refresh: record everything again; off:"
            " call the models"
        ),
    )
    group.addoption(
        "--llm-cache-prune",
        action="store_true",
        help=(
            "remove recordings that no test has used, from files whose modules have run as a whole"
            " and passed"
        ),
    )
    group.addoption(
        "--llm-cache-scan",
        action="store_true",
        help=(
            "fail if recordings that tests use hold what looks like a secret: an API key, a"
            " password, a token"
        ),
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    config.stash[_state] = _State()


# -- Fixtures


@pytest.fixture
def llm_cache(request: pytest.FixtureRequest) -> Iterator[LLMCache]:
    """The LLMCache on the recordings of this test module.

    It is installed for the test: every provider's SDK is recorded and replayed, whichever code made
    the client. It can also be passed to ``get_or_call``, LangChain's ``cached`` or ``CachedLLM``.
    """
    node = request.node
    marked = _marked(node)
    path, mode = marked.pop("path", None), marked.pop("mode", None)
    hosts = marked.pop("hosts", ())
    module = Path(node.path)
    file = recordings_beside(module) if path is None else module.parent / Path(path).expanduser()
    cache = _open(
        request.config, file, mode, module=module_of(node.nodeid), shared=path is not None, **marked
    )
    installation = put("test", cache, hosts)
    yield cache
    take_off(installation)


@pytest.fixture(autouse=True)
def _marked_llm_cache(request: pytest.FixtureRequest) -> None:
    """Let the marker alone do what the fixture does: the methods of unittest classes take none."""
    if request.node.get_closest_marker("llm_cache") is not None:
        request.getfixturevalue("llm_cache")


@pytest.fixture(scope="session")
def llm_cache_at(request: pytest.FixtureRequest) -> Callable[..., LLMCache]:
    """``llm_cache_at(path, mode=None, **settings)``: as ``llm_cache``, for fixtures of any scope;
    *path* is relative to the root folder."""

    def open_at(path: str | os.PathLike[str], mode: Any = None, **settings: Any) -> LLMCache:
        _check({"mode": mode, **settings}, "llm_cache_at()")
        return _open(
            request.config,
            request.config.rootpath / Path(path).expanduser(),
            mode,
            shared=True,
            **settings,
        )

    return open_at


def _open(config: pytest.Config, file: Path, mode: Any, **how: Any) -> LLMCache:
    return config.stash[_state].recordings.open(
        file, resolve_mode(config.getoption("--llm-cache"), mode, os.environ), **how
    )


def _marked(node: Any) -> dict[str, Any]:
    """Return the arguments of a test's markers; the nearest marker wins."""
    arguments: dict[str, Any] = {}
    for marker in node.iter_markers("llm_cache"):
        if marker.args:
            raise pytest.UsageError(
                f"{node.nodeid}: llm_cache takes names: @pytest.mark.llm_cache(mode='replay',"
                " path='shared.jsonl')"
            )
        _check(marker.kwargs, f"{node.nodeid}: @pytest.mark.llm_cache")
        arguments = {**marker.kwargs, **arguments}
    return {name: value for name, value in arguments.items() if value is not None}


def _check(arguments: dict[str, Any], where: str) -> None:
    unknown = sorted(arguments.keys() - SETTINGS - {"mode", "path", "hosts"})
    if unknown:
        raise pytest.UsageError(
            f"{where} knows no {', '.join(unknown)}; it knows mode, path, hosts,"
            f" {', '.join(sorted(SETTINGS))}"
        )
    if arguments.get("mode") not in (None, *MODES):
        raise pytest.UsageError(
            f"{where}: mode must be one of {', '.join(MODES)}, not {arguments['mode']!r}"
        )
    path = arguments.get("path")
    if not isinstance(path, str | os.PathLike | None):
        raise pytest.UsageError(
            f"{where}: path must be a path such as 'shared.jsonl', not {type(path).__name__}"
        )


# -- Watching the run


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workerinput"):
        return
    run = _run(config)
    run.mark_partial(_node(config, arg) for arg in config.args if "::" in arg)
    run.complete = (
        config.args_source is not pytest.Config.ArgsSource.ARGS
        and config.invocation_params.dir == config.rootpath
    )
    config.pluginmanager.register(_Watch(config), "llm_cache_mem_watch")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Note every collected test, not only those that remain: a plugin that runs a share of the
    tests may remove the others without a hook call."""
    _run(item.config).collected([item.nodeid])


def pytest_collection_finish(session: pytest.Session) -> None:
    run = _run(session.config)
    if session.config.getoption("lf", False):  # --last-failed removes tests without a hook call
        run.mark_partial(run.tests)


def _node(config: pytest.Config, arg: str) -> str:
    """Return the node id of the module in an argument such as ``../test_x.py::test_y``."""
    path = config.invocation_params.dir / arg.partition("::")[0]
    return Path(os.path.relpath(path, config.rootpath)).as_posix()


def pytest_deselected(items: Any) -> None:
    for item in items:
        _run(item.config).mark_partial([item.nodeid])
        _run(item.config).complete = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show a miss at the test's own line instead of inside the library, and say how to record
    it."""
    missed = call.excinfo if call.excinfo is not None and _is_miss(call.excinfo.value) else None
    for entry in missed.traceback if missed is not None else ():
        if _is_foreign(entry):
            entry.frame.f_globals["__tracebackhide__"] = _hide_if_miss
    if missed is not None and (miss := _miss_in(missed.value)) is not None:
        miss.advice = "--llm-cache=on"  # a test writes no mode
    report: Any = yield
    if missed is not None:
        report.sections.append(
            ("llm cache", f"to record what is missing: pytest --llm-cache=on '{item.nodeid}'")
        )
    return report  # type: ignore[no-any-return]  # a hook wrapper returns what it got


def _is_foreign(entry: Any) -> bool:
    """Whether a frame is of this library, of an SDK or of Python: not of the user's own code."""
    if entry.frame.f_globals.get("__name__", "").partition(".")[0] in _PACKAGES:
        return True
    parts = Path(str(entry.path)).parts
    return "site-packages" in parts or str(entry.path).startswith(_STANDARD_LIBRARY)


def _hide_if_miss(excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
    return _is_miss(excinfo.value)


def _is_miss(error: BaseException | None) -> bool:
    return _miss_in(error) is not None


def _miss_in(error: BaseException | None) -> CacheMissError | None:
    """Return the miss that caused *error*, if one did: SDKs wrap the exceptions of their
    transport."""
    for _ in range(8):
        if error is None or isinstance(error, CacheMissError):
            break
        error = error.__cause__ or error.__context__
    return error if isinstance(error, CacheMissError) else None


class _Watch:
    """Follows the test reports, in the process that prints the summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            _run(self._config).ended(
                report.nodeid, passed=report.outcome == "passed" and not hasattr(report, "wasxfail")
            )

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        """Take over the state of a pytest-xdist worker; that of a crashed worker is lost."""
        output = getattr(node, "workeroutput", {}).get(_OUTPUT)
        state = self._config.stash[_state]
        if output is None:
            state.run.mark_partial(state.run.tests)
            state.run.complete = False
            self._crashed = True
        else:
            state.run.add(output["run"])
            state.recordings.add(output["recordings"])

    _crashed = False

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        state = self._config.stash[_state]
        if not self._crashed:
            state.lines = _summary(self._config, state)
        if self._config.getoption("--llm-cache-scan"):
            secrets = list(_secrets(self._config, state))
            state.lines += secrets
            if secrets and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        state.recordings.close()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        lines = self._config.stash[_state].lines
        if lines:
            terminalreporter.section("llm cache", sep="-")
            for line in lines:
                terminalreporter.line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    output: Any = getattr(session.config, "workeroutput", None)
    if output is not None:
        state = session.config.stash[_state]
        output[_OUTPUT] = {"run": state.run.as_dict(), "recordings": state.recordings.as_dict()}
        state.recordings.close()


def _run(config: pytest.Config) -> Run:
    return config.stash[_state].run


# -- The summary


def _summary(config: pytest.Config, state: _State) -> list[str]:
    def shown(path: str) -> str:
        return os.path.relpath(path, config.invocation_params.dir)

    lines = []
    for path, use in sorted(state.recordings.files.items()):
        if use.recorded:
            lines.append(f"{shown(path)}: {use.recorded} recorded")
        if use.unrecorded:
            lines.append(
                f"{shown(path)}: calls that could not be recorded: {by_reason(use.unrecorded)}"
            )
    for path, keys in sorted(state.recordings.unused(state.run).items()):
        lines.append(_unused_line(config, shown(path), path, keys))
    if state.run.complete:
        lines += [
            f"{shown(path)} belongs to no test module: was that renamed?"
            for path in orphans(state.recordings.files)
        ]
    return lines


def _secrets(config: pytest.Config, state: _State) -> Iterator[str]:
    """A line for each file of recordings that holds what looks like a secret."""
    for path in sorted(state.recordings.files):
        numbers = lines_with_secrets(path) if os.path.exists(path) else []
        if numbers:
            lines = f"line{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
            yield (
                f"{os.path.relpath(path, config.invocation_params.dir)}: {lines}: what looks like a"
                " secret; record that again, and change the secret if the file was shared"
            )


def _unused_line(config: pytest.Config, shown: str, path: str, keys: list[str]) -> str:
    what = f"{len(keys)} unused recording{'s' if len(keys) > 1 else ''}"
    if not config.getoption("--llm-cache-prune"):
        which = "them" if len(keys) > 1 else "it"
        return f"{shown}: {what}; remove {which} with --llm-cache-prune"
    try:
        remove(path, keys)
    except (StoreError, OSError) as exc:
        return f"{shown}: {what} could not be removed: {exc}"
    return f"{shown}: removed {what}"
