"""Importing from other tools: files that they really wrote become entries that hit."""

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import vcr
from anthropic import Anthropic
from cli_helpers import ROOT, fails, read, run
from migration.writing import traced
from openai import OpenAI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llm_cache_mem import LLMCache
from llm_cache_mem.http import CacheTransport, cache_client
from llm_cache_mem.migration import SOURCES, Skipped, cassettes
from llm_cache_mem.testing.model_server.stand_in import StandInServer

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def provider() -> Iterator[StandInServer]:
    with StandInServer(delay=0.0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "gpt-5-mini", "messages": QUESTION} | changes


def unreachable(request: httpx.Request) -> httpx.Response:
    raise AssertionError("a call was made")


def hits(store: Path, url: str, *bodies: dict[str, Any]) -> int:
    """How many of these requests the store answers."""
    with LLMCache(backend=store, ttl_seconds=None, mode="on") as cache:
        transport = CacheTransport(cache, httpx.MockTransport(unreachable))
        with httpx.Client(transport=transport) as client:
            for one in bodies:
                assert client.post(url, json=one).headers["x-llm-cache-mem"] == "hit"
        return cache.stats().hits


@pytest.mark.parametrize("serializer", ["yaml", "json"])
def test_a_cassette_of_vcrpy_hits_afterwards(
    tmp_path: Path, provider: StandInServer, serializer: str
) -> None:
    url, cassette = f"{provider.url}/v1/chat/completions", tmp_path / f"tape.{serializer}"
    asked = [body(), body(stream=True), body(temperature=0.5)]
    with vcr.use_cassette(str(cassette), serializer=serializer):
        for one in asked:
            assert requests.post(url, json=one, timeout=10).ok
        requests.post(f"{provider.url}/login", json={"user": "me"}, timeout=10)
    store = tmp_path / "cache.db"
    dry = read("import", "--from", "vcr", str(cassette), "--dry-run")
    moved = read("import", "--from", "vcr", str(cassette), str(store))
    assert dry == moved
    assert moved == {
        "imported": 3,
        "present": 0,
        "skipped": {"not a request for a model": 1},
    }
    assert hits(store, url, *asked) == 3
    assert read("import", "--from", "vcr", str(cassette), str(store))["present"] == 3


def test_a_folder_of_compressed_cassettes_is_read(tmp_path: Path, provider: StandInServer) -> None:
    url, folder = f"{provider.url}/v1/chat/completions", tmp_path / "tapes"
    with vcr.use_cassette(str(folder / "a.yaml")):
        requests.post(url, json=body(), timeout=10)
    packed = folder / "deep" / "b.yaml.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress((folder / "a.yaml").read_bytes()))
    (folder / "a.yaml").write_text("neither: a cassette")
    moved = read("import", "--from", "vcr", str(folder), str(tmp_path / "cache.db"))
    assert moved["imported"] == 1
    assert moved["skipped"] == {"a file that is not a cassette": 1}
    assert hits(tmp_path / "cache.db", url, body()) == 1


def test_a_compressed_body_is_stored_decoded(tmp_path: Path) -> None:
    answer = {
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "é"}, "finish_reason": "stop"}
        ],
    }
    cassette = {
        "version": 1,
        "interactions": [
            {
                "request": {
                    "method": "POST",
                    "uri": "https://api.openai.com/v1/chat/completions",
                    "headers": {"Content-Type": ["application/json"]},
                    "body": json.dumps(body()),
                },
                "response": {
                    "status": {"code": 200, "message": "OK"},
                    "headers": {
                        "Content-Type": ["application/json"],
                        "Content-Encoding": ["gzip"],
                    },
                    "body": {"string": gzip.compress(json.dumps(answer).encode())},
                },
            }
        ],
    }
    import yaml

    file = tmp_path / "tape.yaml"
    file.write_text(yaml.safe_dump(cassette))
    (found,) = cassettes.records(str(file))
    cache = LLMCache()
    found.ask(cache, dict)  # type: ignore[union-attr]  # it is no Skipped
    assert cache.stats().stored == 1


@pytest.mark.parametrize("installed", [True, False])
def test_a_body_in_brotli_needs_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.setattr(cassettes, "find_spec", lambda name: installed or None)
    request = {
        "method": "POST",
        "uri": "https://api.openai.com/v1/chat/completions",
        "headers": {"Content-Type": ["application/json"]},
        "body": json.dumps(body()),
    }
    response = {
        "status": {"code": 200, "message": "OK"},
        "headers": {"Content-Type": ["application/json"], "Content-Encoding": ["br"]},
        "body": {"base64_string": "CwKAe30D"},
    }
    file = tmp_path / "tape.json"
    file.write_text(json.dumps({"interactions": [{"request": request, "response": response}]}))
    (found,) = cassettes.records(str(file))
    assert isinstance(found, Skipped) is not installed
    if not installed:
        assert str(found) == "a compressed body that needs brotli: pip install brotli"


def test_a_cassette_runs_no_code(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    file = tmp_path / "tape.yaml"
    file.write_text(f"interactions: !!python/object/apply:pathlib.Path.touch [{mark}]")
    said = run("import", "--from", "vcr", str(file), "--dry-run", status=1).output
    assert "a file that is not YAML or JSON" in said
    assert not mark.exists()


def test_generations_of_langfuse_hit_afterwards(tmp_path: Path) -> None:
    lines = [
        {
            "type": "GENERATION",
            "model": "gpt-5-mini",
            "input": QUESTION,
            "output": {"role": "assistant", "content": "Paris."},
            "modelParameters": {"temperature": 0},
            "usageDetails": {"input": 14, "output": 2},
        },
        {"type": "SPAN", "name": "retrieve"},
        {"type": "GENERATION", "model": None, "input": QUESTION, "output": "?"},
        {"type": "GENERATION", "model": "m", "input": QUESTION, "output": "x", "level": "ERROR"},
    ]
    file = tmp_path / "export.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\nnot json\n")
    store = tmp_path / "cache.db"
    moved = read("import", "--from", "langfuse", str(file), str(store))
    assert moved["imported"] == 1
    assert sum(moved["skipped"].values()) == 4
    with LLMCache(backend=store, ttl_seconds=None) as cache:
        hit = cache.get_or_call(QUESTION, unreachable, model="gpt-5-mini", temperature=0)
        assert hit["choices"][0]["message"]["content"] == "Paris."
        assert cache.stats().tokens_saved == 16


def test_what_langfuses_wrapper_of_openai_records_hits_afterwards(
    tmp_path: Path, provider: StandInServer
) -> None:
    pytest.importorskip("langfuse")
    # in a process of its own: the wrapper patches openai
    command = [sys.executable, "tests/migration/writing.py", "langfuse", str(tmp_path)]
    done = subprocess.run([*command, provider.url], cwd=ROOT, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    file, store = str(tmp_path / "export.jsonl"), tmp_path / "cache.db"
    moved = read("import", "--from", "langfuse", file, str(store), "--sdk", "openai")
    assert moved == {"imported": 4, "present": 0, "skipped": {"truncated": 1}}
    with LLMCache(backend=store, ttl_seconds=None) as cache:
        for request in traced():
            request.pop("stream", None)
            hit = cache.get_or_call(request.pop("messages"), unreachable, **request)
            assert hit.choices[0].message.content


def test_spans_of_opentelemetry_hit_afterwards(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    parts = [{"type": "text", "content": "What is the capital of France?"}]
    said = [{"type": "text", "content": "Paris."}]
    answer = {"role": "assistant", "parts": said, "finish_reason": "stop"}
    with provider.get_tracer("t").start_as_current_span(
        "chat",
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "gpt-5-mini",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.input.messages": json.dumps([{"role": "user", "parts": parts}]),
            "gen_ai.output.messages": json.dumps([answer]),
            "gen_ai.usage.input_tokens": 14,
            "gen_ai.usage.output_tokens": 2,
        },
    ):
        pass
    (span,) = exporter.get_finished_spans()
    file = tmp_path / "spans.jsonl"
    file.write_text(span.to_json(indent=None) + "\n")
    store = tmp_path / "cache.db"
    assert read("import", "--from", "otel", str(file), str(store))["imported"] == 1
    with LLMCache(backend=store, ttl_seconds=None) as cache:
        hit = cache.get_or_call(QUESTION, unreachable, model="gpt-5-mini", temperature=0.5)
        assert hit["choices"][0]["message"]["content"] == "Paris."


def span(**changes: Any) -> dict[str, Any]:
    said = {"role": "user", "parts": [{"type": "text", "content": "hi"}]}
    answer = {"role": "assistant", "parts": said["parts"], "finish_reason": "stop"}
    return {
        "gen_ai.request.model": "m",
        "gen_ai.input.messages": [said],
        "gen_ai.output.messages": [answer],
    } | changes


IMAGE = {"role": "user", "parts": [{"type": "blob", "content": "AAAA"}]}
FILTERED = {"role": "assistant", "parts": [], "finish_reason": "error"}


@pytest.mark.parametrize(
    "changes",
    [
        {"gen_ai.input.messages": [IMAGE]},
        {"gen_ai.request.top_k": 5},
        {"gen_ai.output.type": "json"},
        {"gen_ai.output.messages": [FILTERED]},
        {"gen_ai.system_instructions": "be brief"},
        {"gen_ai.usage.input_tokens": "SECRET12"},
    ],
)
def test_spans_with_parts_that_are_unknown_are_skipped(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    lines = [{"attributes": span(**changes)}, "no object", {"attributes": [{}]}]
    file = tmp_path / "spans.jsonl"
    file.write_text(
        "".join(json.dumps(line) + "\n" for line in [*lines, {"attributes": span()}]) + "[" * 9999
    )
    with file.open("ab") as more:
        more.write(b'\n{"\xff": 1}\n')
    result = run("import", "--from", "otel", str(file), "--dry-run")
    assert "would import 1 entry" in result.stdout
    assert "SECRET" not in result.output


def test_wrong_input_is_named(tmp_path: Path) -> None:
    assert "langfuse, otel" in fails("import", "--from", "zip", "x", "y.db", status=2)
    assert "SOURCE" in fails("import", "--from", "vcr", status=2)
    for kind in SOURCES:
        said = fails("import", "--from", kind, "nowhere", "--dry-run")
        assert "nowhere" in said
        assert ("No such file" in said) or ("not a folder of diskcache" in said)
    for rest in ("{", "[]", '{"model": 1}', '{"model": "m", "messages": "x"}'):
        said = fails("import", "--from", "gptcache", "x", "y", "--request", rest, status=2)
        assert said
    assert "only for" in fails("import", "--from", "vcr", "x", "y", "--request", "{}", status=2)


def test_a_source_without_records_is_told(tmp_path: Path) -> None:
    result = run("import", "--from", "vcr", str(tmp_path), "--dry-run", status=1)
    assert "no records were found" in result.stderr


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("langchain", "file"),
        ("langchain", "nodialect://me:SECRET12@host/db"),
        ("langchain", "sqlite:////nowhere/SECRET12/db"),
        ("diskcache", "cache.db"),
        ("litellm", "cache.db"),
    ],
)
def test_sources_that_cannot_be_read_are_named_without_their_content(
    tmp_path: Path, kind: str, source: str
) -> None:
    if "://" not in source:
        (tmp_path / source).write_text("SECRET12" * 999)
        source = str(tmp_path / source)
    result = run("import", "--from", kind, source, "--dry-run", status=1)
    assert ("read failed" in result.output) or ("without a table" in result.output)
    assert "SECRET" not in result.output


def test_entries_live_as_long_as_told(tmp_path: Path, provider: StandInServer) -> None:
    cassette, store = tmp_path / "tape.yaml", str(tmp_path / "cache.db")
    with vcr.use_cassette(str(cassette)):
        requests.post(f"{provider.url}/v1/chat/completions", json=body(), timeout=10)
    run("import", "--from", "vcr", str(cassette), store, "--ttl", "1h", "--namespace", "old")
    (row,) = read("list", store)["entries"]
    assert row["namespace"] == "old"
    assert row["expires_at"] - row["stored_at"] == 3600


def record_some(store: Path, provider: StandInServer) -> None:
    """Record two requests of OpenAI's SDK, a stream among them, and one of Anthropic's."""
    with LLMCache(backend=store, ttl_seconds=None, keep_requests=True) as cache:
        with OpenAI(base_url=f"{provider.url}/v1", api_key="none") as plain:
            client = cache_client(plain, cache)
            client.chat.completions.create(model="m", messages=QUESTION)
            list(client.chat.completions.create(model="m", messages=QUESTION, stream=True))
        with Anthropic(base_url=provider.url, api_key="none") as other:
            message = {"role": "user", "content": "Name a tea."}
            cache_client(other, cache).messages.create(
                model="c", max_tokens=90, system="Be brief.", messages=[message]
            )
        cache.put(QUESTION, "not of HTTP", model="m")


def test_an_exported_cassette_is_replayed_by_vcrpy(tmp_path: Path, provider: StandInServer) -> None:
    store, cassette = tmp_path / "cache.db", tmp_path / "tape.yaml"
    record_some(store, provider)
    result = run("export", str(store), str(cassette), "--to", "vcr")
    assert "exported 3 entries" in result.stderr
    assert "skipped 1: not a response of HTTP" in result.stderr
    assert cassette.stat().st_mode & 0o777 == 0o600
    before = provider.calls
    matching = ["method", "uri", "body"]
    with (
        vcr.use_cassette(str(cassette), record_mode="none", match_on=matching) as tape,
        OpenAI(base_url=f"{provider.url}/v1", api_key="none") as client,
        Anthropic(base_url=provider.url, api_key="none") as other,
    ):
        message = {"role": "user", "content": "Name a tea."}
        said = other.messages.create(
            model="c", max_tokens=90, system="Be brief.", messages=[message]
        )
        chunks = list(client.chat.completions.create(model="m", messages=QUESTION, stream=True))
        answer = client.chat.completions.create(model="m", messages=QUESTION)
        assert tape.all_played
    assert provider.calls == before
    text = answer.choices[0].message.content
    assert text == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said.content
    again, recorded = tmp_path / "again.db", tmp_path / "again.jsonl"
    for target in (again, recorded):
        assert read("import", "--from", "vcr", str(cassette), str(target))["imported"] == 3
    with LLMCache(backend=again) as cache, LLMCache(backend=store) as old:
        assert {key for key, _ in cache.engine.backend.inner.entries("")} <= {
            key for key, _ in old.engine.backend.inner.entries("")
        }


def test_a_cassette_of_entries_without_requests_is_none(
    tmp_path: Path, provider: StandInServer
) -> None:
    store = tmp_path / "cache.db"
    with LLMCache(backend=store) as cache, OpenAI(base_url=f"{provider.url}/v1", api_key="n") as c:
        cache_client(c, cache).chat.completions.create(model="m", messages=QUESTION)
    result = run("export", str(store), str(tmp_path / "t.yaml"), "--to", "vcr", status=1)
    assert "skipped 1: no stored request" in result.stderr
    assert not (tmp_path / "t.yaml").exists()
    with (
        LLMCache(backend=store, keep_requests=True) as cache,
        OpenAI(base_url=f"{provider.url}/v1", api_key="n") as c,
    ):
        secret = [{"role": "user", "content": "sk-abcdefghijklmnopqrstuvwxyz123456"}]
        cache_client(c, cache).chat.completions.create(model="m", messages=secret)
    result = run("export", str(store), str(tmp_path / "u.yaml"), "--to", "vcr", status=1)
    assert "not stored as it was sent" in result.stderr
