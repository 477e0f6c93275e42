"""A JSON object without that which its endpoint answers with is empty, and is not stored."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from http_server import rows

from llm_cache_mem.http.answer import Recording
from llm_cache_mem.http.payloads import is_hollow
from llm_cache_mem.http.request import is_endpoint
from llm_cache_mem.responses.admission import refusal_reason

ANSWERED = {
    "/v1/chat/completions": {"choices": [{"index": 0, "message": {"content": "hi"}}]},
    "/openai/deployments/d/chat/completions": {"choices": [{"message": {"content": "hi"}}]},
    "/v1/completions": {"choices": [{"text": "hi", "finish_reason": "stop"}]},
    "/v1/fim/completions": {"choices": [{"message": {"content": "hi"}}]},
    "/v1/responses": {"output": [{"type": "message", "content": [{"text": "hi"}]}]},
    "/v1/messages": {"content": [{"type": "text", "text": "hi"}]},
    "/v1beta/models/m:generateContent": {
        "candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}]
    },
    "/model/m/converse": {"output": {"message": {"content": [{"text": "hi"}]}}},
    "/v2/chat": {"message": {"content": [{"text": "hi"}]}},
    "/v1/chat": {"text": "hi"},
    "/v1/embeddings": {"data": [{"embedding": [0.5]}]},
    "/api/embed": {"embeddings": [[0.5]]},
    "/v1beta/models/m:embedContent": {"embedding": {"values": [0.5]}},
    "/v1beta/models/m%3AbatchEmbedContents": {"embeddings": [{"values": [0.5]}]},
    "/v1/moderations": {"results": [{"flagged": False}]},
    "/v2/rerank": {"results": [{"index": 0}]},
    "/v1/messages/count_tokens": {"input_tokens": 3},
    "/v1/responses/input_tokens": {"input_tokens": 3},
    "/v1beta/models/m:countTokens": {"totalTokens": 3},
    "/model/m/count-tokens": {"inputTokens": 3},
}


def reason(path: str, answer: Any) -> str | None:
    recording = Recording(200, [("Content-Type", "application/json")], bytes, path)
    recording.add(json.dumps(answer).encode())
    assert recording.finish(at_end=True)
    return refusal_reason(recording.response())


@pytest.mark.parametrize("path", ANSWERED)
def test_an_answer_without_its_payload_is_empty(path: str) -> None:
    (name,) = ANSWERED[path]
    for hollow in ({"id": "x"}, {"id": "x", "model": "m", "usage": {}}, {"id": "x", name: None}):
        assert reason(path, hollow) == "empty"
    for nothing in () if name == "results" else ([], {}, "", [{}], [None]):
        assert reason(path, {"id": "x", name: nothing}) == "empty"
    assert reason(path, "overloaded") == reason(path, 3) == "empty"
    assert reason(path, {"id": "x", **ANSWERED[path]}) is None


@pytest.mark.parametrize("path", ["/model/m/invoke", "/api/chat", "/v1/models/m:rawPredict", "/x"])
def test_other_endpoints_may_answer_with_any_json(path: str) -> None:
    assert reason(path, {"id": "x"}) is None


OF_ONE_PROVIDER = [
    ("/completions", {"content": "hi", "stop": True}),  # llama.cpp
    ("/v1internal:generateContent", {"response": ANSWERED["/v1beta/models/m:generateContent"]}),
    ("/v1/chat", {"responses": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}),  # Reka
    ("/v1/chat", {"text": "", "tool_calls": [{"name": "f"}], "finish_reason": "COMPLETE"}),
    ("/v1/chat", {"text": "", "search_queries": [{"text": "q"}], "finish_reason": "COMPLETE"}),
    ("/ml/v1/text/embeddings", {"results": [{"embedding": [0.5]}]}),  # watsonx
    ("/rerank", [{"index": 0, "score": 0.5}]),  # text-embeddings-inference
    ("/v2/rerank", {"results": []}),
]


@pytest.mark.parametrize(("path", "answer"), OF_ONE_PROVIDER)
def test_an_answer_in_the_form_of_one_provider_is_stored(path: str, answer: Any) -> None:
    assert reason(path, answer) is None


def test_a_blocked_prompt_and_an_error_have_reasons_of_their_own() -> None:
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}}
    assert reason("/v1beta/models/m:generateContent", blocked) == "content_filter"
    refused = {"type": "message", "role": "assistant", "content": [], "stop_reason": "refusal"}
    assert reason("/v1/messages", refused) == "refusal"
    for error in ({"error": {"message": "no"}, "id": "x"}, {"detail": "overloaded"}):
        assert reason("/v1/chat/completions", error) == "error"


def test_no_recorded_answer_is_taken_for_hollow(shared_data: Path) -> None:
    seen = 0
    for row in rows(shared_data):
        path = urlsplit(row["request"]["url"]).path
        body = row["response"].get("body")
        try:
            answer = json.loads(body) if isinstance(body, str) else body
        except ValueError:  # a stream
            continue
        if row["response"]["status"] == 200 and is_endpoint(path) and isinstance(answer, dict):
            assert not is_hollow(path, answer), row["id"]
            seen += 1
    assert seen > 250
