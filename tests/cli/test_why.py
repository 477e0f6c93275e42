"""``llm-cache-mem why``: a request against what is stored, from a file of recordings or a
database."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import fails, run

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


def test_it_names_the_differing_field(store: str) -> None:
    text = why(store, asked=REQUEST | {"temperature": 0.2, "timeout": 3})
    assert text.splitlines()[1:] == ["  temperature: 0 → 0.2"]
    assert text.startswith("nearest of 2 stored requests: 1::value:")
    assert "CANARY" not in text


def test_or_reports_that_no_field_differs(store: str) -> None:
    assert why(store, asked=REQUEST).startswith("it is stored: 1::value:")


def test_a_body_that_an_sdk_sent_is_told_from_one_that_differs(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    with LLMCache(backend=path, keep_requests=True) as cache:
        cache.put(MESSAGES, "x", **{"model": "m", "http.base_url": "https://a", "http.path": "/b"})
    body = {"messages": MESSAGES, "model": "m"}
    said = why(path, asked=body)
    assert 'a request with this body is stored, under http.base_url="https://a"' in said
    assert 'http.path="/b": 1::value:' in said
    found = json.loads(why(path, "--json", asked=body))
    assert [one["path"] for one in found["differences"]] == ["http.base_url", "http.path"]
    assert "http.base_url" in run("show", path, "0" * 64, status=1).stderr


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
    asked = REQUEST | {
        "messages": [{"role": "user", "content": f"Who wrote {secret}?"}],
        "extra_headers": {"Authorization": "CANARY"},
    }
    for text in (why(store, asked=asked), why(store, "--json", asked=asked)):
        assert secret not in text
        assert "CANARY" not in text


def test_a_recorded_http_exchange_is_compared_by_its_body(tmp_path: Path) -> None:
    cache = LLMCache(backend=tmp_path / "llm.jsonl")
    params = {"model": "m", "http.base_url": "https://x.test", "http.path": "/v1/chat/completions"}
    cache.engine.writer.put(
        cache.engine.keyer.request(MESSAGES, params, kind="http"),
        {"status": 200, "headers": [], "text": "{}"},
    )
    text = why(str(tmp_path / "llm.jsonl"), asked={"messages": MESSAGES, "model": "n"})
    assert text.splitlines()[1:] == ['  model: "m" → "n"']


def test_a_store_without_requests_is_reported(tmp_path: Path) -> None:
    with LLMCache(backend=tmp_path / "cache.db") as cache:
        cache.put(MESSAGES, "answer")
    assert "keep_requests=True" in why(str(tmp_path / "cache.db"), asked=REQUEST)


def test_only_the_namespace_that_is_named_is_looked_at(tmp_path: Path) -> None:
    path = str(tmp_path / "llm.jsonl")
    LLMCache(backend=path, namespace="acme").put([{"role": "user", "content": "CANARY"}], "answer")
    assert why(path, asked=REQUEST) == "nothing is stored in this namespace yet\n"
    assert "CANARY" in why(path, "--namespace", "acme", asked=REQUEST)


@pytest.mark.parametrize("arguments", [["-"], ["--all"]], ids=str)
def test_a_kind_of_which_there_are_no_entries_is_named(store: str, arguments: list[str]) -> None:
    said = fails("why", store, *arguments, "--kind", "stream", stdin=json.dumps(REQUEST))
    assert "there are no entries of kind 'stream' in the default namespace" in said


@pytest.mark.parametrize("asked", ["[]", '{"model": "m"}', "{", '{"messages": NaN}'])
def test_a_non_request_is_rejected(store: str, asked: str) -> None:
    assert run("why", store, stdin=asked, status=1).stderr.startswith("error: stdin: ")


def test_a_request_named_where_the_store_should_be_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(REQUEST))
    assert (
        run("why", str(file), stdin="", status=1).stderr
        == "error: stdin is empty: the request is read from there\n"
    )


def test_broken_recordings_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "llm.jsonl"
    path.write_text("oops\n")
    assert "line 1: not JSON" in run("why", str(path), stdin=json.dumps(REQUEST), status=1).stderr


# -- A whole run


@pytest.fixture(params=["llm.jsonl", "cache.db"])
def run_of_a_day(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Three questions, each asked three times, with the time in the system prompt and an id in the
    metadata."""
    path = tmp_path / request.param
    with LLMCache(backend=path, keep_requests=True) as cache:
        for n in range(9):
            system = {"role": "system", "content": f"CANARY. It is 2026-11-23 10:{n:02d}."}
            cache.put(
                [system, {"role": "user", "content": f"q{n % 3}"}],
                "yes",
                model="m",
                metadata={"request_id": f"CANARY{n // 3}"},
            )
    return str(path)


def test_it_proposes_the_key_function_that_recovers_hits(
    run_of_a_day: str,
) -> None:
    text = run("why", "--all", run_of_a_day).stdout
    assert text.startswith("9 requests, 0 (0.0%) equal to an earlier one")
    assert "6 (66.7%) hits without metadata and a date and time" in text
    assert 'key_fn=ignoring("metadata", then=masking(r"' in text
    assert "CANARY" not in text


def test_the_same_for_machines_by_kind(run_of_a_day: str) -> None:
    (found,) = json.loads(run("why", "--all", "--json", run_of_a_day).stdout)
    assert (found["kind"], found["requests"], found["hits"], found["remedies"][-1]["hits"]) == (
        "value",
        9,
        0,
        6,
    )


@pytest.mark.parametrize("packed", [False, True])
def test_requests_may_come_as_lines_from_anywhere(tmp_path: Path, packed: bool) -> None:
    file = tmp_path / "requests.jsonl"
    lines = "".join(
        json.dumps({"id": n, "body": REQUEST | {"user": f"u{n}"}}) + "\n\n" for n in range(4)
    ).encode()
    file.write_bytes(gzip.compress(lines) if packed else lines)
    assert 'key_fn=ignoring("user")' in run("why", "--all", str(file), "--at", "body").stdout
    assert "key_fn" not in run("why", "--all", str(file), "--at", "body", "--keep", "user").stdout
    assert "hits without body and id" in run("why", "--all", str(file)).stdout


def test_the_real_trace_of_a_service_is_explained(shared_data: Path) -> None:
    trace = shared_data / "traces" / "ragpulse" / "0_trace.jsonl.gz"
    text = run("why", "--all", str(trace), "--at", "hash_ids", "--keep", "user_input").stdout
    assert text.startswith("7,106 requests, 1 (0.0%)")
    assert "222 (3.1%) hits without sys_prompt\n" in text


@pytest.mark.parametrize(
    ("arguments", "lines", "status", "says"),
    [
        (["--at", "body"], '{"body": 1}', 1, "line 1: the request is no JSON object"),
        (["--at", "body"], '\n{"b": 1}', 1, "line 2: it has no 'body'"),
        ([], "{", 1, "line 1: not JSON"),
        (["x.json"], "{}", 2, "--all takes a store or a file"),
    ],
)
def test_a_malformed_run_is_rejected_with_its_line(
    tmp_path: Path, arguments: list[str], lines: str, status: int, says: str
) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text(lines)
    assert says in run("why", "--all", str(file), *arguments, status=status).stderr


def test_a_store_without_requests_says_how_to_enable_them(tmp_path: Path) -> None:
    with LLMCache(backend=tmp_path / "cache.db") as cache:
        cache.put("q", "a", model="m")
    assert (
        "LLMCache(keep_requests=True)"
        in run("why", "--all", str(tmp_path / "cache.db"), status=1).stderr
    )


def test_a_run_of_another_namespace_is_found_by_its_name(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    with LLMCache(backend=path, namespace="acme", keep_requests=True) as cache:
        cache.put("q", "a", model="m")
    assert "--namespace names another" in run("why", "--all", path, status=1).stderr
    assert run("why", "--all", path, "--namespace", "acme").stdout.startswith("1 request, 0 ")
