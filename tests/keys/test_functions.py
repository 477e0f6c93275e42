"""Ready-made key functions: what they leave out, what they keep, and that they leave the caller's
objects alone."""

import copy
import dataclasses
import re
from typing import Any

import pytest

from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys.digest import digest, digest_of, ignoring, last_turn, masking

SYSTEM = {"role": "system", "content": "Be brief. Today is 2026-01-02."}
ASK = {"role": "user", "content": "Capital of France?"}
ANSWER = {"role": "assistant", "content": "Paris."}
MORE = {"role": "user", "content": "And of Spain?"}


@dataclasses.dataclass
class Message:
    role: str
    content: str


def key(function: Any, messages: Any, **params: Any) -> str:
    before = copy.deepcopy((messages, params))
    result = digest_of(function(messages, **params))
    assert (messages, params) == before, "the caller's objects were changed"
    return result


# last_turn


def test_last_turn_forgets_earlier_turns() -> None:
    assert key(last_turn, [SYSTEM, ASK, ANSWER, MORE], model="m") == key(
        last_turn, [SYSTEM, MORE], model="m"
    )


def test_last_turn_has_question_system_prompt_and_params() -> None:
    base = key(last_turn, [SYSTEM, ASK, ANSWER, MORE], model="m", system="s")
    assert base != key(last_turn, [SYSTEM, MORE, ANSWER, ASK], model="m", system="s")
    assert base != key(
        last_turn, [{**SYSTEM, "content": "x"}, ASK, ANSWER, MORE], model="m", system="s"
    )
    assert base != key(last_turn, [ASK, ANSWER, MORE], model="m", system="s")
    assert base != key(last_turn, [SYSTEM, ASK, ANSWER, MORE], model="m2", system="s")
    assert base != key(last_turn, [SYSTEM, ASK, ANSWER, MORE], model="m", system="t")


def test_last_turn_is_never_the_key_of_a_whole_request() -> None:
    assert key(last_turn, [ASK], model="m") != digest([ASK], {"model": "m"})


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t", "content": "18"}],
            },
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "t"}]},
            {"role": "tool", "tool_call_id": "t", "content": "18"},
        ),
    ],
    ids=["anthropic", "openai"],
)
def test_last_turn_tells_the_steps_of_an_agent_apart(call: Any, result: Any) -> None:
    steps = [
        [ASK],
        [ASK, call],
        [ASK, call, result],
        [ASK, call, result, call, result],
        [MORE, call, result],
    ]
    assert len({key(last_turn, messages, model="m") for messages in steps}) == len(steps)
    assert key(last_turn, [MORE, ANSWER, *steps[2]]) == key(last_turn, steps[2])


def test_last_turn_of_other_shapes() -> None:
    assert key(last_turn, "hello") != key(last_turn, "world")
    assert key(last_turn, []) == key(last_turn, ())
    assert key(last_turn, [ANSWER]) != key(last_turn, [SYSTEM])
    assert key(
        last_turn, [Message("user", "x"), Message("assistant", "y"), Message("user", "z")]
    ) == key(last_turn, [Message("user", "z")])
    assert key(last_turn, ["a", "b"]) == key(last_turn, ["c", "b"])


# ignoring


def test_ignoring_leaves_out_params_by_name() -> None:
    function = ignoring("user", "metadata")
    assert (
        key(function, [ASK], model="m", user="a", metadata={"x": 1})
        == key(function, [ASK], model="m", user="b")
        == digest([ASK], {"model": "m"})
    )
    assert key(function, [ASK], model="m") != key(function, [ASK], model="n")


def test_ignoring_leaves_out_fields_of_messages() -> None:
    function = ignoring("messages[].id")
    assert key(function, [{**ASK, "id": "1"}], id=7) == digest([ASK], {"id": 7})
    assert key(function, [{**ASK, "content": [{"id": 1}]}]) != key(function, [ASK])


@pytest.mark.parametrize("names", [(), (1,), ("",), ("user", None), ("messages",)])
def test_ignoring_wants_names(names: Any) -> None:
    with pytest.raises(TypeError, match="ignoring"):
        ignoring(*names)


# masking


def test_masking_makes_matches_equal() -> None:
    function = masking(r"\d{4}-\d\d-\d\d")
    monday, tuesday = ([{**SYSTEM, "content": f"Today is 2026-01-0{day}."}, ASK] for day in (5, 6))
    assert key(function, monday, model="m") == key(function, tuesday, model="m")
    assert digest(monday, {}) != digest(tuesday, {})
    assert key(function, [*monday, MORE]) != key(function, monday)


def test_masking_reaches_messages_and_the_system_prompt() -> None:
    function = masking("[0-9]+")
    for n in (1, 2):
        assert key(
            function,
            [{"content": [{"text": f"a{n}", "deep": [{"x": (f"b{n}",)}]}]}],
            system=[{"text": f"c{n}"}],
            instructions=f"{n}",
        ) == key(
            function,
            [{"content": [{"text": "a9", "deep": [{"x": ["b9"]}]}]}],
            system=[{"text": "c9"}],
            instructions="9",
        )
    assert key(function, "at 10:00") == key(function, "at 11:11")
    assert key(function, [Message("user", "1")]) == key(function, [Message("user", "2")])


def test_masking_leaves_other_params_alone() -> None:
    assert key(masking("[0-9]"), [ASK], model="m1") != key(masking("[0-9]"), [ASK], model="m2")


def test_the_replacement_is_literal() -> None:
    assert masking("b", r"\1")("abc") == {"messages": r"a\1c"}


def test_masking_takes_a_compiled_pattern() -> None:
    assert masking(re.compile("B", re.IGNORECASE), "-")("abc") == {"messages": "a-c"}


@pytest.mark.parametrize("pattern", ["(", "[", "*"])
def test_a_bad_expression_is_told_at_once(pattern: str) -> None:
    with pytest.raises(ValueError, match="bad regular expression"):
        masking(pattern)


@pytest.mark.parametrize("arguments", [(1,), (b"x",), (re.compile(b"x"),), ("x", 1), (None,)])
def test_masking_wants_text(arguments: Any) -> None:
    with pytest.raises(TypeError):
        masking(*arguments)


# Together


def test_key_functions_chain() -> None:
    function = masking(r"\d", then=ignoring("user", then=last_turn))
    one = [{**SYSTEM, "content": "It is 1."}, ASK, ANSWER, MORE]
    other = [{**SYSTEM, "content": "It is 2."}, MORE]
    assert key(function, one, user="a", model="m") == key(function, other, user="b", model="m")
    assert key(function, one, model="m") != key(function, one, model="n")


def test_then_must_be_a_function() -> None:
    for make in (lambda: ignoring("a", then="last_turn"), lambda: masking("a", then=1)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="then="):
            make()


def test_a_non_request_is_still_rejected() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (cycle, {1, 2}, object(), float("nan"), "\ud800"):
        for function in (last_turn, ignoring("user", "messages[].id"), masking("x")):
            with pytest.raises(RequestNotCacheable):
                digest_of(function([{"content": value}], model="m"))


def test_a_key_function_may_return_any_json() -> None:
    for value in ("text", 1, None, ["a"], {"a": 1}, ("a", b"x")):
        assert len(digest_of(value)) == 64
    with pytest.raises(RequestNotCacheable):
        digest_of(object())
