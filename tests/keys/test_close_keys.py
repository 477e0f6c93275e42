"""Keys of requests that are close: ids of tool calls by place, spellings of the last question, and
key functions in a row."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import (
    LLMCache,
    RequestNotCacheable,
    compose,
    folding,
    ignoring,
    last_turn,
    masking,
    stable_ids,
)
from llm_cache_mem.keys.digest import digest, digest_of
from llm_cache_mem.keys.folding import folded_text

ASK = {"role": "user", "content": "Weather in Bern?"}


def key(function: Any, messages: Any, **params: Any) -> str:
    before = copy.deepcopy((messages, params))
    result = digest_of(function(messages, **params))
    assert (messages, params) == before, "the caller's objects were changed"
    return result


# -- stable_ids


def chat(*ids: str, results: tuple[str, ...] | None = None) -> list[Any]:
    function = {"name": "weather", "arguments": '{"id": "call_x"}'}
    calls = [{"id": one, "type": "function", "function": function} for one in ids]
    answers = [
        {"role": "tool", "tool_call_id": one, "content": "12"}
        for one in (ids if results is None else results)
    ]
    return [ASK, {"role": "assistant", "content": None, "tool_calls": calls}, *answers]


def anthropic(one: str) -> list[Any]:
    use = {"type": "tool_use", "id": one, "name": "weather", "input": {"id": "call_x"}}
    answer = {"type": "tool_result", "tool_use_id": one, "content": "12"}
    return [ASK, {"role": "assistant", "content": [use]}, {"role": "user", "content": [answer]}]


def responses(one: str) -> list[Any]:
    call = {"type": "function_call", "call_id": one, "name": "weather", "arguments": "{}"}
    return [ASK, call, {"type": "function_call_output", "call_id": one, "output": "12"}]


def gemini(one: str) -> list[Any]:
    call = {"functionCall": {"id": one, "name": "weather", "args": {}}}
    answer = {"functionResponse": {"id": one, "name": "weather", "response": {"output": "12"}}}
    return [ASK, {"role": "model", "parts": [call]}, {"role": "user", "parts": [answer]}]


def converse(one: str) -> list[Any]:
    use = {"toolUse": {"toolUseId": one, "name": "weather", "input": {}}}
    answer = {"toolResult": {"toolUseId": one, "content": [{"text": "12"}]}}
    return [ASK, {"role": "assistant", "content": [use]}, {"role": "user", "content": [answer]}]


@pytest.mark.parametrize("make", [chat, anthropic, responses, gemini, converse])
def test_ids_of_calls_count_by_their_place(make: Any) -> None:
    ids = ["call_1a", "toolu_2b", "pyd_ai_0f6", "lc_run--3", "fc-4", "7"]
    assert len({key(stable_ids, make(one), model="m") for one in ids}) == 1
    assert len({digest(make(one), {"model": "m"}) for one in ids}) == len(ids)


def test_which_result_is_of_which_call_still_counts() -> None:
    straight = key(stable_ids, chat("a", "b"))
    assert straight == key(stable_ids, chat("x", "y"))
    assert straight != key(stable_ids, chat("a", "b", results=("b", "a")))
    assert straight != key(stable_ids, chat("a", "b", results=("a",)))


def test_an_id_that_stands_in_one_place_stays() -> None:
    assert key(stable_ids, chat("a", results=())) != key(stable_ids, chat("b", results=()))
    assert key(stable_ids, chat("a", results=("x",))) != key(stable_ids, chat("a", results=("y",)))


@pytest.mark.parametrize(
    "more",
    [
        {"type": "reasoning", "id": "rs_{}"},
        {"type": "item_reference", "id": "msg_{}"},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-{}"}}]},
        {"role": "user", "content": "call {}"},
        {"role": "user", "content": [{"type": "server_tool_use", "id": "srvtoolu_{}"}]},
    ],
)
def test_server_references_are_unchanged(more: Any) -> None:
    one, other = (json.loads(json.dumps(more).replace("{}", x)) for x in "12")
    assert key(stable_ids, [*chat("a"), one]) != key(stable_ids, [*chat("a"), other])


def test_calls_in_odd_messages_are_found_and_the_rest_stays() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}  # without its type
    asked = {"role": "assistant", "tool_calls": ["x", {"type": "function", "id": 5}, call]}
    result = {"role": "tool", "tool_call_id": "c", "content": "12"}
    found = stable_ids(["hi", asked, {"role": "tool", "functionCall": "x"}, result])["messages"]
    numbered = [*asked["tool_calls"][:2], {**call, "id": 1}]
    assert found == [
        "hi",
        {**asked, "tool_calls": numbered},
        {"role": "tool", "functionCall": "x"},
        {**result, "tool_call_id": 1},
    ]


def test_text_and_arguments_that_hold_an_id_stay() -> None:
    function = {"name": "f", "arguments": '{"call": "a"}'}
    messages = chat("a")
    messages[1]["tool_calls"][0]["function"] = function
    found = stable_ids(messages)["messages"]
    assert found[1]["tool_calls"][0]["function"] == function
    assert found[1]["tool_calls"][0]["id"] == found[2]["tool_call_id"] == 1


def test_requests_without_calls_keep_their_default_key() -> None:
    assert key(stable_ids, [ASK], model="m") == digest([ASK], {"model": "m"})
    assert key(stable_ids, "hi") == digest("hi", {})


def test_requests_that_differ_in_more_than_ids_never_meet() -> None:
    """Random calls and results under few ids: two that meet are equal
    once their ids are renamed one to one."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    source = random.Random(seed)
    known: dict[str, Any] = {}
    names = ["1", "2", "a", "b"]
    for _ in range(5_000):
        ids = [source.choice(names) for _ in range(source.randint(1, 3))]
        results = tuple(source.choice(names) for _ in range(source.randint(0, 3)))
        matched = [one for one in dict.fromkeys(ids) if one in results]
        # a pattern of places: matched ids by where they first stand, others by name
        place = {one: ids.index(one) for one in matched}
        pattern = [[place.get(one, one) for one in part] for part in (ids, list(results))]
        made = key(stable_ids, chat(*ids, results=results))
        assert known.setdefault(made, pattern) == pattern


def test_the_vectors_with_tool_calls_meet() -> None:
    """As the page of the key contract has them."""
    data = Path(__file__).parents[1] / "data" / "key_vectors.json"
    vectors = {one["name"]: one for one in json.loads(data.read_text(encoding="utf-8"))}
    for name in ("tool call and result", "tool calls side by side"):
        request = dict(vectors[name]["request"])
        expected = vectors[f"{name}, stable_ids"]["digest"]
        assert key(stable_ids, request.pop("messages"), **request) == expected


# -- folding


@pytest.mark.parametrize(
    "spelling",
    ["weather in bern", "  Weather  in\nBern ?", "WEATHER IN BERN!", "Weather in Bern."],
)
def test_spellings_of_the_last_question_are_one(spelling: str) -> None:
    assert key(folding, [ASK], model="m") == key(
        folding, [{"role": "user", "content": spelling}], model="m"
    )


def test_unicode_forms_are_one() -> None:
    assert folded_text("Zu\u0308rich É") == folded_text("Z\u00fcrich E\u0301")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("```\nA\n```", "```\na\n```"),
        ("```\na  b", "```\na b"),
        ("what is `X`?", "what is `x`?"),
        ("what is `a  b`", "what is `a b`"),
        ("    A = 1", "    a = 1"),
        ('say "Hi"', 'say "hi"'),
        ('say "Hi?"', 'say "Hi"'),
        ("say “Hi”", "say “hi”"),
        ("say 'Hi' to", "say 'hi' to"),
        ("> Hi\nwhy", "> hi\nwhy"),
        ("> hi\nwhy", "> hi why"),
        ("x\n> y", "x > y"),
        ("open README.md", "open readme.md"),
        ("call getName", "call getname"),
        ("set MAX_SIZE", "set max_size"),
        ("wait...", "wait"),
        ("?", "!"),
        ("a b", "ab"),
    ],
)
def test_code_and_quoted_text_stay(one: str, other: str) -> None:
    assert folded_text(one) != folded_text(other)
    assert folded_text(folded_text(one)) == folded_text(one)


def test_earlier_turns_are_unchanged() -> None:
    system = {"role": "system", "content": "Be brief."}
    base = key(folding, [system, ASK, {"role": "assistant", "content": "12"}, ASK])
    for place in range(3):
        messages = [dict(system), dict(ASK), {"role": "assistant", "content": "12"}, dict(ASK)]
        messages[place]["content"] = messages[place]["content"].upper() + "!"
        assert key(folding, messages) != base


def test_the_question_is_folded_while_its_tools_run() -> None:
    louder = [{**ASK, "content": "WEATHER IN BERN"}]
    assert key(folding, chat("a")) == key(folding, louder + chat("a")[1:])
    assert key(folding, anthropic("a")) == key(folding, louder + anthropic("a")[1:])


def test_the_last_text_of_a_list_of_blocks_is_folded() -> None:
    image = {"type": "image_url", "image_url": {"url": "http://A"}}
    blocks = [{"type": "text", "text": "One?"}, image, {"type": "text", "text": "Two?"}]
    found = folding([{"role": "user", "content": blocks}])["folding"]["messages"][0]["content"]
    assert found == [blocks[0], image, {"type": "text", "text": "two"}]


@pytest.mark.parametrize("kind", [{}, {"type": "text"}, {"type": "input_text"}])
def test_only_blocks_of_text_are_folded(kind: dict[str, str]) -> None:
    document = {"type": "document", "text": "Two?"}
    blocks = [{**kind, "text": "One?"}, document, {"type": "text"}, "Three?"]
    found = folding([{"role": "user", "content": blocks}])["folding"]["messages"][0]["content"]
    assert found == [{**kind, "text": "one"}, *blocks[1:]]


@pytest.mark.parametrize(
    ("messages", "folded"),
    [
        ("Hi!", "hi"),
        (["Hi!"], ["hi"]),
        (None, None),
        ([{"role": "user", "content": "Hi!"}, 5], [{"role": "user", "content": "hi"}, 5]),
        ([{"role": "user", "content": None}], [{"role": "user", "content": None}]),
        ([{"role": "user", "content": [1]}], [{"role": "user", "content": [1]}]),
        ([{"role": "system", "content": "Hi!"}], [{"role": "system", "content": "Hi!"}]),
    ],
)
def test_messages_of_any_shape_can_be_folded(messages: Any, folded: Any) -> None:
    assert folding(messages)["folding"]["messages"] == folded


def test_a_folded_request_never_meets_one_with_another_key_function() -> None:
    assert key(folding, "hi") != digest("hi", {})


# -- compose


def test_key_functions_chain() -> None:
    both = compose(stable_ids, folding, ignoring("user"), masking(r"\d+"), last_turn)
    one = [{"role": "user", "content": "Old?"}, *chat("a")]
    other = [{**ASK, "content": "weather in BERN"}, *chat("b")[1:]]
    other[2] = {**other[2], "content": "13"}
    assert key(both, one, model="m", user="a") == key(both, other, model="m", user="b")
    assert key(both, one, model="m") != key(both, other, model="n")
    assert key(compose(last_turn, stable_ids), chat("a")) == key(
        compose(last_turn, stable_ids), chat("b")
    )


def test_the_last_function_may_return_anything() -> None:
    last = compose(folding, lambda messages, **params: messages[-1]["content"])
    assert last([ASK]) == {"folding": "weather in bern"}
    cache = LLMCache(key_fn=compose(lambda messages, **params: "x", folding))
    with pytest.raises(RequestNotCacheable):
        cache.get([ASK], model="m")


@pytest.mark.parametrize("functions", [(), ("x",), (folding, None)])
def test_compose_wants_key_functions(functions: Any) -> None:
    with pytest.raises(TypeError, match="compose"):
        compose(*functions)
