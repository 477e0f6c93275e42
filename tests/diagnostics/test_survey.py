"""What a run of requests says about its keys: which fields cost hits, and which key function would
win them back."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_cache_mem import LLMCache, compose, folding, ignoring, masking, stable_ids
from llm_cache_mem.diagnostics.fields import PATTERNS
from llm_cache_mem.diagnostics.survey import Cost, survey


def ask(question: str, system: str = "Be brief.", **params: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {"model": "m", **params, "messages": messages}


def hits_with(key_fn_code: str, requests: list[dict[str, Any]], clock: Clock) -> int:
    """The hits of a real cache with the key function that the advice is code for; "None" for that
    of every cache."""
    functions = (compose, folding, ignoring, masking, stable_ids)
    named = {function.__name__: function for function in functions}
    cache = LLMCache(max_size=None, key_fn=eval(key_fn_code, named), clock=clock)
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
    requests = [
        ask(f"q{n % 2}", f"Today is 2026-11-{1 + n // 4:02d}.", user=f"u{n % 4}") for n in range(16)
    ]
    found = survey(requests)
    assert {remedy.why for remedy in found.remedies} == {"user", "a date"}
    assert [remedy.hits for remedy in found.remedies] == sorted(
        remedy.hits for remedy in found.remedies
    )
    assert found.remedies[-1].hits == 14 == hits_with(found.remedies[-1].key_fn, requests, clock)


def test_two_faults_that_hide_one_another_are_found_together(clock: Clock) -> None:
    """Each request differs in two fields from every other: leaving out one of them wins nothing."""
    requests = [ask("q", f"It is 2026-11-{n:02d}.", user=f"u{n}") for n in range(1, 5)]
    found = survey(requests)
    assert found.costs == ()
    assert [(remedy.why, remedy.hits) for remedy in found.remedies] == [("user and a date", 3)]
    assert hits_with(found.remedies[0].key_fn, requests, clock) == 3


def after_a_call(known_as: str, **params: Any) -> dict[str, Any]:
    call = {"id": known_as, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    request = ask("q", **params)
    request["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": known_as, "content": "12"},
    ]
    return request


@pytest.mark.parametrize("prefix", ["call_", "toolu_", "pyd_ai_", "lc_run--", ""])
def test_new_ids_of_tool_calls_are_told_and_numbered(prefix: str, clock: Clock) -> None:
    requests = [after_a_call(f"{prefix}{n * 7919:08x}") for n in range(5)]
    found = survey(requests)
    assert [(remedy.why, remedy.key_fn, remedy.hits) for remedy in found.remedies] == [
        ("ids of tool calls", "stable_ids", 4)
    ]
    assert hits_with(found.remedies[0].key_fn, requests, clock) == 4


def test_spellings_of_the_last_question_are_told_and_folded(clock: Clock) -> None:
    requests = [ask(question) for question in ("Where is it?", "where is it", "WHERE is  it?")]
    found = survey(requests)
    assert [(remedy.key_fn, remedy.hits) for remedy in found.remedies] == [("folding", 2)]
    assert hits_with(found.remedies[0].key_fn, requests, clock) == 2


def test_ids_of_tool_calls_and_a_field_are_found_together(clock: Clock) -> None:
    requests = [after_a_call(f"call_{n:06d}", user=f"u{n}") for n in range(5)]
    found = survey(requests)
    assert found.remedies[-1].key_fn == 'compose(stable_ids, ignoring("user"))'
    assert found.remedies[-1].hits == 4
    assert hits_with(found.remedies[-1].key_fn, requests, clock) == 4


def test_unrelated_requests_get_no_advice() -> None:
    assert survey([ask(f"q{n}") for n in range(5)]).remedies == ()


def test_an_id_in_every_message_is_one_field(clock: Clock) -> None:
    requests = [
        {
            "model": "m",
            "messages": [
                {"role": "user", "content": "q", "id": f"{n}"},
                {"role": "user", "content": "r", "id": f"x{n}"},
            ],
        }
        for n in range(4)
    ]
    found = survey(requests)
    assert found.costs[0] == Cost("messages[].id", 3)
    assert found.remedies[0].key_fn == 'ignoring("messages[].id")'
    assert hits_with(found.remedies[0].key_fn, requests, clock) == 3


@pytest.mark.parametrize("name", ["model", "temperature", "tools", "max_tokens"])
def test_deciding_fields_are_never_advised_away(name: str) -> None:
    found = survey([ask("q") | {name: value} for value in ("one", "two", "three")])
    assert found.costs[0] == Cost(name, 2)
    assert found.remedies == ()


def test_fields_set_by_the_caller_are_not_advised_away() -> None:
    requests = [ask("q", tenant=f"t{n}") for n in range(3)]
    assert survey(requests).remedies[0].why == "tenant"
    assert survey(requests, keep=["tenant"]).remedies == ()


def test_one_and_one_point_naught_and_true_are_different_values() -> None:
    assert survey([ask("q", x=1), ask("q", x=1.0), ask("q", x=True)]).costs[0] == Cost("x", 2)


def test_a_last_turn_that_repeats_is_mentioned() -> None:
    earlier = [[], [{"role": "user", "content": "hm"}, {"role": "assistant", "content": "yes?"}]]
    found = survey(
        [
            {"model": "m", "messages": [*turns, {"role": "user", "content": "q"}]}
            for turns in earlier
        ]
    )
    assert (found.hits, found.last_turn_hits) == (0, 1)
    assert "last_turn" in str(found)


def test_a_request_that_has_no_key_never_hits() -> None:
    assert survey([ask("q", x=float("nan")), ask("q", x=float("nan"))]).hits == 0


def test_the_report_holds_no_content() -> None:
    text = str(
        survey(
            [
                ask("canary-prompt", f"canary-system 2026-01-{n:02d}", user=f"canary-user-{n}")
                for n in range(1, 9)
            ]
            * 2
        )
    )
    assert "canary" not in text


def flat(value: Any, path: str = "") -> dict[str, str]:
    """The leaves of a request by path."""
    if isinstance(value, dict) and value:
        return {
            leaf: told
            for name in value
            for leaf, told in flat(value[name], f"{path}.{name}" if path else name).items()
        }
    if isinstance(value, list) and value:
        return {
            leaf: told
            for i, item in enumerate(value)
            for leaf, told in flat(item, f"{path}[{i}]").items()
        }
    return {path: json.dumps(value)}


def hits_without(field: str, requests: list[dict[str, Any]]) -> int:
    """The hits there would be if *field*, of a message by number only where that is a system
    prompt, were in no request: the slow way."""
    under = re.compile(
        re.escape(field).replace(r"messages\[\]", r"messages\[\d+\]") + r"(?:[.\[]|$)"
    )
    numbered = re.match(r"messages\[\d", field)
    left = []
    for request in requests:
        leaves = flat(request)
        spared = (
            numbered is not None
            and leaves.get(f"{field[: field.index(']') + 1]}.role") != '"system"'
        )
        left.append(
            tuple(sorted(pair for pair in leaves.items() if spared or not under.match(pair[0])))
        )
    return len(left) - len(set(left))


SAID = st.sampled_from(
    [
        "q",
        "r",
        "It is 2026-11-23.",
        "It is 2026-11-24.",
        "run_0123456 at 10:30",
        "run_6543210 at 10:31",
        ["a", "b"],
    ]
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user"]), "content": SAID},
    optional={
        "id": st.sampled_from("abc"),
        "meta": st.fixed_dictionaries({"at": st.sampled_from(["1 May 2026", "2 May 2026"])}),
    },
)
REQUEST = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, min_size=1, max_size=2)},
    optional={
        "model": st.sampled_from("mn"),
        "user": st.sampled_from("uvw"),
        "timeout": st.integers(1, 3),
        "metadata": st.fixed_dictionaries(
            {"id": st.integers(0, 3)}, optional={"app": st.just("x")}
        ),
        "systemInstruction": st.fixed_dictionaries(
            {"parts": st.lists(SAID, min_size=1, max_size=1)}
        ),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(REQUEST, max_size=8))
def test_the_simulation_agrees_with_a_real_cache(requests: list[dict[str, Any]]) -> None:
    clock = Clock()
    found = survey(requests, top=1000)
    assert found.hits == hits_with("None", requests, clock)
    for remedy in found.remedies:
        assert remedy.hits == hits_with(remedy.key_fn, requests, clock)
    asked = [
        {name: value for name, value in request.items() if name != "timeout"}
        for request in requests
    ]
    fields = [
        "model",
        "user",
        "metadata",
        "metadata.id",
        "metadata.app",
        "systemInstruction",
        "messages[].id",
        "messages[].meta",
    ]
    most = max(hits_without(field, asked) for field in fields) - found.hits
    assert most == 0 or found.costs[0].hits >= most
    assert all(cost.hits == hits_without(cost.field, asked) - found.hits for cost in found.costs)


def test_an_id_in_a_system_prompt_too_is_that_same_field() -> None:
    requests = [
        {
            "messages": [
                {"role": "system", "content": "s", "id": f"{n}"},
                {"role": "user", "content": "q"},
            ]
        }
        for n in range(4)
    ]
    assert [tuple(remedy) for remedy in survey(requests).remedies] == [
        ("messages[].id", 'ignoring("messages[].id")', 3)
    ]


@pytest.mark.parametrize(
    "name", ["system", "instructions", "system_instruction", "systemInstruction"]
)
def test_a_separate_system_prompt_is_masked_and_never_dropped(name: str) -> None:
    requests = [
        ask("q") | {name: {"parts": [{"text": f"It is 2026-11-{n:02d}."}]}} for n in range(1, 5)
    ]
    assert [remedy.why for remedy in survey(requests).remedies] == ["a date"]


def test_the_endpoint_is_never_advised_away() -> None:
    assert (
        survey(
            [ask("q") | {"http.path": path} for path in ("/v1/chat/completions", "/v1/responses")]
        ).remedies
        == ()
    )


def test_ignored_params_cost_nothing() -> None:
    requests = [ask("q", timeout=n, trace=n) for n in range(4)]
    assert [cost.field for cost in survey(requests).costs] == ["trace"]
    assert survey(requests, ignore=["timeout", "trace"]).hits == 3


@pytest.mark.parametrize("name", ['so "called"', "back\\slash", "Größe 😀", "tab\t"])
def test_the_code_is_code_whatever_a_param_is_called(name: str, clock: Clock) -> None:
    requests = [ask("q") | {name: n} for n in range(3)]
    assert hits_with(survey(requests).remedies[0].key_fn, requests, clock) == 2


def test_a_param_without_a_name_is_no_remedy() -> None:
    found = survey([ask("q") | {"": n} for n in range(3)])
    assert (found.costs, found.remedies) == ((Cost("", 2),), ())


def test_a_very_large_request_is_taken_field_by_field() -> None:
    found = survey([{"input": list(range(20_001)), "user": user} for user in "abc"])
    assert (found.costs, found.remedies[0].hits) == ((Cost("user", 2),), 2)


def test_a_date_field_is_found_even_with_dates_masked() -> None:
    days, notes = ["2026-11-21", "2026-11-22", "2026-11-23"], ["a 2026-11-21", "b 2026-11-22"]
    requests = [
        {"messages": [{"role": "user", "content": f"q {day}", "note": note}]}
        for day in days
        for note in notes
    ]
    assert [tuple(remedy)[::2] for remedy in survey(requests).remedies] == [
        ("a date", 4),
        ("messages[].note", 5),
    ]


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
def test_volatile_values_are_recognised_whole(name: str, text: str) -> None:
    assert masking(PATTERNS[name])(f"At {text}, go.") == {"messages": "At …, go."}


@pytest.mark.parametrize("prefix", ["pyd_ai_", "lc_run--", "call_", "of_another_framework_"])
def test_ids_are_recognised_behind_any_prefix(prefix: str) -> None:
    for name, text in (
        ("a UUID", "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0"),
        ("a hexadecimal number", "9f86d081884c7d659a2feaa0c55ad015"),
    ):
        assert masking(PATTERNS[name])(prefix + text) == {"messages": f"{prefix}…"}


def test_a_real_trace_is_explained_as_it_was_found_to_be(shared_data: Path) -> None:
    """RAGPulse, one week of a real service: facts/data.md counts 222 repeats without the system
    prompt, 814 for the question alone."""
    with gzip.open(shared_data / "traces" / "ragpulse" / "0_trace.jsonl.gz", "rt") as lines:
        found = survey(
            (json.loads(line)["hash_ids"] for line in lines if line.strip()), keep=["user_input"]
        )
    assert (found.requests, found.hits) == (7106, 1)
    assert found.costs[0] == Cost("sys_prompt", 221)
    assert found.remedies[0][::2] == ("sys_prompt", 222)
    assert found.remedies[-1].hits == 814
