"""The live page: what it shows, and whom it refuses."""

import json
from typing import Any

import httpx
import pytest
from gateway_client import ANSWER, ASK, CHAT, REPLY, post

from llm_cache_mem import LLMCache
from llm_cache_mem.gateway.feed import Feed

OWN = {"x-llm-cache-page": "1"}


def api(gateway: Any, name: str, **fields: str) -> Any:
    response = httpx.get(f"{gateway.url}/_cache/api/{name}", params=fields, headers=OWN)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture
def gateway(start: Any) -> Any:
    feed = Feed()
    running = start(LLMCache(prices={}, keep_requests=True, on_event=feed.event), feed=feed)
    running.upstream.gives(REPLY)
    return running


def test_the_page_and_its_files_are_served_with_a_strict_policy(gateway: Any) -> None:
    for path, kind in [("", "text/html"), ("page.js", "text/javascript"), ("page.css", "text/css")]:
        response = httpx.get(f"{gateway.url}/_cache/{path}")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(kind)
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
    page = httpx.get(f"{gateway.url}/_cache/").text
    assert "http:" not in page
    assert "https:" not in page
    assert " style=" not in page
    assert " onclick" not in page


def test_sums_and_calls_are_those_of_the_clients(gateway: Any) -> None:
    for _ in range(3):
        post(gateway.url + CHAT)
    sums = api(gateway, "summary")
    assert (sums["asked"], sums["avoided"], sums["entries"]) == (3, 2, 1)
    assert [model["model"] for model in sums["models"]] == ["m"]
    assert sum(minute["asked"] for minute in sums["minutes"]) == 3
    assert sum(minute["avoided"] for minute in sums["minutes"]) == 2
    with httpx.stream("GET", f"{gateway.url}/_cache/api/feed", headers=OWN) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        calls = [json.loads(next(lines)[6:]) for _ in range(3)]
        assert [call["outcome"] for call in calls] == ["miss", "hit", "hit"]
        assert {(call["model"], call["tokens"], call["upstream"]) for call in calls} == {
            ("m", 2, "openai")
        }
        assert [type(call["age"]) for call in calls] == [type(None), int, int]
        post(gateway.url + CHAT)
        assert json.loads(next(lines)[6:])["outcome"] == "hit"


def test_sums_have_the_totals_of_all_processes_where_the_store_keeps_them(
    start: Any, gateway: Any, tmp_path: Any
) -> None:
    assert api(gateway, "summary")["totals"] is None
    with LLMCache(backend=f"sqlite:///{tmp_path}/answers.db") as other:
        for _ in range(3):
            other.get_or_call("hi", lambda **_: "yes", model="m")
    running = start(LLMCache(backend=f"sqlite:///{tmp_path}/answers.db"))
    totals = api(running, "summary")["totals"]
    assert (totals["misses"], totals["avoided"], list(totals["by_model"])) == (1, 2, ["m"])


def test_a_skipped_call_shows_its_reason(gateway: Any) -> None:
    stateful = {"model": "m", "input": "hello", "previous_response_id": "resp_1"}
    response = post(f"{gateway.url}/openai/v1/responses", stateful)
    assert response.headers["x-llm-cache-mem"] == "skipped:stateful"
    assert api(gateway, "summary")["skipped"] == {"stateful": 1}


def test_entries_are_found_shown_and_deleted(gateway: Any) -> None:
    for text, who in [("apples", "a"), ("pears", "a"), ("plums", "b")]:
        body = {**ASK, "messages": [{"role": "user", "content": text}]}
        post(gateway.url + CHAT, body, token=who)
    listed = api(gateway, "entries")
    assert listed["matching"] == 3
    assert len(listed["namespaces"]) == 2
    assert listed["rows"] == sorted(listed["rows"], key=lambda row: -row["stored_at"])
    (pears,) = api(gateway, "entries", search="PEARS")["rows"]
    assert api(gateway, "entries", search="PEARS", model="other")["rows"] == []
    entry = api(gateway, "entry", key=pears["key"])
    assert json.loads(entry["answer"]) == ANSWER
    assert "pears" in entry["request"]
    deleted = httpx.post(
        f"{gateway.url}/_cache/api/delete", json={"key": pears["key"]}, headers=OWN
    )
    assert deleted.json() == {"deleted": True}
    gone = httpx.get(f"{gateway.url}/_cache/api/entry", params={"key": pears["key"]}, headers=OWN)
    assert gone.status_code == 404
    namespace = pears["namespace"]
    httpx.post(f"{gateway.url}/_cache/api/clear", json={"namespace": namespace}, headers=OWN)
    assert {row["namespace"] for row in api(gateway, "entries")["rows"]} == {
        name for name, _ in listed["namespaces"]
    } - {namespace}


def test_a_search_ends_in_time_and_says_how_far_it_came(gateway: Any, monkeypatch: Any) -> None:
    for who in "aab":
        post(gateway.url + CHAT, {**ASK, "seed": ord(who)}, token=who)
    every = api(gateway, "entries")
    assert (every["searched"], every["is_partial"]) == (2, False)
    row = every["rows"][0]
    assert row["prompt"] == "hello"
    narrow = api(gateway, "entries", namespace=row["namespace"], kind="http")
    assert (narrow["searched"], narrow["rows"]) == (1, [row])
    assert api(gateway, "entries", search=row["key"])["searched"] == 1
    monkeypatch.setattr("llm_cache_mem.gateway.inspection.SECONDS", -1)
    cut = api(gateway, "entries")
    assert (cut["searched"], cut["matching"], cut["is_partial"]) == (1, 1, True)


def test_what_depends_on_a_document_is_invalidated(gateway: Any) -> None:
    for _ in range(2):
        response = post(gateway.url + CHAT, X_LLM_Cache_Depends_On="doc:a, doc:b")
    assert response.headers["x-llm-cache-mem"] == "hit"
    assert api(gateway, "entries")["rows"][0]["depends_on"] == ["doc:a", "doc:b"]
    url = f"{gateway.url}/_cache/api/invalidate"
    assert httpx.post(url, json={"name": "doc:b"}, headers=OWN).json() == {"invalidated": True}
    again = post(gateway.url + CHAT, X_LLM_Cache_Depends_On="doc:a, doc:b")
    assert again.headers["x-llm-cache-mem"] == "miss"


def test_a_miss_is_explained_from_stored_requests(gateway: Any) -> None:
    post(gateway.url + CHAT)
    post(gateway.url + CHAT, {**ASK, "temperature": 0.5})
    assert "temperature" in api(gateway, "misses")[0]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({**OWN, "host": "evil.example"}, 403),
        ({**OWN, "host": "evil.example:4040"}, 403),
        ({**OWN, "origin": "http://evil.example"}, 403),
        ({**OWN, "origin": "null"}, 403),
        ({**OWN, "host": "localhost:4040"}, 200),
        ({**OWN, "host": "[::1]:4040"}, 200),
    ],
)
def test_data_is_for_the_page_itself(gateway: Any, headers: dict[str, str], status: int) -> None:
    response = httpx.get(f"{gateway.url}/_cache/api/summary", headers=headers)
    assert response.status_code == status


def test_data_of_a_gateway_with_a_token_needs_it(start: Any) -> None:
    gateway = start(token="open sesame")
    url = f"{gateway.url}/_cache/api/summary"
    assert httpx.get(gateway.url + "/_cache/").status_code == 200
    assert httpx.get(url, headers=OWN).status_code == 401
    assert httpx.get(url, headers={**OWN, "authorization": "Bearer no"}).status_code == 401
    right = {**OWN, "authorization": "Bearer open sesame"}
    assert httpx.get(url, headers=right).status_code == 200


def test_other_hosts_can_be_named(start: Any) -> None:
    gateway = start(page_hosts=["cache.internal"])
    headers = {**OWN, "host": "cache.internal"}
    assert httpx.get(f"{gateway.url}/_cache/api/summary", headers=headers).status_code == 200


@pytest.mark.parametrize("body", [b"", b"[]", b'{"key": 1}', b"x" * 100_000])
def test_wrong_input_is_refused(gateway: Any, body: bytes) -> None:
    response = httpx.post(f"{gateway.url}/_cache/api/delete", content=body, headers=OWN)
    assert response.status_code == 400
    assert httpx.get(f"{gateway.url}/_cache/../pyproject.toml").status_code in (403, 404)
    assert httpx.get(f"{gateway.url}/_cache/%2e%2e/x").status_code == 404
