"""What only another process shows: entries found across restarts, and what importing needs."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import asyncio, sys
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.globals import set_llm_cache
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from langchain_doubles import Streaming
from langchain_llm_cache_mem import LLMCacheMem, cached

class Invoice(BaseModel):
    total: int

cache = LLMCacheMem(backend=sys.argv[1])
set_llm_cache(cache)
history = [
    SystemMessage("s"), HumanMessage("hi"),
    AIMessage("", tool_calls=[{"name": "f", "args": {"b": 1, "a": {"d": 2, "c": 3}}, "id": "1"}]), ToolMessage("x", tool_call_id="1"),
]
model = Streaming().bind(response_format=Invoice, tools=[{"name": "f", "x": {"b": 1, "a": 2}}])
model.invoke(history)
wrapped = cached(Streaming(), cache)
list(wrapped.stream(history))
asyncio.run(wrapped.ainvoke(history))
stats = cache.stats()
print(stats.hits, stats.misses)
"""


def run(program: str, *arguments: str, seed: str = "0") -> str:
    path = os.pathsep.join([str(ROOT), str(ROOT / "integrations"), str(ROOT / "tests")])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONHASHSEED": seed,
        "OPENAI_API_KEY": "sk-x",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout.strip()


def test_another_process_finds_stored_entries(tmp_path: Path) -> None:
    file = str(tmp_path / "cache.db")
    assert run(PROGRAM, file, seed="1") == "1 2"
    assert run(PROGRAM, file, seed="2") == "3 0"


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def test_only_langchain_core_is_needed() -> None:
    program = BLOCKER.format(
        blocked=(
            "langchain",
            "langgraph",
            "langchain_openai",
            "langchain_community",
            "openai",
            "anthropic",
        )
    )
    program += """
from langchain_core.language_models import FakeListChatModel
from langchain_llm_cache_mem import LLMCacheMem, cached

model = cached(FakeListChatModel(responses=["a", "b"]), LLMCacheMem())
assert model.invoke("hi").content == model.invoke("hi").content == "a"
try:
    import langchain_llm_cache_mem.tools
except ImportError as exc:
    print(exc)
"""
    assert run(program) == "ToolCacheMiddleware needs langchain: pip install langchain"


def test_the_core_needs_none_of_it() -> None:
    program = BLOCKER.format(blocked=("langchain_core", "pydantic"))
    assert run(program + "import llm_cache_mem; llm_cache_mem.LLMCache(); print('fine')") == "fine"
