"""Stampedes: fifty callers who miss one key at once, each library called by the wrapper that it
offers; how often is the model asked?"""

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers.contestant import LOOP, OURS, Absent, versioned
from benchmarks.peers.langchain_caches import messages_of
from benchmarks.peers.tables import Cell, Column, Row, Table
from benchmarks.peers.timed import FULL, Scale, folder
from llm_cache_mem import LLMCache

__all__ = ["stampede"]

DIFFERENT = 10
PARAMS = {"model": "m", "temperature": 0}


class Model:
    """A provider that takes *seconds* for an answer, and counts how often it is asked."""

    def __init__(self, seconds: float) -> None:
        self.calls = 0
        self._seconds = seconds
        self._lock = threading.Lock()

    def answer(self, messages: Any, **params: Any) -> dict[str, Any]:
        with self._lock:
            self.calls += 1
        time.sleep(self._seconds)
        return {"content": "Paris."}

    async def aanswer(self, messages: Any, **params: Any) -> dict[str, Any]:
        with self._lock:
            self.calls += 1
        await asyncio.sleep(self._seconds)
        return {"content": "Paris."}


Ask = Callable[[str], Any]
AskAsync = Callable[[str], Awaitable[Any]]


class Wrapper(NamedTuple):
    """How a library is put around a call: for threads, for tasks, None where it offers nothing for
    them."""

    name: str
    package: str
    threads: Callable[[Model, Path], Ask] | None
    tasks: Callable[[Model, Path], AskAsync] | None


def stampede(scale: Scale = FULL) -> Table:
    """Fifty callers of one missing key, and ten of different ones."""
    columns = [
        Column("calls, threads", ""),
        Column("all answered", "s"),
        Column("calls, tasks", ""),
        Column("all answered, tasks", "s"),
    ]
    columns.append(Column(f"{DIFFERENT} different", "s"))
    rows: list[Row] = []
    absent: list[Absent] = [Absent("gptcache", "offers a wrapper for openai before 1.0 only")]
    for wrapper in WRAPPERS:
        name = versioned(wrapper.name, wrapper.package)
        print(f"  {name}", flush=True)
        try:
            with folder() as path:
                rows.append(Row(name, _cells(wrapper, path, scale)))
        except ImportError as exc:
            absent.append(Absent(wrapper.name, f"not installed: {exc.name}"))
    numbers = {"callers": scale.callers, "seconds": scale.seconds, "different": DIFFERENT}
    return Table("stampede", columns, rows, absent, numbers)


def _cells(wrapper: Wrapper, path: Path, scale: Scale) -> list[Cell | None]:
    cells: list[Cell | None] = [None] * 5
    same, different = (
        ["What is it?"] * scale.callers,
        [f"What is {number}?" for number in range(DIFFERENT)],
    )
    for place, (make, gather) in enumerate(
        ((wrapper.threads, _in_threads), (wrapper.tasks, _in_tasks))
    ):
        if make is not None:
            model = Model(scale.seconds)
            ask = make(model, path)
            gather(ask, ["a first question"])  # what is loaded with the first call is not measured
            model.calls = 0
            seconds = gather(ask, same)
            cells[2 * place : 2 * place + 2] = [
                Cell(model.calls),
                Cell(round(seconds, 1)),
            ]  # nearer than that is chance
            cells[4] = cells[4] or Cell(round(gather(ask, different), 1))
    return cells


def _in_threads(ask: Ask, questions: Sequence[str]) -> float:
    barrier = threading.Barrier(len(questions) + 1)

    def once(question: str) -> None:
        barrier.wait()
        if ask(question) is None:
            raise RuntimeError("no answer")

    with ThreadPoolExecutor(len(questions)) as pool:
        waiting = [pool.submit(once, question) for question in questions]
        barrier.wait()
        began = time.perf_counter()
        for one in waiting:
            one.result()
        return time.perf_counter() - began


def _in_tasks(ask: AskAsync, questions: Sequence[str]) -> float:
    async def all_of_them() -> None:
        answers = await asyncio.gather(*(ask(question) for question in questions))
        if None in answers:
            raise RuntimeError("no answer")

    began = time.perf_counter()
    LOOP.run_until_complete(all_of_them())
    return time.perf_counter() - began


# -- Each library's own wrapper for a call


def _ours(model: Model, path: Path) -> Ask:
    cache = LLMCache()
    return lambda question: cache.get_or_call(question, model.answer, **PARAMS)


def _ours_async(model: Model, path: Path) -> AskAsync:
    cache = LLMCache()
    return lambda question: cache.aget_or_call(question, model.aanswer, **PARAMS)


def _lru_cache(model: Model, path: Path) -> Ask:
    return functools.lru_cache(500)(model.answer)


def _cachetools(model: Model, path: Path) -> Ask:
    from cachetools import TTLCache, cached

    return cached(TTLCache(500, 3600), lock=threading.Lock())(model.answer)  # type: ignore[no-any-return]


def _cachetools_condition(model: Model, path: Path) -> Ask:
    from cachetools import TTLCache, cached

    return cached(TTLCache(500, 3600), condition=threading.Condition())(model.answer)  # type: ignore[no-any-return]


def _diskcache(model: Model, path: Path) -> Ask:
    import diskcache

    return diskcache.Cache(str(path)).memoize()(model.answer)  # type: ignore[no-any-return]


def _diskcache_early(model: Model, path: Path) -> Ask:
    import diskcache

    return diskcache.memoize_stampede(diskcache.Cache(str(path)), 3600)(model.answer)  # type: ignore[no-any-return]


def _diskcache_barrier(model: Model, path: Path) -> Ask:
    import diskcache

    cache = diskcache.Cache(str(path))
    return diskcache.barrier(cache, diskcache.Lock)(cache.memoize()(model.answer))  # type: ignore[no-any-return]


def _dspy(model: Model, path: Path) -> Ask:
    import dspy
    from dspy.clients.cache import request_cache

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)

    @request_cache()  # type: ignore[untyped-decorator]
    def call(messages: str) -> Any:
        return model.answer(messages)

    return lambda question: call(messages=question)


def _dspy_async(model: Model, path: Path) -> AskAsync:
    import dspy
    from dspy.clients.cache import request_cache

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)

    @request_cache()  # type: ignore[untyped-decorator]
    async def call(messages: str) -> Any:
        return await model.aanswer(messages)

    return lambda question: call(messages=question)


def _litellm_asking(model: Model) -> Any:
    """litellm with a cache and a provider that is *model*."""
    from benchmarks.peers.in_memory import LiteLLM

    cache = LiteLLM._made(type="local")
    import litellm
    from litellm.types.utils import Choices, Message, ModelResponse

    def said() -> Any:
        return ModelResponse(
            model="probe/m", choices=[Choices(message=Message(role="assistant", content="Paris."))]
        )

    class Provider(litellm.CustomLLM):  # type: ignore[misc,name-defined]
        def completion(self, *args: Any, **kwargs: Any) -> Any:
            model.answer(None)
            return said()

        async def acompletion(self, *args: Any, **kwargs: Any) -> Any:
            await model.aanswer(None)
            return said()

    litellm.custom_provider_map = [{"provider": "probe", "custom_handler": Provider()}]
    litellm.cache = cache
    return litellm


def _litellm(model: Model, path: Path) -> Ask:
    litellm = _litellm_asking(model)
    return lambda question: litellm.completion(
        model="probe/m", messages=[{"role": "user", "content": question}], caching=True
    )


def _litellm_async(model: Model, path: Path) -> AskAsync:
    litellm = _litellm_asking(model)
    return lambda question: litellm.acompletion(
        model="probe/m", messages=[{"role": "user", "content": question}], caching=True
    )


def _chat_model(model: Model) -> type[Any]:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult

    class Chat(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "probe"

        def _generate(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> ChatResult:
            return ChatResult(
                generations=[ChatGeneration(message=AIMessage(model.answer(None)["content"]))]
            )

        async def _agenerate(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> ChatResult:
            return ChatResult(
                generations=[
                    ChatGeneration(message=AIMessage((await model.aanswer(None))["content"]))
                ]
            )

    return Chat


def _langchain(model: Model, path: Path) -> Any:
    from langchain_core.caches import InMemoryCache

    return _chat_model(model)(cache=InMemoryCache())


def _langchain_ours(model: Model, path: Path) -> Any:
    from langchain_llm_cache_mem import LLMCacheMem, cached

    return cached(_chat_model(model)(), LLMCacheMem())


def _invoked(make: Callable[[Model, Path], Any]) -> Callable[[Model, Path], Ask]:
    return lambda model, path: _asking(make(model, path).invoke)


def _ainvoked(make: Callable[[Model, Path], Any]) -> Callable[[Model, Path], AskAsync]:
    return lambda model, path: _asking(make(model, path).ainvoke)


def _asking(invoke: Callable[[Any], Any]) -> Ask:
    return lambda question: invoke(
        messages_of({"messages": [{"role": "user", "content": question}]})
    )


def _cashews(lock: bool) -> Callable[[Model, Path], AskAsync]:
    def make(model: Model, path: Path) -> AskAsync:
        from benchmarks.peers.in_memory import Cashews

        cache = Cashews._made("mem://?size=500")

        async def call(question: str) -> Any:
            return await model.aanswer(question)

        return cache(ttl=3600, key="{question}", lock=lock)(call)  # type: ignore[no-any-return]

    return make


def _aiocache(decorator: str) -> Callable[[Model, Path], AskAsync]:
    def make(model: Model, path: Path) -> AskAsync:
        import aiocache

        async def call(question: str) -> Any:
            return await model.aanswer(question)

        return getattr(aiocache, decorator)(ttl=3600)(call)  # type: ignore[no-any-return]

    return make


WRAPPERS = (
    Wrapper(f"{OURS}: get_or_call", "llm-cache-mem", _ours, _ours_async),
    Wrapper(
        f"{OURS} under LangChain: cached(model)",
        "langchain-core",
        _invoked(_langchain_ours),
        _ainvoked(_langchain_ours),
    ),
    Wrapper(
        "LangChain InMemoryCache", "langchain-core", _invoked(_langchain), _ainvoked(_langchain)
    ),
    Wrapper("litellm: completion", "litellm", _litellm, _litellm_async),
    Wrapper("dspy: request_cache", "dspy", _dspy, _dspy_async),
    Wrapper("functools.lru_cache", "", _lru_cache, None),
    Wrapper("cachetools: cached(lock=)", "cachetools", _cachetools, None),
    Wrapper("cachetools: cached(condition=)", "cachetools", _cachetools_condition, None),
    Wrapper("diskcache: memoize", "diskcache", _diskcache, None),
    Wrapper("diskcache: memoize_stampede", "diskcache", _diskcache_early, None),
    Wrapper("diskcache: memoize in barrier", "diskcache", _diskcache_barrier, None),
    Wrapper("cashews: cache", "cashews", None, _cashews(lock=False)),
    Wrapper("cashews: cache(lock=True)", "cashews", None, _cashews(lock=True)),
    Wrapper("aiocache: cached", "aiocache", None, _aiocache("cached")),
    Wrapper("aiocache: cached_stampede", "aiocache", None, _aiocache("cached_stampede")),
)
