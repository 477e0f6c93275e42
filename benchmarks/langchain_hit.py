"""``python -m benchmarks.langchain_hit``: a hit under LangChain against its own caches, and fifty
concurrent identical calls.

Our part of a hit is ``lookup``; the rest of ``invoke`` is LangChain's own and the same for all.
InMemoryCache copies nothing: it hands every caller the same object. Prompts are new strings for
every call, as LangChain makes them.
"""

import asyncio
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_llm_cache_mem import LLMCacheMem, cached

from benchmarks.harness import Variant, compare, show

__all__ = ["invokes", "lookups", "stampede"]

OURS = "llm-cache-mem"
LOOKUP_MICROS = 60
USAGE = {"input_tokens": 3000, "output_tokens": 250, "total_tokens": 3250}
ANSWER = AIMessage(
    "z" * 1000,
    id="lc_run--1",
    response_metadata={"id": "chatcmpl-1", "finish_reason": "stop"},
    usage_metadata=USAGE,
)
MODEL = (
    '{"id": ["langchain", "chat_models", "openai", "ChatOpenAI"], "kwargs": {"model_name":'
    ' "gpt-4o-mini", "openai_api_key": {"id": ["OPENAI_API_KEY"], "lc": 1, "type": "secret"},'
    ' "temperature": 0.0}, "lc": 1, "name": "ChatOpenAI", "type": "constructor"}---[(\'stop\','
    " None)]"
)


class Model(BaseChatModel):
    """Answers at once, or after a while."""

    model_name: str = "gpt-4o-mini"
    seconds: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "bench"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=ANSWER.model_copy())])

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        CALLS.append(self.seconds)
        await asyncio.sleep(self.seconds)
        return self._generate(messages)


CALLS: list[float] = []


def conversation(length: int) -> list[BaseMessage]:
    turns = (
        (
            HumanMessage(f"question {i} " + "x" * 400)
            if i % 2 == 0
            else AIMessage(f"answer {i} " + "y" * 400)
        )
        for i in range(length)
    )
    return list(turns)


def lookups() -> None:
    """A lookup of a repeated prompt of 20 messages, in memory and on SQLite."""
    prompt = dumps(conversation(20))

    def variant(name: str, cache: BaseCache) -> Variant:
        cache.update(prompt, MODEL, [ChatGeneration(message=ANSWER)])
        assert cache.lookup(prompt, MODEL)
        return Variant(
            name,
            lambda: [_lookup(cache, (prompt + " ")[:-1], (MODEL + " ")[:-1]) for _ in range(100)],
        )

    (ours,) = compare([variant(OURS, LLMCacheMem())])
    verdict = "ok" if ours.micros <= LOOKUP_MICROS else "NO"
    print(
        f"\nlookup of 20 messages in memory: {ours.micros:.1f} us (must be <= {LOOKUP_MICROS}:"
        f" {verdict})"
    )
    with tempfile.TemporaryDirectory() as folder:
        theirs = _sqlite_cache(folder)
        if theirs is None:
            print("\nlookup on SQLite: SQLiteCache needs langchain-community")
            return
        mine = LLMCacheMem(backend=Path(folder, "ours.db"))
        show(
            "lookup of 20 messages on SQLite",
            compare([variant("SQLiteCache", theirs), variant(OURS, mine)]),
            0.1,
        )


def invokes() -> None:
    """A whole invoke that hits, of 1 and of 20 messages."""
    for length in (1, 20):
        messages = conversation(length)
        models = {
            "InMemoryCache": Model(cache=InMemoryCache()),
            OURS: Model(cache=LLMCacheMem()),
            "llm-cache-mem, cached(model)": cached(Model(), LLMCacheMem()),
        }
        for model in models.values():
            model.invoke(messages)
        variants = [Variant(name, _invokes(model, messages)) for name, model in models.items()]
        show(f"invoke that hits, {length} messages", compare(variants, rounds=101), 1.15)


def stampede() -> None:
    """Fifty concurrent identical ainvoke."""
    print("\ncalls of the model made by 50 concurrent identical ainvoke")
    for name, model in (
        ("InMemoryCache", Model(cache=InMemoryCache(), seconds=0.05)),
        (OURS, Model(cache=LLMCacheMem(), seconds=0.05)),
        ("llm-cache-mem, cached(model)", cached(Model(seconds=0.05), LLMCacheMem())),
    ):
        CALLS.clear()
        asyncio.run(_fifty(model))
        print(f"  {name:<30} {len(CALLS)}")


async def _fifty(model: BaseChatModel) -> None:
    await asyncio.gather(*(model.ainvoke("hi") for _ in range(50)))


def _lookup(cache: BaseCache, prompt: str, described: str) -> Callable[[], object]:
    return lambda: cache.lookup(prompt, described)


def _invokes(
    model: BaseChatModel, messages: list[BaseMessage]
) -> Callable[[], list[Callable[[], object]]]:
    return lambda: [lambda: model.invoke(messages)] * 20


def _sqlite_cache(folder: str) -> BaseCache | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from langchain_community.cache import SQLiteCache
        except ModuleNotFoundError:
            return None
        warnings.simplefilter("ignore")
        return SQLiteCache(str(Path(folder, "theirs.db")))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # SQLiteCache warns of its own deprecation at every hit
    lookups()
    invokes()
    stampede()
