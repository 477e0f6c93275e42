"""The example with its tests, as CI runs it: from its recordings, with the network out of reach."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "record_replay"


def run(folder: Path, *args: str, ci: bool = True) -> "subprocess.CompletedProcess[str]":
    pytest.importorskip("openai")
    paths = [str(ROOT), str(ROOT / "integrations"), str(ROOT / "tests")]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LLM_CACHE_MEM", "MODEL", "PYTEST_"))
    }
    environment |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment.pop("CI", None)
    if ci:
        environment["CI"] = "1"
    plugins = [
        part
        for name in ("llm_cache_mem.testing.pytest_plugin", "pytest_asyncio.plugin", "no_network")
        for part in ("-p", name)
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *plugins,
        "-p",
        "no:cacheprovider",
        str(folder),
        *args,
    ]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, cwd=folder
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(
        shutil.copytree(EXAMPLE, tmp_path / "example", ignore=shutil.ignore_patterns("__pycache__"))
    )


def test_it_passes_from_its_recordings_without_a_network() -> None:
    before = {path: path.read_bytes() for path in EXAMPLE.glob("llm_cache/*")}
    done = run(EXAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b12 passed", done.stdout)
    assert (
        "not" not in done.stdout.partition("llm cache")[2]
    )  # no recording is unused, none missing
    assert {path: path.read_bytes() for path in EXAMPLE.glob("llm_cache/*")} == before


def test_without_the_recordings_the_same_run_fails(copy: Path) -> None:
    shutil.rmtree(copy / "llm_cache")
    done = run(copy)
    assert done.returncode == 1
    assert "CacheMissError" in done.stdout
    assert "NetworkReached" not in done.stdout  # nobody even tried


def test_and_the_network_really_is_out_of_reach(copy: Path) -> None:
    done = run(copy, "--llm-cache=off", "-x")
    assert done.returncode != 0
    assert "NetworkReached" in done.stdout + done.stderr


def test_a_changed_prompt_is_named_by_the_error(copy: Path) -> None:
    source = copy / "triage.py"
    source.write_text(source.read_text().replace("Promise nothing.", "Promise everything."))
    done = run(copy)
    assert re.search(
        r'messages\[0\]\.content: ".*Promise nothing\." → ".*Promise everything\."', done.stdout
    ), done.stdout


def test_the_recordings_are_small_and_hold_no_path_and_no_secret() -> None:
    for path in EXAMPLE.glob("llm_cache/*.jsonl"):
        text = path.read_text()
        assert len(text) < 60_000
        assert not re.search(r"127\.0\.0\.1|authorization|/root|/home", text, re.IGNORECASE)
