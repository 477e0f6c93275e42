"""Behind LangChain and LlamaIndex, whoever adds up usage is told of none on a hit."""

import asyncio
import json
import sys
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
from http_server import Reply, provider
from langchain_anthropic import ChatAnthropic
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tracers import LangChainTracer
from langchain_core.tracers.base import BaseTracer
from langchain_llm_cache_mem import LLMCacheMem, cached
from langchain_openai import ChatOpenAI

from llm_cache_mem import LLMCache
from tests.telemetry.test_instrumentors import CHAT, MESSAGE, instrumented, tokens

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
MODELS = ("openai", "anthropic")


@pytest.fixture
def server():
    with provider() as found:
        found.answer = lambda asked: Reply(
            json.dumps(MESSAGE if asked.path.endswith("/messages") else CHAT).encode()
        )
        yield found


@pytest.fixture(params=["set_llm_cache", "cached"])
def behind(request):
    """A function that puts a model behind a cache."""
    cache = LLMCache()
    if request.param == "cached":
        yield lambda model: cached(model, cache)
    else:
        set_llm_cache(LLMCacheMem(cache))
        yield lambda model: model
        set_llm_cache(None)


def model_of(name: str, server: Any) -> Any:
    if name == "anthropic":
        return ChatAnthropic(
            model_name="claude-sonnet-4-5", base_url=server.url, api_key="k", max_retries=0
        )
    return ChatOpenAI(model="gpt-4.1-mini", base_url=f"{server.url}/v1", api_key="k", max_retries=0)


def counts(value: Any, name: str = "") -> list[int]:
    """Every number in *value* that is called like a count of tokens."""
    if isinstance(value, dict):
        return [n for key, part in value.items() if key != "saved" for n in counts(part, key)]
    return [value] if type(value) is int and "tokens" in name else []


@pytest.mark.parametrize("name", MODELS)
def test_a_hit_reports_savings_and_no_tokens(name, server, behind):
    model = behind(model_of(name, server))
    first, hit = model.invoke("hi"), model.invoke("hi")
    assert isinstance(hit, AIMessage)
    assert counts(first.response_metadata)
    assert set(counts(hit.response_metadata) + counts(dict(hit.usage_metadata))) == {0}
    assert hit.response_metadata["llm_cache_mem"]["saved"] == {
        "input_tokens": 1000,
        "output_tokens": 200,
    }
    assert hit.content == first.content
    assert hit.response_metadata.keys() - first.response_metadata.keys() == {"llm_cache_mem"}


@pytest.mark.parametrize("name", MODELS)
def test_the_callback_handler_of_langchain_adds_up_no_hit(name, server, behind):
    model, handler = behind(model_of(name, server)), UsageMetadataCallbackHandler()
    for _ in range(3):
        model.invoke("hi", {"callbacks": [handler]})
    (used,) = handler.usage_metadata.values()
    assert used["total_tokens"] == 1200


class Runs(BaseTracer):
    """A tracer that keeps the runs, as LangSmith is sent them."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Any] = []

    def _persist_run(self, run: Any) -> None:
        self.runs.append(run)


@pytest.mark.parametrize("name", MODELS)
def test_run_trees_report_no_tokens_on_a_hit(name, server, behind):
    model, tracer = behind(model_of(name, server)), Runs()
    for _ in range(2):
        model.invoke("hi", {"callbacks": [tracer]})
    first, hit = (json.loads(json.dumps(run.outputs, default=str)) for run in tracer.runs)
    assert max(counts_in_lists(first)) >= 1000
    assert set(counts_in_lists(hit)) == {0}


@pytest.fixture
def sent_to_langsmith(monkeypatch):
    """The metadata of the runs that LangChain's own tracer sends, each at its end."""
    from langsmith import Client

    sent: list[Any] = []
    monkeypatch.setattr(Client, "create_run", lambda self, *args, **kwargs: None)
    monkeypatch.setattr(
        Client, "update_run", lambda self, *args, **kwargs: sent.append(kwargs["extra"]["metadata"])
    )
    client = Client(api_url="http://127.0.0.1:9", api_key="k", auto_batch_tracing=False)
    tracer = LangChainTracer(client=client)

    def metadata() -> list[Any]:
        tracer.wait_for_futures()
        return [one.get("llm_cache_mem") for one in sent]

    return tracer, metadata


def test_langsmith_can_filter_hits_by_the_metadata_of_a_run(server, behind, sent_to_langsmith):
    (tracer, metadata), model = sent_to_langsmith, behind(model_of("openai", server))
    for _ in range(2):
        model.invoke("hi", {"callbacks": [tracer]})
        asyncio.run(model.ainvoke("hi", {"callbacks": [tracer]}))
    assert metadata() == [None, "hit", "hit", "hit"]


def test_langsmith_can_filter_streamed_hits(sent_to_langsmith):
    tracer, metadata = sent_to_langsmith
    model = cached(FakeListChatModel(responses=["hello"]), LLMCache(), identity="fake")

    async def read() -> None:
        async for _ in model.astream("hi", {"callbacks": [tracer]}):
            pass

    for _ in range(2):
        list(model.stream("hi", {"callbacks": [tracer]}))
        asyncio.run(read())
    assert metadata() == [None, "hit", "hit", "hit"]


def counts_in_lists(value: Any) -> list[int]:
    if isinstance(value, list):
        return [n for part in value for n in counts_in_lists(part)]
    if isinstance(value, dict):
        nested = [n for key, part in value.items() if key != "saved" for n in counts_in_lists(part)]
        return counts(value) + nested
    return []


@pytest.mark.parametrize("name", MODELS)
def test_openinference_reports_no_tokens_on_a_hit(name, server, behind):
    from openinference.instrumentation.langchain import LangChainInstrumentor

    model = behind(model_of(name, server))
    with instrumented(LangChainInstrumentor) as exporter:
        for _ in range(2):
            model.invoke("hi")
    first, hit = tokens(exporter)
    assert (first >= 1000, hit) == (True, 0)


@pytest.mark.parametrize("name", MODELS)
def test_openllmetry_reports_no_tokens_on_a_hit(name, server, behind):
    from opentelemetry.instrumentation.langchain import LangchainInstrumentor

    model = behind(model_of(name, server))
    model.invoke("hi")
    with instrumented(LangchainInstrumentor) as exporter:
        model.invoke("hi")
    assert sum(tokens(exporter)) == 0


@pytest.mark.parametrize("name", MODELS)
def test_the_handler_of_langfuse_reports_no_tokens_on_a_hit(name, server, behind):
    langfuse = pytest.importorskip("langfuse")
    from langfuse.langchain import CallbackHandler
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    key, exporter, tracers = f"pk-{uuid4()}", InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    client = langfuse.Langfuse(
        public_key=key,
        secret_key="sk",
        base_url="http://127.0.0.1:9",
        tracer_provider=tracers,
        span_exporter=InMemorySpanExporter(),
    )
    model = behind(model_of(name, server))
    handler = CallbackHandler(public_key=key)
    for _ in range(2):
        model.invoke("hi", {"callbacks": [handler]})
    client.flush()
    details = [
        json.loads(span.attributes["langfuse.observation.usage_details"])
        for span in exporter.get_finished_spans()
        if "langfuse.observation.usage_details" in (span.attributes or {})
    ]
    first, hit = ([n for n in found.values() if isinstance(n, int)] for found in details)
    assert max(first) >= 1000
    assert not any(hit)


def test_the_token_counter_of_llama_index_adds_up_no_hit():
    from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
    from llama_index.core.llms import MockLLM
    from llama_index_llm_cache_mem import CachedLLM

    counter = TokenCountingHandler(tokenizer=str.split)
    manager = CallbackManager([counter])
    llm = CachedLLM(MockLLM(max_tokens=5, callback_manager=manager), LLMCache())
    llm.complete("one two three")
    first = counter.total_llm_token_count
    llm.complete("one two three")
    assert counter.total_llm_token_count == first > 0


def test_openinference_reports_no_tokens_of_llama_index_on_a_hit():
    from llama_index.core.llms import MockLLM
    from llama_index_llm_cache_mem import CachedLLM
    from openinference.instrumentation.llama_index import LlamaIndexInstrumentor

    llm = CachedLLM(MockLLM(max_tokens=5), LLMCache())
    llm.complete("one two three")
    with instrumented(LlamaIndexInstrumentor) as exporter:
        llm.complete("one two three")
    assert exporter.get_finished_spans()
    assert sum(tokens(exporter)) == 0


def test_openllmetry_reports_no_tokens_of_llama_index_on_a_hit(monkeypatch):
    import llama_index

    # it looks for the packages of providers, of which none is here
    none: Any = ModuleType("llama_index.llms")
    none.__path__ = []
    monkeypatch.setattr(llama_index, "llms", none, raising=False)
    monkeypatch.setitem(sys.modules, "llama_index.llms", none)
    from llama_index.core.llms import MockLLM
    from llama_index_llm_cache_mem import CachedLLM
    from opentelemetry.instrumentation.llamaindex import LlamaIndexInstrumentor

    llm = CachedLLM(MockLLM(max_tokens=5), LLMCache())
    llm.complete("one two three")
    with instrumented(LlamaIndexInstrumentor) as exporter:
        llm.complete("one two three")
    assert sum(tokens(exporter)) == 0
