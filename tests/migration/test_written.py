"""Importing from caches of other libraries: files that these libraries wrote, in the environment
that has them, and calls that hit afterwards."""

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import ROOT, read, run
from langchain_llm_cache_mem import LLMCacheMem
from migration.writing import QUESTIONS, ask_langchain, memoized, requests_of_disk
from openai import OpenAI

from llm_cache_mem import LLMCache
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


def write(kind: str, folder: Path, provider: StandInServer, *more: str) -> None:
    command = [str(PYTHON), "tests/migration/writing.py", kind, str(folder), provider.url, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def unreachable(**request: Any) -> Any:
    raise AssertionError("a call was made")


def dry_run(kind: str, source: str) -> Any:
    """What would come of a *source* of which nothing can be imported."""
    command = ("import", "--from", kind, source, "--dry-run", "--json")
    return json.loads(run(*command, status=1).stdout)


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


def test_requests_in_keys_of_diskcache_hit_afterwards(
    folder: Path, provider: StandInServer
) -> None:
    write("diskcache", folder, provider)
    counts = {
        "plain": {"no request in the key": 2, "a pickle that holds objects": 1},
        "fanout": {},
        "json": {},
    }
    for name, skipped in counts.items():
        store, asked = folder / f"{name}.db", requests_of_disk()
        moved = read("import", "--from", "diskcache", str(folder / name), str(store))
        more = [memoized()] if name == "plain" else []
        assert moved == {"imported": 4 + len(more), "present": 0, "skipped": skipped}
        with LLMCache(backend=store, ttl_seconds=None) as cache:
            answers = [
                cache.get_or_call(one.pop("messages"), unreachable, **one) for one in asked + more
            ]
        assert all(answer["choices"] for answer in answers[:4])
        assert all(isinstance(answer, str) for answer in answers[4:])


def test_questions_of_gptcache_hit_with_the_rest_of_the_request(
    folder: Path, provider: StandInServer
) -> None:
    write("gptcache", folder, provider)
    source, store = str(folder / "gptcache.db"), str(folder / "from_gptcache.db")
    alone = dry_run("gptcache", source)
    assert list(alone["skipped"].values()) == [3]
    system = {"role": "system", "content": "Be brief."}
    rest = json.dumps({"model": "gpt-4o", "temperature": 0, "messages": [system]})
    command = ("import", "--from", "gptcache", source, store, "--request", rest, "--sdk", "openai")
    assert read(*command) == {"imported": 3, "present": 0, "skipped": {}}
    with LLMCache(backend=store, ttl_seconds=None) as cache, OpenAI(api_key="none") as client:
        for question in QUESTIONS:
            answer = cache.get_or_call(
                [system, {"role": "user", "content": question}],
                client.chat.completions.create,
                model="gpt-4o",
                temperature=0,
            )
            assert answer.choices[0].message.content == f"the answer to {question}"
        assert cache.stats().hits == 3


def hashed(kind: str, source: str, count: int) -> str:
    """The reason for which all *count* entries of *source* were skipped."""
    found = dry_run(kind, source)
    assert (found["imported"], found["present"]) == (0, 0)
    ((reason, number),) = (
        (why, n) for why, n in found["skipped"].items() if why != "not a key of this cache"
    )
    assert number == count
    return str(reason)


def test_hashes_of_dspy_are_counted(folder: Path, provider: StandInServer) -> None:
    write("dspy", folder, provider)
    assert "leave dspy's cache on" in hashed("dspy", str(folder / "dspy"), 3)


def test_hashes_of_langchains_redis_are_counted(
    folder: Path, provider: StandInServer, redis_url: str
) -> None:
    write("langchain_redis", folder, provider, redis_url)
    assert "LLMCacheMem(fallback=" in hashed("langchain", redis_url, 2)


def test_litellm_is_read_through_with_its_own_key(
    folder: Path, provider: StandInServer, redis_url: str
) -> None:
    write("litellm", folder, provider, redis_url)
    for source in (str(folder / "disk"), redis_url):
        assert "the guide for LiteLLM" in hashed("litellm", source, 3)
    before = provider.calls
    write("read_litellm", folder, provider)
    assert provider.calls == before
