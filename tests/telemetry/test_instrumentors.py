"""Whoever adds up usage is told of none on a hit: instrumentors, tracers and callback handlers."""

import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import anthropic
import openai
import pytest
from http_server import Reply
from http_server import provider as running_provider
from opentelemetry import context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llm_cache_mem import LLMCache
from llm_cache_mem.http import cache_client
from llm_cache_mem.http.headers import SAVED_TOKENS
from llm_cache_mem.http.onlookers import sums_usage

# of the instrumentors themselves, and of an SDK about the model
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    """Clients that instrumentors hold in cycles go at the end of their own test."""
    yield
    gc.collect()


MESSAGES: Any = [{"role": "user", "content": "hello"}]
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4.1-mini",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hi 1200"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200},
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1000, "output_tokens": 200},
}


def chunk(**fields: Any) -> bytes:
    whole = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4.1-mini"}
    return f"data: {json.dumps({**whole, **fields})}\n\n".encode()


STREAM = (
    chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": "hi"}}])
    + chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + chunk(choices=[], usage=CHAT["usage"])
    + b"data: [DONE]\n\n"
)


@pytest.fixture
def provider():
    """A provider of both protocols."""

    def answer(asked):
        if asked.path.endswith("/messages"):
            return Reply(json.dumps(MESSAGE).encode())
        if asked.body.get("stream"):
            return Reply(STREAM, "text/event-stream")
        return Reply(json.dumps(CHAT).encode())

    with running_provider() as server:
        server.answer = answer
        yield server


def openai_client(server: Any, cache: LLMCache, **settings: Any) -> openai.OpenAI:
    client = openai.OpenAI(api_key="k", base_url=f"{server.url}/v1", max_retries=0)
    return cache_client(client, cache, **settings)


def chat(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(model="gpt-4.1-mini", messages=MESSAGES)


def streamed(client: openai.OpenAI) -> list[Any]:
    options: Any = {"include_usage": True}
    return list(
        client.chat.completions.create(
            model="gpt-4.1-mini", messages=MESSAGES, stream=True, stream_options=options
        )
    )


def message(server: Any, cache: LLMCache) -> Any:
    client = anthropic.Anthropic(api_key="k", base_url=server.url, max_retries=0)
    return cache_client(client, cache).messages.create(
        model="claude-sonnet-4-5", max_tokens=100, messages=MESSAGES
    )


def methods_of_sdks() -> Iterator[tuple[tuple[type, str], Any]]:
    """The methods of the SDKs' resources, which instrumentors replace."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("openai.", "anthropic.")):
            for cls in [found for found in vars(module).values() if isinstance(found, type)]:
                if cls.__module__ == name:
                    yield from (((cls, key), value) for key, value in list(vars(cls).items()))


@contextmanager
def instrumented(*kinds: Any) -> Iterator[InMemorySpanExporter]:
    """Instrumentors that are active in this block, and the spans that they end."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    made, methods = [kind() for kind in kinds], dict(methods_of_sdks())
    for instrumentor in made:
        instrumentor.instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        yield exporter
    finally:
        for instrumentor in made:
            instrumentor.uninstrument()
        for (cls, name), method in methods.items():  # OpenLLMetry leaves some of its own
            if vars(cls)[name] is not method:
                setattr(cls, name, method)


def tokens(exporter: InMemorySpanExporter) -> list[int]:
    """The tokens that each span of a model call reports, in the order of the calls."""
    found = []
    for span in exporter.get_finished_spans():
        counts = [
            value
            for name, value in (span.attributes or {}).items()
            if ("token" in name or "usage" in name) and isinstance(value, int) and "max" not in name
        ]
        if counts:
            found.append(max(counts))
    return found


def openinference(name: str) -> Any:
    module = pytest.importorskip(f"openinference.instrumentation.{name}")
    names = {"openai": "OpenAI", "anthropic": "Anthropic"}
    return getattr(module, f"{names[name]}Instrumentor")


def openllmetry(name: str) -> Any:
    module = pytest.importorskip(f"opentelemetry.instrumentation.{name}")
    names = {"openai": "OpenAI", "anthropic": "Anthropic"}
    return getattr(module, f"{names[name]}Instrumentor")


FAMILIES = {"openinference": openinference, "openllmetry": openllmetry}


def test_hits_keep_usage_without_an_instrumentor(provider):
    client = openai_client(provider, LLMCache())
    assert not sums_usage()
    chat(client)
    raw = client.chat.completions.with_raw_response.create(model="gpt-4.1-mini", messages=MESSAGES)
    assert raw.parse().usage.total_tokens == 1200
    assert raw.headers[SAVED_TOKENS] == "input=1000, output=200"


@pytest.mark.parametrize("usage", ["zero", "keep"])
def test_usage_of_hits_is_configurable(provider, usage):
    client = openai_client(provider, LLMCache(), usage=usage)
    first, hit = chat(client), chat(client)
    assert first.usage.total_tokens == 1200
    assert hit.usage.total_tokens == (0 if usage == "zero" else 1200)
    assert hit.choices == first.choices
    live, replayed = streamed(client), streamed(client)
    assert replayed[:-1] == live[:-1]
    assert replayed[-1].usage.total_tokens == hit.usage.total_tokens


def test_another_word_for_usage_is_refused(provider):
    with pytest.raises(ValueError, match="usage must be"):
        openai_client(provider, LLMCache(), usage="none")


@pytest.mark.parametrize("family", FAMILIES)
def test_instrumentors_of_openai_report_no_tokens_on_hits(provider, family):
    client = openai_client(provider, LLMCache())
    with instrumented(FAMILIES[family]("openai")) as exporter:
        for _ in range(2):
            chat(client)
        for _ in range(2):
            streamed(client)
    assert tokens(exporter) == [1200, 0, 1200, 0]


def test_an_instrumentor_is_an_onlooker_until_it_has_gone():
    with instrumented(openinference("anthropic")):
        assert sums_usage()
    assert not sums_usage()


@pytest.mark.parametrize("family", FAMILIES)
def test_instrumentors_of_anthropic_report_no_tokens_on_hits(provider, family):
    cache = LLMCache()
    with instrumented(FAMILIES[family]("anthropic")) as exporter:
        for _ in range(2):
            message(provider, cache)
    first, hit = tokens(exporter)
    assert (first > 0, hit) == (True, 0)


def test_a_span_with_attributes_of_a_model_is_an_onlooker():
    tracer = TracerProvider().get_tracer("logfire.openai")
    with tracer.start_as_current_span("chat", attributes={"gen_ai.request.model": "m"}):
        assert sums_usage()
    with tracer.start_as_current_span("GET /"):
        assert not sums_usage()


def test_a_call_below_which_logfire_suppresses_instrumentors_is_watched(monkeypatch):
    token = context.attach(context.set_value("suppress_instrumentation", True))
    monkeypatch.delitem(sys.modules, "logfire", raising=False)
    try:
        assert not sums_usage()
        monkeypatch.setitem(sys.modules, "logfire", ModuleType("logfire"))
        assert sums_usage()
    finally:
        context.detach(token)
    assert not sums_usage()


def test_a_call_that_langsmith_traces_reports_no_tokens_on_a_hit(provider, monkeypatch):
    from langsmith import Client
    from langsmith.run_helpers import tracing_context
    from langsmith.wrappers import wrap_openai

    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    runs: list[Any] = []
    quiet = Client(api_url="http://127.0.0.1:9", api_key="k", auto_batch_tracing=False)
    monkeypatch.setattr(Client, "create_run", lambda self, *args, **kwargs: None)
    monkeypatch.setattr(Client, "update_run", lambda self, *args, **kwargs: runs.append(kwargs))
    client = wrap_openai(openai_client(provider, LLMCache()))
    with tracing_context(enabled=True, client=quiet):
        for _ in range(2):
            chat(client)
    used = [run["outputs"]["usage_metadata"]["total_tokens"] for run in runs]
    assert used == [1200, 0]
    assert [run["extra"]["metadata"].get("llm_cache_mem") for run in runs] == [None, "hit"]


def test_logfire_reports_no_tokens_on_hits(provider):
    """Where Logfire itself is installed: its plugins are not for the tests of all else."""
    logfire = pytest.importorskip("logfire")
    exporter = InMemorySpanExporter()
    logfire.configure(
        send_to_logfire=False,
        console=False,
        additional_span_processors=[SimpleSpanProcessor(exporter)],
    )
    client = openai_client(provider, LLMCache())
    with logfire.instrument_openai(client):
        for _ in range(2):
            chat(client)
        for _ in range(2):
            streamed(client)
    assert tokens(exporter) == [1000, 0, 1000, 0]
