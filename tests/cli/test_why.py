"""``llm-cache-mem why``: a request against what is stored, from a file of recordings or a database."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import run

from llm_cache_mem import LLMCache

MESSAGES = [{"role": "user", "content": "Who wrote the Air on the G String?"}]
REQUEST: dict[str, Any] = {"messages": MESSAGES, "model": "m", "temperature": 0}


@pytest.fixture(params=["llm.jsonl", "cache.db"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / request.param
    with LLMCache(backend=path, keep_requests=True) as cache:
        cache.put(MESSAGES, "CANARY", model="m", temperature=0)
        cache.put("another", "CANARY", model="m")
    return str(path)


def why(*arguments: str, asked: Any) -> str:
    return str(run("why", *arguments, stdin=json.dumps(asked)).stdout)


def test_it_names_what_differs(store: str) -> None:
    text = why(store, asked=REQUEST | {"temperature": 0.2, "timeout": 3})
    assert text.splitlines()[1:] == ["  temperature: 0 → 0.2"]
    assert text.startswith("nearest of 2 stored requests: 1::value:")
    assert "CANARY" not in text


def test_or_that_nothing_does(store: str) -> None:
    assert why(store, asked=REQUEST).startswith("it is stored: 1::value:")


def test_for_machines(store: str) -> None:
    found = json.loads(why(store, "--json", asked=REQUEST | {"model": "n"}))
    assert found["differences"] == [{"path": "model", "stored": "m", "asked": "n"}]
    assert (found["stored"], found["compared"], found["state"]) == (2, 2, "absent")


def test_the_request_may_be_in_a_file_and_the_store_in_a_url(store: str, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(REQUEST | {"model": "n"}))
    scheme = "jsonl" if store.endswith("jsonl") else "sqlite"
    assert 'model: "m" → "n"' in run("why", f"{scheme}:///{store}", str(file)).stdout


def test_it_changes_nothing(store: str) -> None:
    before = Path(store).read_bytes()
    why(store, asked=REQUEST | {"model": "n"})
    assert Path(store).read_bytes() == before


def test_secrets_are_not_shown(store: str) -> None:
    secret = "sk-proj-Zq81kPjV3mXw7TbN2cYe"
    asked = REQUEST | {"messages": [{"role": "user", "content": f"Who wrote {secret}?"}], "extra_headers": {"Authorization": "CANARY"}}
    for text in (why(store, asked=asked), why(store, "--json", asked=asked)):
        assert secret not in text
        assert "CANARY" not in text


def test_a_recorded_http_exchange_is_compared_by_its_body(tmp_path: Path) -> None:
    cache = LLMCache(backend=tmp_path / "llm.jsonl")
    params = {"model": "m", "http.base_url": "https://x.test", "http.path": "/v1/chat/completions"}
    cache.store(cache.request(MESSAGES, params, kind="http"), {"status": 200, "headers": [], "text": "{}"})
    text = why(str(tmp_path / "llm.jsonl"), asked={"messages": MESSAGES, "model": "n"})
    assert text.splitlines()[1:] == ['  model: "m" → "n"']


def test_of_a_store_that_keeps_no_requests_it_says_so(tmp_path: Path) -> None:
    with LLMCache(backend=tmp_path / "cache.db") as cache:
        cache.put(MESSAGES, "answer")
    assert "keep_requests=True" in why(str(tmp_path / "cache.db"), asked=REQUEST)


def test_only_the_namespace_that_is_named_is_looked_at(tmp_path: Path) -> None:
    path = str(tmp_path / "llm.jsonl")
    LLMCache(backend=path, namespace="acme").put([{"role": "user", "content": "CANARY"}], "answer")
    assert why(path, asked=REQUEST) == "nothing is stored in this namespace yet\n"
    assert "CANARY" in why(path, "--namespace", "acme", asked=REQUEST)


@pytest.mark.parametrize("asked", ["[]", '{"model": "m"}', "{", '{"messages": NaN}'])
def test_what_is_no_request_is_refused(store: str, asked: str) -> None:
    assert run("why", store, stdin=asked, status=1).stderr.startswith("error: ")


def test_broken_recordings_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "llm.jsonl"
    path.write_text("oops\n")
    assert "line 1: not JSON" in run("why", str(path), stdin=json.dumps(REQUEST), status=1).stderr
