"""The probes of benchmarks/probes, asked of this library: all must be right; and the page that was
made of them is in step."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.probes import concurrency, steps, storing
from benchmarks.probes.contestant import Bench, Cannot, Clock
from benchmarks.probes.contestants import CONTESTANTS, OURS, load
from benchmarks.probes.forkserver import Spare
from benchmarks.probes.registry import GROUPS
from benchmarks.probes.runner import RIGHT, all_probes

ROOT = Path(__file__).resolve().parents[1]
PROBES = all_probes()
PAGE = ROOT / "benchmarks" / "PROBES.md"
README = ROOT / "README.md"
COMPARISON = ROOT / "docs" / "comparison.md"
APART = {"full-disk"}  # it bounds the files of its whole process
LOCKED = {"locked-file"}

IN_MEMORY = [name for name, probe in PROBES.items() if probe.group != "The store"] + ["secrets"]
ON_FILE = [
    name
    for name, probe in PROBES.items()
    if probe.group == "The store" and not name.startswith("server") and name not in APART | LOCKED
]
ON_SERVER = ["restart", "server-down", "server-hangs"]
IN_LANGCHAIN = [name for name, probe in PROBES.items() if probe.group in ("The key", "The answer")]
CANNOT = {
    "sdk-objects",
    "object-address",
    "fewer-choices",
}  # LangChain takes no such messages, and a wrapped model no answers


class Simulated(Clock):
    """A clock that nobody waits for."""

    def sleep(self, seconds: float) -> None:
        self.shift += seconds


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for callers that do not come; and a busy machine is not taken for a store that
    stalls."""
    monkeypatch.setattr(concurrency, "GRACE", 0.2)
    monkeypatch.setattr(storing, "STALL", 60.0)
    monkeypatch.setenv("PROBES_STORE_TIMEOUT", "20")  # as conftest gives the stores of this process


@pytest.fixture
def bench_of(tmp_path: Path) -> Iterator[Any]:
    benches: list[Bench] = []

    def make(name: str) -> Bench:
        folder = tmp_path / "store"
        folder.mkdir()
        benches.append(Bench(load(name), folder, clock=Simulated()))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


@pytest.mark.parametrize("name", IN_MEMORY)
def test_the_cache_in_memory_is_right(name: str, bench_of: Any) -> None:
    assert PROBES[name].ask(bench_of("llm-cache-mem")) is None


@pytest.mark.parametrize("name", ON_FILE)
def test_the_cache_on_sqlite_is_right(name: str, bench_of: Any) -> None:
    assert PROBES[name].ask(bench_of("llm-cache-mem, SQLite")) is None


@pytest.mark.parametrize("name", sorted(APART))
def test_the_cache_on_sqlite_is_right_in_a_process_of_its_own(name: str) -> None:
    command = [sys.executable, "-m", "benchmarks.probes.runner", "llm-cache-mem, SQLite", name]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=300)
    assert json.loads(ran.stdout.splitlines()[-1])["verdict"] == [RIGHT, ""]


@pytest.mark.usefixtures("usual_timeouts")
def test_the_cache_on_sqlite_does_not_wait_for_a_lock(bench_of: Any) -> None:
    assert PROBES["locked-file"].ask(bench_of("llm-cache-mem, SQLite")) is None


@pytest.mark.usefixtures("usual_timeouts")
@pytest.mark.parametrize("name", ON_SERVER)
def test_the_cache_on_redis_is_right(name: str, bench_of: Any) -> None:
    try:
        assert PROBES[name].ask(bench_of("llm-cache-mem, Redis")) is None
    except Cannot as why:
        pytest.skip(str(why))


@pytest.mark.parametrize("name", IN_LANGCHAIN)
def test_the_cache_under_langchain_is_right(name: str, bench_of: Any) -> None:
    if name in CANNOT:
        with pytest.raises(Cannot):
            PROBES[name].ask(bench_of("llm-cache-mem, LangChain"))
        return
    try:
        assert PROBES[name].ask(bench_of("llm-cache-mem, LangChain")) is None
    except Cannot as why:
        assert str(why) == "sends the same for both"  # noqa: PT017 - "1" and 1 are the same seed to ChatOpenAI


def test_a_wrong_answer_is_called_wrong(bench_of: Any) -> None:
    """As a cache that forgets the system prompt, and shares its objects, would be."""
    bench = bench_of("llm-cache-mem")
    peer_class = bench.contestant

    class Careless(peer_class):  # type: ignore[misc,valid-type]
        kept: dict[str, Any]

        def prepare(self) -> None:
            self.kept = {}
            super().prepare()

        def ask(self, **request: Any) -> Any:
            last = str(request["messages"][-1])
            if last not in self.kept:
                self.kept[last] = self.call(**request)
            return self.kept[last]

    bench.contestant = Careless
    assert PROBES["system-prompt"].ask(bench) == "the lawyer's answer is served to the pirate"
    assert PROBES["spoilt-hit"].ask(bench) == "the next caller gets what this one made of it"


def _double(number: str) -> None:
    """A step for forks: it prints what it returns."""
    print("what libraries print")
    print(json.dumps([int(number) * 2, os.getcwd(), os.environ["PROBES_TEST"]]))


def _go_on_for_ever() -> None:
    for number in itertools.count():
        print(number, flush=True)


@pytest.fixture
def spare_of() -> Iterator[Any]:
    spares: list[Spare] = []

    def make(run: Any) -> Spare:
        spares.append(Spare(run))
        return spares[-1]

    yield make
    for spare in spares:
        spare.close()


def test_forks_of_the_spare_process_do_step_after_step(spare_of: Any, tmp_path: Path) -> None:
    spare = spare_of(_double)
    begun = [
        spare.start(str(number), cwd=str(tmp_path), environment={"PROBES_TEST": "set"})
        for number in range(3)
    ]
    assert [step.result() for step in begun] == [
        [number * 2, str(tmp_path), "set"] for number in range(3)
    ]
    assert "PROBES_TEST" not in os.environ


def test_a_step_that_fails_in_a_fork_is_an_error_and_the_next_is_not(
    spare_of: Any, tmp_path: Path
) -> None:
    spare = spare_of(_double)
    with pytest.raises(RuntimeError, match="ended with an error"):
        spare.start("no number", cwd=str(tmp_path), environment={}).result()
    assert spare.start("4", cwd=str(tmp_path), environment={"PROBES_TEST": ""}).result()[0] == 8


def test_a_fork_can_be_killed_while_it_prints(spare_of: Any, tmp_path: Path) -> None:
    step = spare_of(_go_on_for_ever).start(cwd=str(tmp_path), environment={})
    assert [step.line() for _ in range(3)] == ["0\n", "1\n", "2\n"]
    step.kill()
    step.kill()  # as the bench does at its end


def test_a_probe_finds_the_same_in_forks_as_in_new_interpreters(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    spare = Spare(steps.main)
    bench = Bench(load("llm-cache-mem, SQLite"), tmp_path / "store", clock=Simulated(), spare=spare)
    try:
        assert PROBES["killed"].ask(bench) is None
    finally:
        bench.close()


def test_the_page_has_every_probe_and_contestant_of_today() -> None:
    page = PAGE.read_text(encoding="utf-8")
    asked = re.findall(r"^\| (.+) \(`([a-z-]+)`\) \|", page, re.MULTILINE)
    titles = {probe.title.replace("|", "\\|"): name for name, probe in PROBES.items()}
    assert dict(asked) == titles, "make bench-probes writes it anew"
    assert [
        group for group in re.findall(r"^## (.+)$", page, re.MULTILINE) if group in GROUPS
    ] == list(GROUPS)
    counted = re.findall(r"^\| ([^|]+?) \| (\d+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    assert all(sum(map(int, numbers)) == len(PROBES) for _, *numbers in counted)
    left_out = re.findall(r"^Not in this run: (.+)\.$", page, re.MULTILINE)
    assert {name for name, *_ in counted} | set("; ".join(left_out).split("; ")) - {""} == set(
        CONTESTANTS
    )


def test_the_page_lists_failures_of_this_library() -> None:
    page = PAGE.read_text(encoding="utf-8")
    wrong = {
        name: re.findall(
            r"^- `([a-z-]+)`", page.split(f"\n### {name}\n")[1].split("\n### ")[0], re.M
        )
        for name in OURS
    }
    assert {name: probes for name, probes in wrong.items() if probes} == {
        "llm-cache-mem, LLMCacheMem alone": ["stream-hits"]
    }
    assert "LangChain never consults a cache for streams" in README.read_text(encoding="utf-8")


def counts(page: Path) -> list[str]:
    return re.findall(
        r"^\| [^|]+? \| \d+ \| \d+ \| \d+ \|$", page.read_text(encoding="utf-8"), re.MULTILINE
    )


def test_the_comparison_page_has_the_counts_of_the_probes() -> None:
    assert counts(COMPARISON) == counts(PAGE), "copy the first table of benchmarks/PROBES.md"


def test_the_readme_has_the_counts_of_the_probes() -> None:
    found = {row.split(" | ")[0][2:]: row.split(" | ")[1:3] for row in counts(PAGE)}
    shown = (
        "llm-cache-mem, SQLite",
        "llm-cache-mem, LLMCacheMem alone",
        "LangChain SQLiteCache",
        "LangChain RedisCache",
        "GPTCache",
        "LiteLLM disk",
        "DSPy",
        "diskcache",
    )
    row = " | ".join(" / ".join(found[name]) for name in shown)
    assert f"| probes right / wrong | {row} |" in README.read_text(encoding="utf-8")
