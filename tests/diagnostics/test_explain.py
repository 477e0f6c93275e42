"""A miss explains itself: the nearest stored request, each field that differs, nothing secret, and
quickly enough."""

import json
import pickle
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_cache_mem import CacheMissError, LLMCache, RequestNotCacheable, last_turn, masking, options
from llm_cache_mem.diagnostics.differences import ABSENT, Difference, differences
from llm_cache_mem.diagnostics.explain import StoredRequest, explain
from llm_cache_mem.stores import MemoryStore
from llm_cache_mem.stores.jsonl import JsonlStore
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

SYSTEM = {"role": "system", "content": "You are a helpful assistant who answers in one sentence."}
QUESTION = {
    "role": "user",
    "content": "Who wrote the Air on the G String, and when was it written?",
}
MESSAGES = [SYSTEM, QUESTION]


def keeping(**settings: Any) -> LLMCache:
    return LLMCache(keep_requests=True, **settings)


def changed(**params: Any) -> list[str]:
    """What a cache that knows one request says of another."""
    cache = keeping()
    cache.put(MESSAGES, "Bach", model="m-1", temperature=0)
    messages = params.pop("messages", MESSAGES)
    found = cache.explain(messages, **({"model": "m-1", "temperature": 0} | params))
    assert found.nearest is not None
    return [str(difference) for difference in found.differences]


# -- What differs


def test_a_param() -> None:
    assert changed(temperature=0.2) == ["temperature: 0 → 0.2"]


def test_a_new_and_a_removed_field() -> None:
    cache = keeping()
    cache.put(MESSAGES, "Bach", model="m", top_p=0.9)
    found = cache.explain(MESSAGES, model="m", seed=None)
    assert sorted(map(str, found.differences)) == ["seed: absent → null", "top_p: 0.9 → absent"]
    assert found.as_dict()["differences"] == [
        {"path": "top_p", "stored": 0.9},
        {"path": "seed", "asked": None},
    ]


def test_one_one_point_zero_and_true_are_different() -> None:
    assert changed(temperature=0.0) == ["temperature: 0 → 0.0"]
    assert changed(temperature=False) == ["temperature: 0 → false"]


def test_the_text_of_a_message_with_the_place_in_sight() -> None:
    text = "x" * 500 + " it is 10:31 now, on a fine day. " + "y" * 500
    cache = keeping()
    cache.put([SYSTEM, {"role": "user", "content": text}], "Bach")
    (difference,) = cache.explain(
        [SYSTEM, {"role": "user", "content": text.replace("10:31", "10:47")}]
    ).differences
    assert difference.path == "messages[1].content"
    shown = str(difference)
    assert re.search(r'"….*is 10:31 now.*…" → "….*is 10:47 now.*…"', shown)
    assert len(shown) < 200


def test_a_text_that_grew_at_its_end_or_was_cut() -> None:
    longer = [SYSTEM, QUESTION | {"content": QUESTION["content"] + " Answer in French."}]
    assert changed(messages=longer) == [
        'messages[1].content: "…and when was it written?" → "…and when was it written? Answer in'
        ' French."'
    ]
    assert changed(messages=[SYSTEM | {"content": ""}, QUESTION])[0].endswith('→ ""')


def test_unrelated_long_texts_are_truncated() -> None:
    (shown,) = changed(messages=[SYSTEM, QUESTION | {"content": "z" * 5000}])
    assert len(shown) < 350


def test_an_inserted_message_only_moves_the_others() -> None:
    hello = {"role": "user", "content": "Hello"}
    assert changed(messages=[SYSTEM, hello, QUESTION]) == [
        'messages[1]: absent → {"content": "Hello", "role": "user"}'
    ]
    assert changed(messages=[QUESTION])[0].startswith("messages[0]: {")
    assert changed(messages=[*MESSAGES, hello]) == [
        'messages[2]: absent → {"content": "Hello", "role": "user"}'
    ]


def test_a_tool_deep_inside() -> None:
    def tool(kind: str) -> list[Any]:
        return [{"function": {"name": "f", "parameters": {"properties": {"x": {"type": kind}}}}}]

    cache = keeping()
    cache.put(MESSAGES, "Bach", tools=tool("string"))
    assert list(map(str, cache.explain(MESSAGES, tools=tool("integer")).differences)) == [
        'tools[0].function.parameters.properties.x.type: "string" → "integer"'
    ]


def test_an_id_in_a_call_and_its_result_is_one_difference() -> None:
    def agent(known_as: str) -> list[Any]:
        call = {"id": known_as, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        asked = {"role": "assistant", "content": None, "tool_calls": [call]}
        return [QUESTION, asked, {"role": "tool", "tool_call_id": known_as, "content": "12"}]

    cache = keeping()
    cache.put(agent("pyd_ai_1"), "Bach", model="m")
    cache.put(agent("pyd_ai_2"), "Bach", model="m", seed=1)
    found = cache.explain(agent("pyd_ai_2"), model="m")  # as near to it is the one with a seed
    assert [difference.path for difference in found.differences] == ["messages[1].tool_calls[0].id"]


@pytest.mark.parametrize("prefix", ["pyd_ai_", "call_", "toolu_", "lc_run--", "any-"])
def test_another_question_is_farther_than_any_number_of_ids(prefix: str) -> None:
    def agent(question: str, made: str) -> list[Any]:
        found: list[Any] = [{"role": "user", "content": question}]
        for number in range(5):
            known_as = f"{prefix}{made}{number}"
            call = {"id": known_as, "type": "function", "function": {"name": "f"}}
            found.append({"role": "assistant", "tool_calls": [call]})
            found.append({"role": "tool", "tool_call_id": known_as, "content": f"{number}"})
        return found

    cache = keeping()
    cache.put(agent("Weather in Paris?", "a"), "rain", model="m")
    cache.put(agent("Weather in Rome?", "b"), "sun", model="m")
    found = cache.explain(agent("Weather in Paris?", "b"), model="m")
    assert found.nearest is not None
    assert found.nearest.endswith(cache.key(agent("Weather in Paris?", "a"), model="m"))
    assert len(found.differences) == 5


def test_differences_of_the_body_come_before_those_of_http() -> None:
    cache = keeping()
    cache.put(MESSAGES, "Bach", **{"http.path": "/v1", "model": "m", "temperature": 0})
    found = cache.explain(MESSAGES, model="m", temperature=1, stream=True).differences
    assert [one.path for one in found] == ["temperature", "stream", "http.path", "kind of entry"]


def test_marks_of_dependencies_are_not_counted() -> None:
    cache = LLMCache()
    with options(depends_on="doc:handbook"):
        cache.get_or_call(MESSAGES, lambda **asked: "Bach", model="m")
    assert cache.explain(MESSAGES, model="n").stored == 1


def test_the_kind_of_entry_and_the_sample() -> None:
    cache = keeping()
    cache.put(MESSAGES, "Bach", model="m")
    with options(sample=2):
        assert list(map(str, cache.explain(MESSAGES, model="m").differences)) == ["sample: 0 → 2"]
    found = cache.explain(MESSAGES, model="m", stream=True)
    assert list(map(str, found.differences)) == [
        "stream: absent → true",
        'kind of entry: "value" → "stream"',
    ]


def test_only_fields_in_the_key_count() -> None:
    cache = keeping(key_fn=masking(r"\d\d:\d\d"))
    cache.put([{"role": "system", "content": "It is 10:31."}, QUESTION], "Bach", model="m")
    found = cache.explain([{"role": "system", "content": "It is 10:47."}, QUESTION], model="n")
    assert list(map(str, found.differences)) == ['model: "m" → "n"']
    cache = keeping(key_fn=last_turn)
    cache.put([{"role": "user", "content": "Hi"}, QUESTION], "Bach", model="m")
    assert [difference.path for difference in cache.explain([QUESTION], model="n").differences] == [
        "last_turn.model"
    ]


def test_a_redacted_difference_is_reported_as_redacted() -> None:
    cache = keeping(redact=["user"])
    cache.put(MESSAGES, "Bach", user="Ann")
    found = cache.explain(MESSAGES, user="Bob")
    assert (found.differences, found.state) == ((), "absent")
    assert "redacted" in str(found)
    assert "Ann" not in str(found) + str(found.as_dict())
    assert "Bob" not in str(found) + str(found.as_dict())


def test_secrets_that_were_stored_as_they_are_are_not_quoted() -> None:
    """As in recordings that an older version or another program wrote."""

    def request(text: str) -> bytes:
        return json.dumps({"messages": [{"content": text, "role": "user"}], "n": 1}).encode()

    secret = "sk-proj-Zq81kPjV3mXw7TbN2cYe"
    asked, stored = (
        StoredRequest(f"1::value:{number}", "value", 0, request(text))
        for number, text in enumerate(["tell me a joke", f"tell me about {secret}"])
    )
    for one, other in ((asked, stored), (stored, asked)):
        found = explain(one, [other])
        assert "tell me" in str(found)
        assert secret not in f"{found} {found!r} {found.as_dict()} {found._repr_html_()}"


def test_nothing_secret_is_quoted() -> None:
    secret = "sk-proj-Zq81kPjV3mXw7TbN2cYe"
    cache = keeping()
    cache.put(MESSAGES, "Bach", model="m", extra_headers={"authorization": "CANARY"})
    found = cache.explain(
        [SYSTEM, {"role": "user", "content": f"key {secret}"}],
        model="m",
        extra_headers={"authorization": "CANARY2"},
    )
    assert secret not in f"{found} {found!r} {found.as_dict()}"
    assert "CANARY" not in f"{found} {found!r} {found.as_dict()}"


def test_output_is_safe_for_a_terminal() -> None:
    shown = str(Difference("messages[0].content", "a\x1b[31m\x9b\u202e\u2028", "b\r\n"))
    assert shown.isprintable()


# -- Which is nearest


def nearest(asked: dict[str, Any], *stored: dict[str, Any]) -> int:
    listed = [
        StoredRequest(str(number), "value", 0, json.dumps(request).encode())
        for number, request in enumerate(stored)
    ]
    found = explain(StoredRequest("asked", "value", 0, json.dumps(asked).encode()), listed)
    assert found.nearest is not None
    return int(found.nearest)


def test_another_model_is_nearer_than_another_question() -> None:
    other = {"role": "user", "content": "What is the boiling point of water at sea level?"}
    asked = {"messages": MESSAGES, "model": "a", "temperature": 0}
    assert (
        nearest(
            asked,
            asked | {"messages": [SYSTEM, other]},
            asked | {"model": "b", "temperature": 1, "top_p": 1},
        )
        == 1
    )


def test_a_changed_word_is_nearer_than_two_params() -> None:
    asked = {"messages": MESSAGES, "model": "a", "temperature": 0}
    reworded = [
        SYSTEM,
        QUESTION | {"content": str(QUESTION["content"]).replace("wrote", "composed")},
    ]
    assert (
        nearest(asked, asked | {"model": "b", "temperature": 1}, asked | {"messages": reworded})
        == 1
    )


def test_the_same_kind_goes_first() -> None:
    request = json.dumps({"messages": MESSAGES, "temperature": 0}).encode()
    asked = StoredRequest(
        "asked", "value", 0, json.dumps({"messages": MESSAGES, "temperature": 1}).encode()
    )
    found = explain(
        asked,
        [
            StoredRequest("s", "stream", 0, request),
            StoredRequest("v", "value", 0, request),
            StoredRequest("s2", "stream", 0, request),
        ],
    )
    assert found.nearest == "v"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(one=json_values, other=json_values)
def test_there_are_differences_exactly_where_the_json_differs(one: Any, other: Any) -> None:
    found = list(differences(one, other))
    assert bool(found) == (
        json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True)
        and "[redacted]" not in (one, other)
    )
    assert list(differences(one, one)) == []
    assert all(
        len(str(difference).splitlines()) == 1
        for difference in found
        if difference.path.isprintable()
    )


# -- What it says when there is nothing to compare


def test_nothing_is_stored() -> None:
    assert str(keeping().explain(MESSAGES)) == "nothing is stored in this namespace yet"


def test_no_request_is_stored() -> None:
    cache = LLMCache()
    cache.put(MESSAGES, "Bach")
    cache.put(QUESTION["content"], "Bach")
    assert (
        str(cache.explain(MESSAGES, model="m"))
        == "no entry (of 2) has its request stored: LLMCache(keep_requests=True) stores"
        " requests"
    )


def test_other_namespaces_are_not_quoted() -> None:
    store = MemoryStore()
    keeping(backend=store, namespace="acme").put([{"role": "user", "content": "CANARY"}], "Bach")
    assert "CANARY" not in str(
        keeping(backend=store).explain([{"role": "user", "content": "CANARI"}])
    )


def test_a_request_that_would_hit_and_one_that_is_too_old(clock: Any) -> None:
    cache = keeping(ttl_seconds=10, clock=clock)
    cache.put(MESSAGES, "Bach")
    assert cache.explain(MESSAGES).state == "fresh"
    clock.advance(11)
    found = cache.explain(MESSAGES)
    assert (found.state, str(found).partition(":")[0]) == (
        "expired",
        "it is stored, but too old for this cache",
    )
    assert cache.stats().misses == cache.stats().expirations == 0


def test_a_request_without_a_key_is_refused() -> None:
    with pytest.raises(RequestNotCacheable):
        keeping().explain([{"role": "user", "content": float("nan")}])


async def test_it_can_be_awaited(tmp_path: Path) -> None:
    cache = LLMCache(backend=tmp_path / "llm.jsonl")
    cache.put(MESSAGES, "Bach", model="m")
    assert (await cache.aexplain(MESSAGES, model="n")).differences == (
        Difference("model", "m", "n"),
    )


def test_an_explanation_can_be_pickled() -> None:
    cache = keeping()
    cache.put(MESSAGES, "Bach", model="m")
    found = cache.explain(MESSAGES)
    assert found.differences == (Difference("model", "m", ABSENT),)
    assert pickle.loads(pickle.dumps(found)) == found


# -- In replay


def test_the_error_explains_from_stored_requests(tmp_path: Path) -> None:
    LLMCache(backend=tmp_path / "llm.jsonl").put(MESSAGES, "Bach", model="m", temperature=0)
    cache = LLMCache(backend=tmp_path / "llm.jsonl", mode="replay")
    with pytest.raises(CacheMissError) as caught:
        cache.get_or_call(MESSAGES, pytest.fail, model="m", temperature=0.2)
    assert "temperature: 0 → 0.2" in str(caught.value)
    assert caught.value.explanation.differences == (Difference("temperature", 0, 0.2),)  # type: ignore[attr-defined]
    assert "temperature" not in repr(caught.value)  # which may be logged
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_the_error_quotes_nothing_without_stored_requests() -> None:
    cache = LLMCache(mode="replay")
    with pytest.raises(CacheMissError) as caught:
        cache.get([{"role": "user", "content": "CANARY"}])
    assert "CANARY" not in str(caught.value)
    assert caught.value.explanation is None


async def test_async_calls_and_streams_raise_it_too(tmp_path: Path) -> None:
    LLMCache(backend=tmp_path / "llm.jsonl").put(MESSAGES, "Bach", model="m")
    cache = LLMCache(backend=tmp_path / "llm.jsonl", mode="replay")
    with pytest.raises(CacheMissError, match='model: "m" → "n"'):
        await cache.aget_or_call(MESSAGES, pytest.fail, model="n")
    with pytest.raises(CacheMissError, match="stream: absent → true"):
        cache.get_or_call(MESSAGES, pytest.fail, model="m", stream=True)


def test_an_unreadable_recording_is_reported_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "llm.jsonl"
    LLMCache(backend=path).put("q", "CANARY")
    path.write_text(
        path.read_text().replace('"CANARY"', '{"$llm-cache-mem": {"$unheard": "CANARY"}}')
    )
    before = path.read_bytes()
    said = (
        r"recorded in .*llm.jsonl for 1::value:\w{64} cannot be read here: a tag that this version"
        r" does not know; record it again"
    )
    with pytest.raises(CacheMissError, match=said) as caught:
        LLMCache(backend=path, mode="replay").get("q")
    assert "CANARY" not in str(caught.value)
    assert LLMCache(backend=path).get("q") is None
    assert LLMCache(backend=path).explain("q").state == "unreadable"
    assert path.read_bytes() == before


def test_a_replay_from_a_database_removes_nothing(tmp_path: Path) -> None:
    cache = LLMCache(backend=tmp_path / "cache.db")
    cache.put("q", (1, 2))
    ((key, entry),) = cache.engine.entries()
    cache.engine.backend.put(
        key, Entry(Payload.from_json(b'{"$llm-cache-mem": {"$tuple": 5}}'), entry.stored_at)
    )
    with options(mode="replay"), pytest.raises(CacheMissError, match="cannot be read here"):
        cache.get("q")
    assert cache.stats().size == 1
    cache.close()


def test_10_000_recordings_are_searched_in_seconds(tmp_path: Path) -> None:
    def request(number: int) -> dict[str, Any]:
        words = " ".join(f"word{number * 7 + place}" for place in range(200))
        return {
            "messages": [SYSTEM, {"role": "user", "content": f"{words} tell me"}],
            "model": "m",
            "temperature": 0,
        }

    path = tmp_path / "llm.jsonl"
    with path.open("w") as file:
        for number in range(10_000):
            print(
                json.dumps(
                    {"key": f"1::value:{number:064}", "request": request(number), "answer": "a"}
                ),
                file=file,
            )
    cache = LLMCache(backend=JsonlStore(path), mode="replay")
    asked = request(7_654)
    began = time.perf_counter()
    with pytest.raises(CacheMissError, match="temperature: 0 → 1") as caught:
        cache.get(asked["messages"], model="m", temperature=1)
    print(f"searched in {time.perf_counter() - began:.2f} s")
    assert caught.value.explanation.nearest == f"1::value:{7_654:064}"  # type: ignore[attr-defined]
    assert time.perf_counter() - began < 10
