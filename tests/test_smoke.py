"""Smoke tests for machines without make and servers (Windows, macOS): the core, SQLite across
processes, LangChain and LlamaIndex."""

import json
import subprocess
import sys
import threading
from pathlib import Path

from langchain_doubles import Counting
from langchain_llm_cache_mem import LLMCacheMem, cached
from llama_index.core.llms import MockLLM
from llama_index_llm_cache_mem import CachedLLM

from llm_cache_mem import LLMCache
from llm_cache_mem.keys.digest import digest_of

DATA = Path(__file__).parent / "data"
MESSAGES = [{"role": "user", "content": "Où est la gare ?"}]
ANSWER = {"choices": [{"message": {"content": "Là-bas."}, "finish_reason": "stop"}]}
IN_ANOTHER_PROCESS = """
import sys
from llm_cache_mem import LLMCache
from test_smoke import ANSWER, MESSAGES

with LLMCache(backend=sys.argv[1]) as cache:
    assert cache.get(MESSAGES, model="m") == ANSWER
    cache.put(MESSAGES, ANSWER, model="another")
"""


def test_keys_are_those_published() -> None:
    vectors = json.loads((DATA / "key_vectors.json").read_text(encoding="utf-8"))
    assert [digest_of(vector["request"]) for vector in vectors] == [
        vector["digest"] for vector in vectors
    ]


def test_identical_requests_in_flight_make_one_call() -> None:
    calls = []
    all_asked = threading.Barrier(8)

    def call(**request: object) -> dict[str, object]:
        calls.append(request)
        return ANSWER

    def ask() -> None:
        all_asked.wait(timeout=120)
        assert cache.get_or_call(MESSAGES, call, model="m") == ANSWER

    with LLMCache() as cache:
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
        stats = cache.stats()
    assert len(calls) == 1
    assert stats.stored == 1


def test_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with LLMCache(backend=path) as cache:
        cache.put(MESSAGES, ANSWER, model="m")
        subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS, f"sqlite:///{path}"],
            cwd=Path(__file__).parent,
            check=True,
            timeout=300,
        )
        assert cache.get(MESSAGES, model="another") == ANSWER


def test_langchain_model_answers_from_the_cache(tmp_path: Path) -> None:
    with LLMCache(backend=tmp_path / "cache.db") as cache:
        model = cached(Counting(), LLMCacheMem(cache))
        assert model.invoke("hi").text == model.invoke("hi").text == "hi #1"
        assert model.calls == 1


def test_llama_index_model_answers_from_the_cache(tmp_path: Path) -> None:
    with LLMCache(backend=tmp_path / "cache.db") as cache:
        llm = CachedLLM(MockLLM(), cache)
        assert llm.complete("hi").text == llm.complete("hi").text == "hi"
        assert cache.stats().hits == 1
