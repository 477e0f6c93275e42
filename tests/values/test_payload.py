"""A value at rest comes back equal, of the same type, and as an object of its own."""

import dataclasses
import enum
import io
import json
import math
import threading
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_cache_mem.errors import EntryUnreadable, ValueNotCacheable
from llm_cache_mem.values.classes import register
from llm_cache_mem.values.payload import Payload
from llm_cache_mem.values.vectors import packed, unpacked

MESSAGE = {
    "id": "msg_1",
    "content": [
        {"type": "text", "text": "Grüße 👋"},
        {"type": "tool_use", "input": {"city": "Paris", "days": [1, 2.5, None, True]}},
    ],
    "usage": {"input_tokens": 12, "output_tokens": 3},
}
settings.register_profile(
    "codec",
    derandomize=True,
    max_examples=250,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@register
@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    tags: tuple[str, ...] = ()


@register
@dataclasses.dataclass(slots=True)
class Slotted:
    inner: Point
    notes: list[str] = dataclasses.field(default_factory=list)


@register
class Pair(NamedTuple):
    left: Any
    right: Any


@register
class Colour(enum.StrEnum):
    RED = "red"


@register
class Level(enum.IntFlag):
    LOW = 1
    HIGH = 2


def restore(value: Any) -> list[Any]:
    """*value* after each way through the codec: memory, the persistent form, and both again."""
    resting = Payload.of(value)
    stored = Payload.from_json(Payload.of(value).json())
    return [payload.decode() for payload in (resting, stored) for _ in range(2)]


def same(one: Any, other: Any) -> bool:
    """Equality that also sees types, NaN, the sign of zero and the order of dicts."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(a, b) for a, b in zip(one.items(), other.items(), strict=True)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (set, frozenset)):
        return sorted(map(repr, one)) == sorted(map(repr, other))
    if dataclasses.is_dataclass(one):
        return all(
            same(getattr(one, field.name), getattr(other, field.name))
            for field in dataclasses.fields(one)
        )
    return bool(one == other) and getattr(one, "tzinfo", None) == getattr(other, "tzinfo", None)


text = st.text(st.characters(), max_size=8)  # lone surrogates too
keys = text | st.sampled_from(["$tuple", "$dict", "$model", "$", "$llm-cache-mem"])
json_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
json_values = st.recursive(
    json_leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)
offsets = st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))) | st.just(
    UTC
)
hashable = (
    json_leaves
    | st.floats()
    | st.binary(max_size=6)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.timedeltas()
    | st.datetimes(timezones=st.none() | offsets)
    | st.times()
    | st.sampled_from([Colour.RED, Level.HIGH])
    | st.builds(Point, st.integers(), st.tuples(text))
).filter(lambda value: value == value)
rich_values = st.recursive(
    hashable | st.floats() | st.decimals(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.builds(tuple, st.lists(inner, max_size=3))
        | st.sets(hashable, max_size=3)
        | st.frozensets(hashable, max_size=3)
        | st.builds(Pair, inner, inner)
        | st.builds(Slotted, st.builds(Point, st.integers()), st.lists(text, max_size=2))
    ),
    max_leaves=12,
)


@settings(settings.get_profile("codec"))
@given(json_values)
def test_every_json_value_comes_back(value: Any) -> None:
    assert all(same(value, back) for back in restore(value))


@settings(settings.get_profile("codec"))
@given(rich_values)
def test_every_rich_value_comes_back(value: Any) -> None:
    assert all(same(value, back) for back in restore(value))


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        [],
        {},
        0,
        -0.0,
        10**599,
        5e-324,
        math.inf,
        math.nan,
        {"$tuple": [1]},
        {"$llm-cache-mem": 1},
        {"$llm-cache-mem": 1, "b": 2},
        {1: "a", "1": "b", None: "c", (1, 2): "d", 1.5: "e"},
        {True: 1},
        {1.0: 1},
        "\ud83d",
        "\ud83d\ude00",
        {"\ud83d\ude00": 1, "😀": 2},
        datetime(2026, 1, 1, 12, fold=1),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30), "IST")),
        time(1, 2, 3, 4, tzinfo=UTC),
        date(1, 1, 1),
        timedelta(days=-1, microseconds=1),
        Decimal("1.500"),
        Decimal("-0"),
        Decimal("NaN"),
        UUID(int=5),
        b"\x00\xff",
        frozenset({1, 2}),
        Pair(1, [Pair(2, ())]),
        Slotted(Point(1), ["a"]),
        Colour.RED,
    ],
    ids=repr,
)
def test_a_corner_case_comes_back(value: Any) -> None:
    assert all(same(value, back) for back in restore(value))


def test_the_name_of_a_time_zone_comes_back() -> None:
    value = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET"))
    assert {back.tzname() for back in restore(value)} == {"CET"}


def test_plain_json_is_stored_as_itself() -> None:
    assert json.loads(Payload.of(MESSAGE).json()) == MESSAGE


def test_a_set_is_the_same_bytes_in_any_order() -> None:
    assert (
        Payload.of({"s": {"a", "b", "c"}}).json()
        == b'{"$llm-cache-mem":{"s":{"$set":["a","b","c"]}}}'
    )


def test_a_payload_is_a_snapshot() -> None:
    value = {"a": [1]}
    payload = Payload.of(value)
    value["a"].append(2)
    assert payload.decode() == {"a": [1]}


@pytest.mark.parametrize(
    "value",
    [MESSAGE, {"m": [Pair(1, [2]), {"k": {3}}]}, [Slotted(Point(1), ["a"])]],
    ids=["plain", "rich", "slots"],
)
def test_changing_one_answer_changes_no_other(value: Any) -> None:
    for payload in (Payload.of(value), Payload.from_json(Payload.of(value).json())):
        for _ in range(4):
            found = payload.decode()
            assert found == value
            _ruin(found)


def _ruin(value: Any) -> None:
    """Change everything in *value* that can be changed."""
    if isinstance(value, dict):
        for item in value.values():
            _ruin(item)
        value.clear()
    elif isinstance(value, (list, tuple)):
        for item in value:
            _ruin(item)
        if isinstance(value, list):
            value.append("ruined")
    elif isinstance(value, set):
        value.clear()
    elif isinstance(value, Slotted):
        _ruin(value.notes)


def test_threads_may_share_a_payload() -> None:
    payload, wrong = Payload.of(MESSAGE), []

    def read() -> None:
        for _ in range(300):
            found = payload.decode()
            if found != MESSAGE:
                wrong.append(found)
            _ruin(found)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Unknown:
    pass


@dataclasses.dataclass
class Unregistered:
    x: int = 1


class MyStr(str):
    pass


@pytest.mark.parametrize(
    "part",
    [
        Unknown(),
        Unregistered(),
        MyStr("a"),
        True.__class__,
        len,
        lambda: 1,
        io.StringIO(),
        iter([]),
        (n for n in [1]),
        ValueError("x"),
        object(),
        bytearray(b"x"),
        memoryview(b"x"),
        1j,
        range(3),
        ...,
        10**600,
        Level.LOW | Level.HIGH,
        datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")),
        object.__new__(Slotted),
    ],
    ids=lambda part: type(part).__name__,
)
def test_an_unrestorable_value_is_rejected_with_its_path(part: Any) -> None:
    with pytest.raises(ValueNotCacheable) as caught:
        Payload.of({"choices": [1, {"message": part}]})
    assert caught.value.path == "value.choices[1].message"
    assert caught.value.reason


def test_a_refusal_quotes_no_content() -> None:
    with pytest.raises(ValueNotCacheable) as caught:
        Payload.of({"a secret prompt": {"ok": [MyStr("a secret answer")]}})
    assert (
        str(caught.value)
        == "value not cacheable at value[…].ok[0]: a MyStr would not come back equal; a dataclass"
        " or pydantic model does, once registered"
    )


def test_an_unregistered_class_error_says_how_to_register() -> None:
    with pytest.raises(ValueNotCacheable, match=r"llm_cache_mem\.register\(Unregistered\)"):
        Payload.of(Unregistered())


@pytest.mark.parametrize(
    "wrap", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: (inner,)]
)
@pytest.mark.parametrize("depth", [101, 3_000])
def test_too_deep_is_refused(wrap: Any, depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    with pytest.raises(ValueNotCacheable, match="deep"):
        Payload.of(value)


def test_a_hundred_levels_come_back() -> None:
    value: Any = "x"
    for _ in range(100):
        value = Pair(value, 0)
    assert all(back == value for back in restore(value))


def test_a_cycle_is_refused() -> None:
    value: Any = {"a": []}
    value["a"].append(value)
    with pytest.raises(ValueNotCacheable, match="circular"):
        Payload.of(value)


def test_shared_parts_cannot_multiply_without_end() -> None:
    value: Any = ["x"]
    for _ in range(60):
        value = [value, value]
    with pytest.raises(ValueNotCacheable, match="parts"):
        Payload.of(value)


def test_shared_parts_come_back_as_parts_of_their_own() -> None:
    part = [1]
    for back in restore({"a": part, "b": part}):
        assert back == {"a": [1], "b": [1]}
        assert back["a"] is not back["b"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"nul",
        b"[1] [2]",
        b"\xff\xfe",
        b"NaN",
        b'{"a": Infinity}',
        b'{"a": 1, "a": 2}',
        b'"\xed\xa0\xbd"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 1_000_000,
        b'{"$llm-cache-mem":{"$unknown":1}}',
        b'{"$llm-cache-mem":{"$tuple":1}}',
        b'{"$llm-cache-mem":{"$dict":[[[],1]]}}',
        b'{"$llm-cache-mem":{"$dict":[[1,1],[1,2]]}}',
        b'{"$llm-cache-mem":{"$float":"1.5"}}',
        b'{"$llm-cache-mem":{"$bytes":"!"}}',
        b'{"$llm-cache-mem":{"$datetime":["2026-01-01",0,[]]}}',
        b'{"$llm-cache-mem":{"$decimal":"abc"}}',
        b'{"$llm-cache-mem":{"$model":["os:system",{},null,null,{},[],[]]}}',
        b'{"$llm-cache-mem":{"$enum":["anthropic.types.message:Message","x"]}}',
    ],
    ids=lambda data: data[:30],
)
def test_bytes_that_are_no_value_of_ours_are_unreadable(data: bytes) -> None:
    with pytest.raises(EntryUnreadable):
        Payload.from_json(data).decode()


def test_an_error_of_unreadable_bytes_holds_none_of_them() -> None:
    with pytest.raises(EntryUnreadable) as caught:
        Payload.from_json(b'{"secret": nope}').decode()
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_size_is_the_bytes_at_rest() -> None:
    assert Payload.from_json(b"[1]").size == 3
    assert 100_000 <= Payload.of("x" * 100_000).size <= 100_010


@pytest.mark.parametrize("text", ["AAAAAAAA", "AAB=", "AAAA=", "A", "", "AA=A", "=="])
def test_a_value_that_looks_like_a_vector_comes_back_equal_beside_vectors(text: str) -> None:
    value = {"$vector": ["f", text], "v": [0.25] * 17, "text": f'"$vector":["f","{text}"]'}
    packed_value = Payload.packed(packed(value))
    for payload in (packed_value, Payload.from_json(packed_value.to_bytes())):
        assert unpacked(payload.decode()) == value


STORED = {
    '{"$bytes":"YQ=="}': b"a",
    '{"$datetime":["2020-01-02T03:04:05",1,[{"$timedelta":[0,3600,0]}]]}': datetime(
        2020, 1, 2, 3, 4, 5, fold=1, tzinfo=timezone(timedelta(hours=1))
    ),
    '{"$datetime":["2020-01-02T00:00:00",0,null]}': datetime(2020, 1, 2),
    '{"$time":["01:02:00",0,null]}': time(1, 2),
    '{"$date":"2020-01-02"}': date(2020, 1, 2),
    '{"$timedelta":[1,2,3]}': timedelta(1, 2, 3),
    '{"$decimal":"1.00"}': Decimal("1.00"),
    '{"$uuid":"00000000-0000-0000-0000-000000000001"}': UUID(int=1),
    '{"$tuple":[1,"a"]}': (1, "a"),
    '{"$set":[1]}': {1},
    '{"$frozenset":[1]}': frozenset({1}),
    '{"$dict":[[1,"a"]]}': {1: "a"},
    '{"$float":"inf"}': math.inf,
    '{"$str":"7aCA"}': "\ud800",
}


@pytest.mark.parametrize(("text", "value"), STORED.items(), ids=list(STORED))
def test_the_stored_form_stays_the_same(text: str, value: Any) -> None:
    stored = f'{{"$llm-cache-mem":{text}}}'.encode()
    assert Payload.of(value).json() == stored
    found = Payload.from_json(stored).decode()
    assert (found, type(found)) == (value, type(value))
