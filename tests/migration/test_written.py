"""Importing from caches of other libraries: files that these libraries wrote, in the environment
that has them, and calls that hit afterwards."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_helpers import ROOT, read
from langchain_llm_cache_mem import LLMCacheMem
from migration.writing import ask_langchain

from llm_cache_mem.testing.model_server.stand_in import StandInServer

PYTHON = ROOT / ".venv-bench" / "bin" / "python"

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="the other libraries are not installed: make test-migration"
)


@pytest.fixture(scope="module")
def provider() -> Iterator[StandInServer]:
    with StandInServer(delay=0.0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written")


def write(kind: str, folder: Path, provider: StandInServer) -> None:
    command = [str(PYTHON), "tests/migration/writing.py", kind, str(folder), provider.url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


PARTIAL = (
    "LangChain describes its model only in part: read through it with LLMCacheMem(fallback=...)"
)


def test_rows_of_langchain_hit_afterwards(folder: Path, provider: StandInServer) -> None:
    write("langchain", folder, provider)
    for source in (str(folder / "langchain.db"), f"sqlite:///{folder}/md5.db"):
        store = folder / "moved.db"
        store.unlink(missing_ok=True)
        moved = read("import", "--from", "langchain", source, str(store))
        assert moved == {"imported": 7, "present": 1, "skipped": {PARTIAL: 1}}
        assert read("import", "--from", "langchain", source, str(store))["present"] == 8
        before, cache = provider.calls, LLMCacheMem(backend=store, ttl_seconds=None)
        answers = ask_langchain(cache, provider.url)
        assert (cache.stats().hits, provider.calls) == (len(answers), before)
        assert all(answers)
        cache.cache.close()
