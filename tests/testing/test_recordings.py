"""Usage and admission on every recorded exchange with a real provider, against readings of their
own written here.

No text of a recording is ever printed: assertions compare numbers, reasons and ids.
"""

import base64
import json
import struct
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem.responses.admission import refusal_reason
from llm_cache_mem.responses.usage import Usage, read_model, read_usage

Row = dict[str, Any]

OPENAI_LIKE = frozenset({"chat.completions", "completions"})


@pytest.fixture(scope="module")
def recordings(shared_data: Path) -> list[tuple[Row, Any]]:
    """Each recording with its answer as an SDK would hand it on: a dict, or the list of the chunks
    of a stream."""
    lines = (shared_data / "real_interactions.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row, _answer(row["response"])) for row in map(json.loads, lines)]


def _answer(response: Row) -> Any:
    if "body_b64" in response:
        return list(_event_stream(base64.b64decode(response["body_b64"])))
    body = response["body"]
    try:
        return json.loads(body)
    except ValueError:
        pass
    if body.lstrip().startswith(("data:", "event:", ":")):
        data = (line[5:].strip() for line in body.splitlines() if line.startswith("data:"))
        return [json.loads(datum) for datum in data if datum != "[DONE]"]
    return [json.loads(line) for line in body.splitlines() if line.strip()]


def _event_stream(data: bytes) -> Iterator[Row]:
    """Bedrock's binary framing, as boto3 unpacks it."""
    while data:
        total, headers = struct.unpack(">II", data[:8])
        names = _headers(data[12 : 12 + headers])
        payload = json.loads(data[12 + headers : total - 4])
        kind = names.get(":event-type") or names[":exception-type"]
        yield json.loads(base64.b64decode(payload["bytes"])) if kind == "chunk" else {kind: payload}
        data = data[total:]


def _headers(data: bytes) -> dict[str, str]:
    headers = {}
    while data:
        name, data = data[1 : 1 + data[0]].decode(), data[1 + data[0] :]
        (length,) = struct.unpack(">H", data[1:3])
        headers[name], data = data[3 : 3 + length].decode(), data[3 + length :]
    return headers


# The readings to compare with: one for each provider, from its documentation, knowing which
# provider it is


def _usage(row: Row, answer: Any) -> Usage | None:
    provider, endpoint = row["provider"], row["endpoint"]
    pieces = answer if isinstance(answer, list) else [answer]
    if endpoint in OPENAI_LIKE or (endpoint == "embeddings" and provider != "gemini"):
        return _openai_usage(pieces)
    if endpoint == "responses":
        return _responses_usage(pieces)
    if provider == "anthropic" or (
        provider == "bedrock" and endpoint.startswith("invoke") and _is_claude(pieces)
    ):
        return _anthropic_usage(pieces)
    if provider in {"gemini", "vertex"}:
        return _gemini_usage(pieces)
    if provider == "bedrock":
        return _bedrock_usage(pieces)
    if provider == "cohere":
        return _cohere_usage(pieces)
    assert provider == "ollama" or endpoint in {"moderations", "rerank"}, (provider, endpoint)
    last = pieces[-1]
    return (
        Usage(last.get("prompt_eval_count", 0), last["eval_count"])
        if "eval_count" in last
        else None
    )


def _openai_usage(pieces: list[Any]) -> Usage | None:
    usage = next(
        (
            p.get("usage") or p.get("x_groq", {}).get("usage")
            for p in reversed(pieces)
            if _openai_has(p)
        ),
        None,
    )
    if usage is None:
        return None
    if "prompt_tokens" not in usage:
        return Usage(usage["total_tokens"], 0)
    details = usage.get("prompt_tokens_details") or {}
    cached = (
        details.get("cached_tokens")
        or usage.get("num_cached_tokens")
        or usage.get("cached_tokens")
        or 0
    )
    sent = usage["prompt_tokens"] + (cached if cached > usage["prompt_tokens"] else 0)
    return Usage(
        sent, usage.get("completion_tokens", 0), cached, details.get("cache_write_tokens") or 0
    )


def _openai_has(piece: Row) -> bool:
    return bool(piece.get("usage") or piece.get("x_groq", {}).get("usage"))


def _responses_usage(pieces: list[Any]) -> Usage | None:
    usage = pieces[-1].get("response", pieces[-1])["usage"]
    details = usage["input_tokens_details"]
    return Usage(
        usage["input_tokens"],
        usage["output_tokens"],
        details["cached_tokens"],
        details.get("cache_write_tokens", 0),
    )


def _is_claude(pieces: list[Any]) -> bool:
    return pieces[0].get("type") in {"message", "message_start"}


def _anthropic_usage(pieces: list[Any]) -> Usage | None:
    usage: Row = {}
    for piece in pieces:
        usage |= piece.get("message", {}).get("usage", {}) | piece.get("usage", {})
    if not usage:
        return None
    read, written = (
        usage.get("cache_read_input_tokens") or 0,
        usage.get("cache_creation_input_tokens") or 0,
    )
    hour = (usage.get("cache_creation") or {}).get("ephemeral_1h_input_tokens", 0)
    return Usage(
        usage["input_tokens"] + read + written, usage["output_tokens"], read, written, hour
    )


def _gemini_usage(pieces: list[Any]) -> Usage | None:
    usage = next(
        (
            p["usageMetadata"]
            for p in reversed(pieces)
            if len(p.get("usageMetadata", {})) > 1 or "promptTokenCount" in str(p)
        ),
        None,
    )
    if usage is None:
        return None
    sent = usage.get("promptTokenCount", 0) + usage.get("toolUsePromptTokenCount", 0)
    return Usage(
        sent,
        usage.get("candidatesTokenCount", 0) + usage.get("thoughtsTokenCount", 0),
        usage.get("cachedContentTokenCount", 0),
    )


def _bedrock_usage(pieces: list[Any]) -> Usage | None:
    usage = next(
        (p.get("metadata", p)["usage"] for p in pieces if "usage" in p.get("metadata", p)), None
    )
    if usage is not None:
        read = usage.get("cacheReadInputTokens", 0)
        written = usage.get("cacheWriteInputTokens", 0)
        assert usage["inputTokens"] + read + written + usage["outputTokens"] == usage["totalTokens"]
        hour = sum(
            entry["inputTokens"] for entry in usage.get("cacheDetails", []) if entry["ttl"] == "1h"
        )
        return Usage(
            usage["inputTokens"] + read + written, usage["outputTokens"], read, written, hour
        )
    (piece,) = pieces
    if "generation" in piece:
        return Usage(piece["prompt_token_count"], piece["generation_token_count"])
    if "results" in piece:
        return Usage(piece["inputTextTokenCount"], piece["results"][0]["tokenCount"])
    if "outputText" in piece:
        return Usage(int(piece["inputTextTokenCount"]), int(piece["totalOutputTextTokenCount"]))
    return None


def _cohere_usage(pieces: list[Any]) -> Usage | None:
    last = pieces[-1]
    usage = (
        last.get("usage")
        or last.get("delta", {}).get("usage")
        or last.get("response", last).get("meta")
    )
    billed = usage["billed_units"]
    return (
        Usage(billed["input_tokens"], billed["output_tokens"]) if "input_tokens" in billed else None
    )


CUT = {
    "length": "truncated",
    "LENGTH": "truncated",
    "max_tokens": "truncated",
    "MAX_TOKENS": "truncated",
    "content_filter": "content_filter",
}
WHOLE = frozenset(
    {
        "stop",
        "tool_calls",
        "end_turn",
        "tool_use",
        "stop_sequence",
        "STOP",
        "COMPLETE",
        "TOOL_CALL",
        "FINISH",
        "completed",
        "FINISHED",
    }
)
STOP_NAMES = frozenset(
    {
        "finish_reason",
        "finishReason",
        "stop_reason",
        "stopReason",
        "done_reason",
        "completionReason",
    }
)


def _stops(value: Any) -> Iterator[str]:
    """Every reason to stop, anywhere in an answer."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in STOP_NAMES and isinstance(inner, str):
                yield inner
            elif name == "finish_details":  # what vision previews had instead
                yield inner["type"]
            else:
                yield from _stops(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _stops(inner)


def _reason(row: Row, answer: Any) -> str | None:
    """Why the answer of a 200 is not to be kept, from its reasons to stop and what the recording is
    filed under."""
    pieces = answer if isinstance(answer, list) else [answer]
    if any(piece.get("error") for piece in pieces):
        return "error"
    if "refusal" in row["features"]:
        return "refusal"
    if any(piece.get("amazon-bedrock-guardrailAction") == "INTERVENED" for piece in pieces):
        return "content_filter"
    stops = set(_stops(answer))
    assert stops <= WHOLE | CUT.keys(), stops
    cut = {CUT[stop] for stop in stops if stop in CUT}
    if cut:
        return cut.pop()
    if (
        row["endpoint"] in {"embeddings", "count_tokens", "moderations", "rerank"}
        or row["endpoint"] == "responses"
    ):
        return None
    return None if stops else "incomplete"


# Usage


def test_every_usage_is_read_as_its_provider_documents_it(
    recordings: list[tuple[Row, Any]],
) -> None:
    read: Counter[str] = Counter()
    silent: Counter[str] = Counter()
    for row, answer in recordings:
        if row["response"]["status"] != 200 or row["endpoint"] == "count_tokens":
            assert read_usage(answer) is None, row["id"]
            continue
        expected = _usage(row, answer)
        assert read_usage(answer) == expected, (row["id"], row["provider"], row["endpoint"])
        (silent if expected is None else read)[row["provider"]] += 1
    print(dict(read), dict(silent))
    least = {
        "anthropic": 72, "openai": 115, "gemini": 53, "bedrock": 43, "mistral": 32, "groq": 23, "azure": 17, "cohere": 18, "ollama": 18,
        "openrouter": 15, "vertex": 13, "deepseek": 10, "local-openai-compatible": 9, "together": 5, "xai": 5, "huggingface": 3, "zai": 2,
        "perplexity": 2, "cerebras": 1, "voyage": 1,
    }  # fmt: skip
    assert {provider: read[provider] for provider in least} == least
    assert (
        sum(silent.values()) == 27
    )  # streams asked for without usage, and what is not paid for in tokens


def test_the_model_that_answered_is_read_wherever_it_is_told(
    recordings: list[tuple[Row, Any]],
) -> None:
    named = Counter(row["provider"] for row, answer in recordings if read_model(answer) is not None)
    for row, answer in recordings:
        if row["response"]["status"] == 200 and row["provider"] not in {"bedrock", "cohere"}:
            told = row["endpoint"] not in {"count_tokens"} and not (
                row["endpoint"] == "embeddings" and row["provider"] == "gemini"
            )
            assert (read_model(answer) is not None) == told, (
                row["id"],
                row["provider"],
                row["endpoint"],
            )
    assert named["openai"] >= 120
    assert named["anthropic"] == 72


# Admission


def test_every_answer_is_judged_by_its_own_reason_to_stop(
    recordings: list[tuple[Row, Any]],
) -> None:
    refused: Counter[str] = Counter()
    for row, answer in recordings:
        if row["response"]["status"] != 200:
            continue
        expected = _reason(row, answer)
        assert refusal_reason(answer) == expected, (row["id"], row["provider"], row["endpoint"])
        if expected is not None:
            refused[expected] += 1
    print(dict(refused))
    assert refused == {
        "truncated": 42,
        "content_filter": 2,
        "error": 2,
        "refusal": 2,
        "incomplete": 1,
    }


def test_a_responses_error_object_is_not_stored(
    recordings: list[tuple[Row, Any]],
) -> None:
    """SDKs raise these; what reaches admission is only what a proxy wraps into a success. A bare
    sentence is not known as one."""
    errors = [(row, answer) for row, answer in recordings if row["response"]["status"] >= 400]
    for _, answer in errors:
        told = (
            isinstance(answer, dict)
            and bool(answer.get("error"))
            and ("message" in answer["error"] or answer.keys() <= {"error", "code"})
        )
        assert (refusal_reason(answer) == "error") >= told
    assert len(errors) == 46
    assert sum(refusal_reason(answer) == "error" for _, answer in errors) >= 37


def test_a_recorded_stream_cut_short_is_never_stored(
    recordings: list[tuple[Row, Any]],
) -> None:
    """Up to the last piece that can hold a reason to stop: after it come only counts and empty
    pieces."""
    cuts = 0
    for row, answer in recordings:
        if (
            row["response"]["status"] != 200
            or not isinstance(answer, list)
            or refusal_reason(answer) is not None
        ):
            continue
        if row["endpoint"] == "responses" or row["provider"] == "anthropic":
            end = len(answer) - 1
        else:
            end = next(
                at
                for at, piece in enumerate(answer)
                if set(_stops(piece)) or piece.get("done") or "messageStop" in piece
            )
        for cut in {*range(0, end, max(1, end // 20)), end}:
            assert refusal_reason(answer[:cut]) in {"empty", "incomplete"}, (
                row["id"],
                row["provider"],
                cut,
            )
            cuts += 1
    assert cuts > 1500


# SDK objects


def _through_sdk(row: Row) -> Any:
    """The answer as the provider's own SDK makes it of the recorded bytes, without a network."""
    import httpx2

    sdk: Any = pytest.importorskip("anthropic" if row["provider"] == "anthropic" else "openai")
    content_type = "text/event-stream" if "stream" in row["features"] else "application/json"

    def reply(request: Any) -> Any:
        return httpx2.Response(
            200, headers={"content-type": content_type}, content=row["response"]["body"].encode()
        )

    options = {
        "api_key": "none",
        "max_retries": 0,
        "http_client": httpx2.Client(transport=httpx2.MockTransport(reply)),
    }
    streamed = {"stream": True} if "stream" in row["features"] else {}
    with (
        sdk.Anthropic(**options) if row["provider"] == "anthropic" else sdk.OpenAI(**options)
    ) as client:
        ask = {
            "messages": lambda: client.messages.create(
                model="m", max_tokens=1, messages=[], **streamed
            ),
            "chat.completions": lambda: client.chat.completions.create(
                model="m", messages=[], **streamed
            ),
            "completions": lambda: client.completions.create(model="m", prompt="", **streamed),
            "responses": lambda: client.responses.create(model="m", input="", **streamed),
            "embeddings": lambda: client.embeddings.create(
                model="m", input="", encoding_format="float"
            ),
        }
        answer = ask[row["endpoint"]]()
        return list(answer) if streamed else answer


def test_objects_of_the_sdks_read_the_same_as_their_json(recordings: list[tuple[Row, Any]]) -> None:
    pytest.importorskip("httpx2")
    pytest.importorskip("anthropic")
    pytest.importorskip("openai")
    checked: Counter[str] = Counter()
    for row, answer in recordings:
        known = row["endpoint"] in {
            "messages",
            "chat.completions",
            "completions",
            "responses",
            "embeddings",
        }
        if (
            row["response"]["status"] != 200
            or row["provider"] not in {"anthropic", "openai", "deepseek", "openrouter"}
            or not known
        ):
            continue
        if refusal_reason(answer) == "error":
            continue  # the SDK raises
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            made = _through_sdk(row)
        expected = answer
        if row["provider"] == "anthropic" and isinstance(answer, list):
            expected = [event for event in answer if event["type"] != "ping"]
        assert isinstance(made, list) == isinstance(answer, list)
        assert read_usage(made) == read_usage(expected), row["id"]
        assert read_model(made) == read_model(expected), row["id"]
        assert refusal_reason(made) == refusal_reason(expected), row["id"]
        checked[row["provider"], "stream" if isinstance(answer, list) else "whole"] += 1  # type: ignore[index]
    print(checked)
    assert sum(checked.values()) > 220
