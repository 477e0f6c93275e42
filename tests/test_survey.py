"""What a run of requests says about its keys: which fields cost hits, and which key function would win them back."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock

from llm_cache_mem import LLMCache
from llm_cache_mem.key_functions import ignoring, masking
from llm_cache_mem.survey import PATTERNS, Cost, survey


def ask(question: str, system: str = "Be brief.", **params: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {"model": "m", **params, "messages": messages}


def hits_with(key_fn_code: str, requests: list[dict[str, Any]], clock: Clock) -> int:
    """The hits of a real cache with the key function that the advice is code for."""
    cache = LLMCache(max_size=None, key_fn=eval(key_fn_code, {"ignoring": ignoring, "masking": masking}), clock=clock)
    for request in requests:
        cache.get_or_call(fn=lambda **_: {"answer": "yes"}, **request)
    return cache.stats().hits


def test_requests_that_all_hit_need_nothing() -> None:
    found = survey([ask("a"), ask("b"), ask("a"), ask("a")])
    assert (found.requests, found.hits, found.costs, found.remedies) == (4, 2, (), ())
    assert "no single field" in str(found)


def test_no_requests_at_all() -> None:
    assert survey([]).requests == 0
    assert "0 requests" in str(survey([]))


def test_a_timestamp_in_the_system_prompt_is_named_and_masked(clock: Clock) -> None:
    requests = [ask(f"q{n % 3}", f"Be brief. It is 2026-11-23 10:{n:02d}:00.") for n in range(9)]
    found = survey(requests)
    assert found.hits == 0
    assert found.costs[0] == Cost("messages[0].content", 6)
    assert [(remedy.why, remedy.hits) for remedy in found.remedies] == [("a date and time", 6)]
    assert hits_with(found.remedies[-1].key_fn, requests, clock) == 6


def test_a_request_id_in_a_param_is_ignored(clock: Clock) -> None:
    requests = [ask(f"q{n % 2}", metadata={"app": "x", "request_id": f"r{n}"}) for n in range(8)]
    found = survey(requests)
    assert found.costs[0] == Cost("metadata.request_id", 6)
    assert found.remedies[0].key_fn == 'ignoring("metadata")'
    assert hits_with(found.remedies[0].key_fn, requests, clock) == 6


def test_two_faults_together_are_mended_one_after_the_other(clock: Clock) -> None:
    """Neither alone wins everything; the second remedy counts on top of the first."""
    requests = [ask(f"q{n % 2}", f"Today is 2026-11-{1 + n // 4:02d}.", user=f"u{n % 4}") for n in range(16)]
    found = survey(requests)
    assert {remedy.why for remedy in found.remedies} == {"user", "a date"}
    assert [remedy.hits for remedy in found.remedies] == sorted(remedy.hits for remedy in found.remedies)
    assert found.remedies[-1].hits == 14 == hits_with(found.remedies[-1].key_fn, requests, clock)


def test_two_faults_that_hide_one_another_are_found_together(clock: Clock) -> None:
    """Each request differs in two fields from every other: leaving out one of them wins nothing."""
    requests = [ask("q", f"It is 2026-11-{n:02d}.", user=f"u{n}") for n in range(1, 5)]
    found = survey(requests)
    assert found.costs == ()
    assert [(remedy.why, remedy.hits) for remedy in found.remedies] == [("user and a date", 3)]
    assert hits_with(found.remedies[0].key_fn, requests, clock) == 3


def test_requests_that_have_nothing_in_common_get_no_advice() -> None:
    assert survey([ask(f"q{n}") for n in range(5)]).remedies == ()


def test_an_id_in_every_message_is_one_field(clock: Clock) -> None:
    requests = [
        {"model": "m", "messages": [{"role": "user", "content": "q", "id": f"{n}"}, {"role": "user", "content": "r", "id": f"x{n}"}]}
        for n in range(4)
    ]
    found = survey(requests)
    assert found.costs[0] == Cost("messages[].id", 3)
    assert found.remedies[0].key_fn == 'ignoring("messages[].id")'
    assert hits_with(found.remedies[0].key_fn, requests, clock) == 3


@pytest.mark.parametrize("name", ["model", "temperature", "tools", "max_tokens"])
def test_what_decides_the_answer_is_shown_but_never_advised_away(name: str) -> None:
    found = survey([ask("q") | {name: value} for value in ("one", "two", "three")])
    assert found.costs[0] == Cost(name, 2)
    assert found.remedies == ()


def test_what_the_caller_keeps_is_not_advised_away() -> None:
    requests = [ask("q", tenant=f"t{n}") for n in range(3)]
    assert survey(requests).remedies[0].why == "tenant"
    assert survey(requests, keep=["tenant"]).remedies == ()


def test_one_and_one_point_naught_and_true_are_different_values() -> None:
    assert survey([ask("q", x=1), ask("q", x=1.0), ask("q", x=True)]).costs[0] == Cost("x", 2)


def test_a_last_turn_that_repeats_is_mentioned() -> None:
    earlier = [[], [{"role": "user", "content": "hm"}, {"role": "assistant", "content": "yes?"}]]
    found = survey([{"model": "m", "messages": [*turns, {"role": "user", "content": "q"}]} for turns in earlier])
    assert (found.hits, found.last_turn_hits) == (0, 1)
    assert "last_turn" in str(found)


def test_a_request_that_has_no_key_never_hits() -> None:
    assert survey([ask("q", x=float("nan")), ask("q", x=float("nan"))]).hits == 0


def test_the_report_holds_no_content() -> None:
    text = str(survey([ask("canary-prompt", f"canary-system 2026-01-{n:02d}", user=f"canary-user-{n}") for n in range(1, 9)] * 2))
    assert "canary" not in text


def test_a_request_must_be_an_object() -> None:
    with pytest.raises(ValueError, match="a request is a JSON object, not list"):
        survey([[]])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a date and time", "2026-11-23T09:41:07.123Z"),
        ("a date and time", "2026-11-23 09:41"),
        ("a date", "23.11.2026"),
        ("a date", "2026年11月23日"),
        ("a date in words", "Monday, November 23, 2026"),
        ("a date in words", "23rd Nov 2026"),
        ("a time of day", "9:41 PM"),
        ("a UUID", "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0"),
        ("an id", "req_01HZX3Q9TB"),
        ("a hexadecimal number", "9f86d081884c7d659a2feaa0c55ad015"),
        ("a Unix time", "1795430467.25"),
    ],
)
def test_what_changes_from_call_to_call_is_recognised_whole(name: str, text: str) -> None:
    assert masking(PATTERNS[name])(f"At {text}, go.") == {"messages": "At …, go."}


def test_a_real_trace_is_explained_as_it_was_found_to_be(shared_data: Path) -> None:
    """RAGPulse, one week of a real service: facts/data.md counts 222 repeats without the system prompt, 814 for the question alone."""
    with gzip.open(shared_data / "traces" / "ragpulse" / "0_trace.jsonl.gz", "rt") as lines:
        found = survey((json.loads(line)["hash_ids"] for line in lines if line.strip()), keep=["user_input"])
    assert (found.requests, found.hits) == (7106, 1)
    assert found.costs[0] == Cost("sys_prompt", 221)
    assert found.remedies[0][::2] == ("sys_prompt", 222)
    assert found.remedies[-1].hits == 814
