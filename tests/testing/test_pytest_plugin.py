"""The pytest plugin as a project uses it: suites run by pytest itself, on recordings beside their
modules."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["pytester"]

PLUGINS = (
    "-p",
    "llm_cache_mem.testing.pytest_plugin",
    "-p",
    "pytest_asyncio.plugin",
    "-p",
    "xdist.plugin",
)  # and no others: they take seconds

MODEL = """
    import os
    from pathlib import Path

    CALLS = Path(__file__).parent / "calls.txt"

    def create(messages, **params):
        if os.environ.get("MODEL_IS_GONE"):
            raise ConnectionError("no model here")
        with CALLS.open("a") as file:
            print(messages, file=file)
        return {"role": "assistant", "content": f"about {messages}", "finish_reason": params.pop("finish", "stop")}
"""
ASKING = """
    from model import create

    def test_tea(llm_cache):
        assert llm_cache.get_or_call("tea", create, model="m")["content"] == "about tea"

    def test_cups(llm_cache):
        assert llm_cache.get_or_call("cups", create, model="m")["content"] == "about cups"
"""


class Suite:
    """A project with tests, in a folder of its own."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pytester = pytester
        self._monkeypatch = monkeypatch
        for name in ("CI", "LLM_CACHE_MEM_MODE", "LLM_CACHE_MEM_KEY", "PYTEST_ADDOPTS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        self.path = pytester.path
        pytester.makeini(
            "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope ="
            " function\nfilterwarnings = error\n"
        )
        pytester.makepyfile(model=MODEL)
        pytester.syspathinsert()
        self.recordings = self.path / "llm_cache" / "test_it.jsonl"

    def write(self, **modules: str) -> None:
        self._pytester.makepyfile(**modules)

    def run(self, *args: str, ci: bool = False, process: bool = False) -> pytest.RunResult:
        with self._monkeypatch.context() as environment:
            if ci:
                environment.setenv("CI", "true")
            run = (
                self._pytester.runpytest_subprocess
                if process
                else self._pytester.runpytest_inprocess
            )
            return run(*PLUGINS, "--strict-markers", *args)

    @property
    def calls(self) -> int:
        file = self.path / "calls.txt"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def recorded(self, file: Path | None = None) -> list[str]:
        """What was asked, of the recordings that there are."""
        path = file or self.recordings
        return (
            sorted(
                json.loads(line)["request"]["messages"] for line in path.read_text().splitlines()
            )
            if path.exists()
            else []
        )


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    return Suite(pytester, monkeypatch)


# -- Recording and replaying


def test_recordings_are_replayed_without_a_model(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write(test_it=ASKING)
    suite.run().assert_outcomes(passed=2)
    assert suite.recorded() == ["cups", "tea"]
    before = suite.recordings.read_bytes()
    monkeypatch.setenv("MODEL_IS_GONE", "1")
    suite.run().assert_outcomes(passed=2)
    suite.run(ci=True).assert_outcomes(passed=2)
    assert (suite.calls, suite.recordings.read_bytes()) == (2, before)


def test_ci_calls_nothing_and_explains_the_miss(suite: Suite) -> None:
    suite.write(test_it=ASKING)
    suite.run()
    suite.write(test_it=ASKING.replace('"tea", create, model="m"', '"tea", create, model="n"'))
    result = suite.run(ci=True)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*CacheMissError*record it first with --llm-cache=on*",
            '*model: "m" → "n"*',
            "*pytest --llm-cache=on 'test_it.py::test_tea'*",
        ]
    )
    result.stdout.fnmatch_lines(
        ["*test_it.py:*: CacheMissError"]
    )  # where the test asked, none of our own lines after it
    result.stdout.no_fnmatch_line("*engine*.py:*")
    assert suite.calls == 2


def test_ci_without_recordings_misses_every_call(suite: Suite) -> None:
    suite.write(test_it=ASKING)
    suite.run(ci=True).assert_outcomes(failed=2)
    assert suite.calls == 0
    assert not suite.recordings.parent.exists()


@pytest.mark.parametrize(
    ("option", "calls"), [("replay", 2), ("on", 2), ("refresh", 4), ("off", 4)]
)
def test_command_line_sets_the_mode(suite: Suite, option: str, calls: int) -> None:
    suite.write(test_it=ASKING)
    suite.run()
    before = suite.recordings.read_bytes()
    suite.run(f"--llm-cache={option}", ci=True).assert_outcomes(passed=2)
    assert suite.calls == calls
    assert suite.recordings.read_bytes() == before  # the same answers leave the same lines


def test_refresh_makes_each_request_once(suite: Suite) -> None:
    suite.write(test_it=ASKING + ASKING[ASKING.index("    def") :].replace("test_", "test_again_"))
    suite.run().assert_outcomes(passed=4)
    suite.recordings.write_text(suite.recordings.read_text().replace("about tea", "about old tea"))
    suite.run("--llm-cache=refresh").assert_outcomes(passed=4)
    assert suite.calls == 4
    assert "old" not in suite.recordings.read_text()


def test_false_values_of_ci_count_as_unset(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.write(test_it=ASKING)
    monkeypatch.setenv("CI", "false")
    suite.run().assert_outcomes(passed=2)


def test_environment_is_the_default_mode(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.write(test_it=ASKING)
    monkeypatch.setenv("LLM_CACHE_MEM_MODE", "replay")
    suite.run().assert_outcomes(failed=2)
    suite.run("--llm-cache=on").assert_outcomes(passed=2)


# -- Markers


def test_markers_set_mode_and_path(suite: Suite) -> None:
    suite.write(
        test_it="""
        import pytest
        from model import create

        pytestmark = pytest.mark.llm_cache(path="shared/all.jsonl")

        @pytest.mark.llm_cache(mode="off")
        def test_off(llm_cache):
            assert llm_cache.get_or_call("off", create)

        @pytest.mark.llm_cache(mode="replay")
        def test_replay(llm_cache):
            from llm_cache_mem import CacheMissError
            with pytest.raises(CacheMissError):
                llm_cache.get_or_call("replay", create)

        @pytest.mark.llm_cache(path="own.jsonl", key_fn=lambda messages, **params: messages.lower(), redact=["user"])
        def test_own(llm_cache):
            assert llm_cache.get_or_call("OWN", create, user="Ann") == llm_cache.get_or_call("own", create)

        def test_usual(llm_cache):
            assert llm_cache.get_or_call("usual", create)
        """
    )
    suite.run("--llm-cache=on").assert_outcomes(passed=4)
    assert suite.recorded(suite.path / "shared" / "all.jsonl") == ["usual"]
    assert suite.recorded(suite.path / "own.jsonl") == ["OWN"]
    assert "Ann" not in (suite.path / "own.jsonl").read_text()
    calls = suite.calls
    suite.run("--llm-cache=refresh").assert_outcomes(
        passed=4
    )  # what is marked replay or off is not recorded
    assert suite.calls == calls + 3
    assert suite.recorded(suite.path / "shared" / "all.jsonl") == ["usual"]


def test_ci_overrides_a_marker_that_records(suite: Suite) -> None:
    suite.write(
        test_it=ASKING.replace(
            "    def test_tea",
            "    import pytest\n\n    @pytest.mark.llm_cache(mode='refresh')\n    def test_tea",
        )
    )
    suite.run().assert_outcomes(passed=2)
    suite.run(ci=True).assert_outcomes(passed=2)
    assert suite.calls == 2
    suite.run().assert_outcomes(passed=2)
    assert suite.calls == 3


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("'off'", "takes names"),
        ("modus='off'", "knows no modus"),
        ("mode='offline'", "must be one of on, off, refresh, replay"),
        ("path=3", "path must be a path such as 'shared.jsonl', not int"),
    ],
)
def test_invalid_marker_is_a_usage_error(suite: Suite, marker: str, said: str) -> None:
    suite.write(
        test_it=f"import pytest\n@pytest.mark.llm_cache({marker})\ndef test_it(llm_cache): pass\n"
    )
    result = suite.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{said}*"])


def test_damaged_file_is_an_error_with_the_line(suite: Suite) -> None:
    suite.write(test_it=ASKING)
    suite.run()
    broken = suite.recordings.read_text().replace("\n", "\n<<<<<<< HEAD\n", 1)
    suite.recordings.write_text(broken)
    result = suite.run()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*test_it.jsonl, line 2: a merge conflict that is not resolved*"])
    assert suite.recordings.read_text() == broken


# -- All kinds of tests


def test_parametrised_async_streaming_and_class_tests(suite: Suite) -> None:
    suite.write(
        test_it="""
        import pytest
        from model import create

        @pytest.mark.parametrize("subject", ["tea", "cups", "a/b [c]"])
        def test_each(llm_cache, subject):
            assert llm_cache.get_or_call(subject, create)["content"] == f"about {subject}"

        class TestClass:
            async def test_awaited(self, llm_cache):
                async def acreate(messages, **params):
                    return create(messages, **params)
                assert (await llm_cache.aget_or_call("awaited", acreate))["content"] == "about awaited"

            def test_stream(self, llm_cache):
                def stream(messages, **params):
                    yield from [create(messages), create(messages)]
                assert len(list(llm_cache.get_or_call("stream", stream, stream=True))) == 2
        """
    )
    suite.run().assert_outcomes(passed=5)
    assert suite.recorded() == ["a/b [c]", "awaited", "cups", "stream", "tea"]
    suite.run(ci=True).assert_outcomes(passed=5)


def test_truncated_and_refused_answers_are_recorded(suite: Suite) -> None:
    suite.write(
        test_it="""
        from model import create

        def test_cut(llm_cache):
            assert llm_cache.get_or_call("cut", create, finish="length")["finish_reason"] == "length"
        """
    )
    suite.run().assert_outcomes(passed=1)
    suite.run(ci=True).assert_outcomes(passed=1)


def test_fixtures_of_any_scope_can_have_recordings(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write(
        conftest="""
        import pytest
        from model import create

        @pytest.fixture(scope="session")
        def answer(llm_cache_at):
            return llm_cache_at("data/session.jsonl", key_fn=None).get_or_call("session", create)
        """,
        test_it="def test_it(answer): assert answer['content'] == 'about session'",
        test_two="def test_two(answer): assert answer['content'] == 'about session'",
    )
    suite.run().assert_outcomes(passed=2)
    assert suite.recorded(suite.path / "data" / "session.jsonl") == ["session"]
    monkeypatch.setenv("MODEL_IS_GONE", "1")
    suite.run(ci=True).assert_outcomes(passed=2)


def test_framework_layers_accept_the_fixture(suite: Suite) -> None:
    pytest.importorskip("langchain_core")
    pytest.importorskip("llama_index.core")
    suite.write(
        test_it="""
        import pytest

        def test_langchain(llm_cache):
            from langchain_core.language_models import FakeListChatModel
            from langchain_llm_cache_mem import cached
            model = cached(FakeListChatModel(responses=["one two"]), llm_cache)
            assert "".join(chunk.content for chunk in model.stream("count")) == "one two" == model.invoke("count").content

        async def test_llama_index(llm_cache):
            from llama_index.core.llms import MockLLM
            from llama_index_llm_cache_mem import CachedLLM
            llm = CachedLLM(MockLLM(), llm_cache)
            assert llm.complete("tea").text == (await llm.acomplete("tea")).text
        """
    )
    suite.run("-W", "ignore::DeprecationWarning").assert_outcomes(passed=2)
    lines = suite.recordings.read_bytes()
    suite.run("-W", "ignore::DeprecationWarning", ci=True).assert_outcomes(passed=2)
    assert len(lines.splitlines()) == 2
    assert suite.recordings.read_bytes() == lines


# -- What nobody uses


STALE = '{"key": "1::value:stale", "request": {"messages": "stale"}, "answer": 1}\n'


@pytest.fixture
def stale(suite: Suite) -> Suite:
    """A suite with recordings of which one is no longer used."""
    suite.write(test_it=ASKING)
    suite.run()
    with suite.recordings.open("a") as file:
        file.write(STALE)
    return suite


def test_unused_recordings_are_reported_but_not_removed(stale: Suite) -> None:
    stale.run().stdout.fnmatch_lines(
        [
            "*llm cache*",
            "llm_cache/test_it.jsonl: 1 unused recording; remove it with --llm-cache-prune",
        ]
    )
    assert stale.recorded() == ["cups", "stale", "tea"]


@pytest.mark.parametrize("ci", [False, True])
def test_prune_removes_unused_recordings(stale: Suite, ci: bool) -> None:
    stale.run("--llm-cache-prune", ci=ci).stdout.fnmatch_lines(
        ["*test_it.jsonl: removed 1 unused recording"]
    )
    assert stale.recorded() == ["cups", "tea"]


NOT_ALL: list[Any] = [
    pytest.param(["-k", "tea"], "", id="some are deselected"),
    pytest.param(["test_it.py::test_tea"], "", id="one is named"),
    pytest.param(["-x"], "def test_a(): assert False", id="one fails before"),
    pytest.param([], "def test_z(): assert False", id="one fails"),
    pytest.param([], "import pytest\ndef test_z(): pytest.skip()", id="one is skipped"),
    pytest.param(
        [],
        "import pytest\n@pytest.mark.xfail\ndef test_z(): assert False",
        id="one fails as expected",
    ),
    pytest.param(
        [],
        "import pytest\n@pytest.fixture\ndef f():\n    yield\n    assert False\ndef test_z(f):"
        " pass",
        id="one fails at its end",
    ),
]


@pytest.mark.parametrize(("args", "more"), NOT_ALL)
def test_partial_or_failing_module_reports_nothing_unused(
    stale: Suite, args: list[str], more: str
) -> None:
    import textwrap

    source = textwrap.dedent(ASKING)
    stale.write(test_it=f"{more}\n{source}" if args == ["-x"] else f"{source}\n{more}\n")
    result = stale.run("--llm-cache-prune", *args)
    assert "unused recording" not in result.stdout.str()
    assert stale.recorded() == ["cups", "stale", "tea"]


def test_mode_off_reports_nothing_unused(stale: Suite) -> None:
    result = stale.run("--llm-cache=off", "--llm-cache-prune")
    result.assert_outcomes(passed=2)
    assert "unused recording" not in result.stdout.str()
    assert stale.recorded() == ["cups", "stale", "tea"]


def test_deselected_tests_suppress_the_report(
    stale: Suite,
) -> None:
    stale.write(conftest="def pytest_collection_modifyitems(items): del items[1:]")
    stale.run("--llm-cache-prune").assert_outcomes(passed=1)
    assert stale.recorded() == ["cups", "stale", "tea"]


def test_last_failed_suppresses_the_report(stale: Suite) -> None:
    import textwrap

    stale.write(
        test_it=textwrap.dedent(ASKING)
        + "\ndef test_z(): assert not __import__('os').environ.get('FAILS')\n"
    )
    with stale._monkeypatch.context() as environment:
        environment.setenv("FAILS", "1")
        stale.run().assert_outcomes(passed=2, failed=1)
    result = stale.run("--lf", "--llm-cache-prune")
    result.assert_outcomes(passed=1)
    assert stale.recorded() == ["cups", "stale", "tea"]


def test_shared_file_is_judged_by_the_whole_suite_only(suite: Suite) -> None:
    marked = (
        "    import pytest\n    pytestmark = pytest.mark.llm_cache(path='all.jsonl')\n" + ASKING
    )
    suite.write(test_it=marked, test_two=marked.replace("tea", "milk"))
    suite.run().assert_outcomes(passed=4)
    file = suite.path / "all.jsonl"
    file.write_text(file.read_text() + STALE)
    suite.run("--llm-cache-prune", "test_it.py").assert_outcomes(passed=2)
    assert suite.recorded(file) == ["cups", "milk", "stale", "tea"]
    suite.run("--llm-cache-prune").assert_outcomes(passed=4)
    assert suite.recorded(file) == ["cups", "milk", "tea"]


def test_recordings_of_a_renamed_module_are_reported(suite: Suite) -> None:
    suite.write(test_it=ASKING)
    suite.run()
    (suite.path / "test_it.py").rename(suite.path / "test_new.py")
    suite.run("--llm-cache-prune").stdout.fnmatch_lines(
        ["llm_cache/test_it.jsonl belongs to no test module: was that renamed?"]
    )
    assert suite.recorded() == ["cups", "tea"]


def test_calls_that_could_not_be_recorded_are_reported(suite: Suite) -> None:
    suite.write(
        test_it="""
        def test_it(llm_cache):
            assert llm_cache.get_or_call("x", lambda **request: object())
        """
    )
    result = suite.run("-W", "ignore::pytest.PytestUnraisableExceptionWarning")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_it.jsonl: calls that could not be recorded: value 1"])


def test_run_without_recordings_reports_nothing(suite: Suite) -> None:
    suite.write(test_it="def test_it(): pass")
    assert "llm cache" not in suite.run().stdout.str()


# -- pytest-xdist


def test_xdist_workers_share_one_file_and_its_report(suite: Suite) -> None:
    suite.write(
        test_it="""
        import pytest
        from model import create

        @pytest.mark.parametrize("number", range(40))
        def test_each(llm_cache, number):
            assert llm_cache.get_or_call(str(number), create)["content"] == f"about {number}"
        """
    )
    suite.run("-n", "2", process=True).assert_outcomes(passed=40)
    assert suite.recorded() == sorted(map(str, range(40)))
    with suite.recordings.open("a") as file:
        file.write(STALE)
    result = suite.run("-n", "2", "--llm-cache-prune", process=True, ci=True)
    result.assert_outcomes(passed=40)
    result.stdout.fnmatch_lines(["*removed 1 unused recording"])
    assert suite.recorded() == sorted(map(str, range(40)))
    assert suite.calls == 40


def test_crashed_worker_suppresses_the_report(suite: Suite) -> None:
    suite.write(test_it=ASKING)
    suite.run()
    suite.recordings.write_text(suite.recordings.read_text() + STALE)
    suite.write(test_it=ASKING, test_crash="import os\ndef test_crash(): os._exit(1)")
    suite.run("-n", "2", "--llm-cache-prune", process=True)
    assert suite.recorded() == ["cups", "stale", "tea"]


# -- The plugin itself


def test_plugin_imports_little_more_than_the_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys, pytest, llm_cache_mem; before = set(sys.modules); import"
        " llm_cache_mem.testing.pytest_plugin;print(*sorted({name.partition('.')[0] for name in"
        " set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"llm_cache_mem", "fcntl"}


@pytest.mark.parametrize("parallel", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_scan_fails_a_run_whose_recordings_hold_a_secret(
    suite: Suite, parallel: tuple[str, ...]
) -> None:
    suite.write(test_it=ASKING)
    assert suite.run("--llm-cache-scan", *parallel).ret == 0
    lines = suite.recordings.read_text()
    suite.recordings.write_text("\n" + lines.replace('"about tea"', '"AccountKey=Zq81kPjV3mXw"'))
    result = suite.run("--llm-cache-scan", "-k", "cups", *parallel)
    result.assert_outcomes(passed=1)
    assert result.ret == 1
    (said,) = [line for line in result.outlines if "looks like a secret" in line]
    assert said.startswith("llm_cache/test_it.jsonl: line ")
    assert "Zq81" not in said
    assert suite.run("-k", "cups").ret == 0
