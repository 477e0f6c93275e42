"""The key contract: the published formula for plain JSON, the wire form beyond it."""

import contextlib
import copy
import dataclasses
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import threading
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pydantic
import pytest

from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys.digest import (
    DEFAULT_IGNORE,
    MAX_DEPTH,
    canonical,
    digest,
    digest_of,
    namespace_prefix,
    parse,
    place_of,
    prefix,
)

VECTORS = json.loads(
    (Path(__file__).parents[1] / "data" / "key_vectors.json").read_text(encoding="utf-8")
)
TEXT = [{"role": "user", "content": "hi"}]


def formula(messages: Any, params: dict[str, Any]) -> str:
    """The published contract, word for word."""
    return hashlib.sha256(
        json.dumps({"messages": messages, **params}, sort_keys=True).encode()
    ).hexdigest()


def key(value: Any) -> str:
    """The digest of a request with *value* somewhere inside."""
    return digest([{"role": "user", "content": value}], {"model": "m"})


# The formula


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    params = copy.deepcopy(vector["request"])
    messages = params.pop("messages")
    for _ in range(2):  # first sight, then from the memo
        assert digest(messages, params) == vector["digest"] == formula(messages, params)
    assert digest_of(vector["request"]) == vector["digest"]
    assert hashlib.sha256(canonical(messages, params).encode()).hexdigest() == vector["digest"]
    if "canonical" in vector:
        assert canonical(messages, params) == vector["canonical"]


def test_there_are_enough_vectors_and_no_two_are_the_same() -> None:
    assert len(VECTORS) >= 60
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS)


def test_order_of_keys_and_params_does_not_matter() -> None:
    rnd = random.Random(7)

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = list(value.items())
            rnd.shuffle(items)
            return {name: shuffled(item) for name, item in items}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    for vector in VECTORS:
        for _ in range(5):
            params = shuffled(vector["request"])
            assert digest(params.pop("messages"), params) == vector["digest"]


PROGRAM = """
import json, sys
from llm_cache_mem.keys.digest import digest, digest_of
class Colour(str): pass
requests = json.load(open(sys.argv[1], encoding="utf-8"))
for r in requests:
    r = r["request"]; m = r.pop("messages"); print(digest(m, r))
print(digest([{Colour("a"): b"x", 10: 1, 2: 2}], {}))
"""


def test_digests_depend_on_neither_hash_seed_nor_process() -> None:
    outputs = set()
    for seed in ("0", "1", "4711"):
        command = [
            sys.executable,
            "-c",
            PROGRAM,
            str(Path(__file__).parents[1] / "data" / "key_vectors.json"),
        ]
        root = str(Path(__file__).resolve().parents[2])
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": root},
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert outputs.pop().split()[:-1] == [vector["digest"] for vector in VECTORS]


# What counts as plain JSON


class Colour(Enum):
    RED = "red"
    NESTED = ("a", 1)


class Name(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


class LoudStr(str):
    def __str__(self) -> str:
        return "LOUD"


@dataclasses.dataclass
class Block:
    type: str
    text: str


Pair = namedtuple("Pair", "a b")

SAME_ON_THE_WIRE = [
    ("tuple", (1, "a"), [1, "a"]),
    ("namedtuple", Pair(1, 2), [1, 2]),
    ("deque", deque([1, 2], maxlen=2), [1, 2]),
    ("empty tuple", (), []),
    ("OrderedDict", OrderedDict(b=1, a=2), {"a": 2, "b": 1}),
    ("defaultdict", defaultdict(list, a=[1]), {"a": [1]}),
    ("UserDict", UserDict(a=1), {"a": 1}),
    ("mappingproxy", MappingProxyType({"a": 1}), {"a": 1}),
    ("Enum", Colour.RED, "red"),
    ("Enum of a tuple", Colour.NESTED, ["a", 1]),
    ("StrEnum", Name.RED, "red"),
    ("IntEnum", Number.ONE, 1),
    ("str subclass", LoudStr("quiet"), "quiet"),
    ("dataclass", Block("text", "hi"), {"type": "text", "text": "hi"}),
    ("list of dataclasses", [Block("text", "hi")], [{"type": "text", "text": "hi"}]),
    ("int key", {1: "x"}, {"1": "x"}),
    ("int keys sort as strings", {2: "x", 10: "y"}, {"10": "y", "2": "x"}),
    ("mixed keys", {1: "x", "a": "y", None: "z"}, {"1": "x", "a": "y", "null": "z"}),
    ("bool and None keys", {True: 1, False: 2, None: 3}, {"true": 1, "false": 2, "null": 3}),
    ("float key", {1.0: "x"}, {"1.0": "x"}),
    ("enum key", {Name.RED: 1, Number.ONE: 2}, {"red": 1, "1": 2}),
]


@pytest.mark.parametrize(
    ("value", "wire"),
    [row[1:] for row in SAME_ON_THE_WIRE],
    ids=[row[0] for row in SAME_ON_THE_WIRE],
)
def test_counts_as_its_wire_form(value: Any, wire: Any) -> None:
    assert key(value) == key(wire) == formula([{"role": "user", "content": wire}], {"model": "m"})
    assert digest(TEXT, {"p": value}) == formula(TEXT, {"p": wire})


DIFFERENT_ON_THE_WIRE = [
    (1, 1.0),
    (1, True),
    (0, False),
    (0.0, -0.0),
    (None, "null"),
    (None, False),
    ("1", 1),
    ("a", ["a"]),
    ([], {}),
    ("", None),
    ("é", "e\u0301"),  # NFC and NFD are different text
    (b"x", "x"),
    (b"x", "eA=="),
    (b"x", {"$llm_cache_mem": ["bytes", "eA=="]}),
    (b"x", b"y"),
    (1e16, 10**16),
    (10**30, 1e30),
    ({"a": None}, {}),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT_ON_THE_WIRE)
def test_different_on_the_wire_is_another_key(one: Any, other: Any) -> None:
    for _ in range(2):
        assert key(one) != key(other)
        assert digest(TEXT, {"p": one}) != digest(TEXT, {"p": other})
        assert digest([{"c": one}, *TEXT], {}) != digest([{"c": other}, *TEXT], {})


def typed_values() -> dict[str, Any]:
    import datetime as dt
    import decimal
    import uuid

    return {
        "bytes": b"2020-01-01",
        "str": "2020-01-01",
        "date": dt.date(2020, 1, 1),
        "datetime": dt.datetime(2020, 1, 1),
        "aware": dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        "time": dt.time(1, 2),
        "decimal": decimal.Decimal("1.0"),
        "decimal 1.00": decimal.Decimal("1.00"),
        "float": 1.0,
        "uuid": uuid.UUID(int=1),
        "secret": pydantic.SecretStr("a"),
        "another secret": pydantic.SecretStr("b"),
        "secret bytes": pydantic.SecretBytes(b"c"),
        "uuid text": str(uuid.UUID(int=1)),
        "uuid hex": uuid.UUID(int=1).hex,
    }


def test_values_without_a_json_form_have_keys_of_their_own() -> None:
    values = typed_values()
    assert len({key(value) for value in values.values()}) == len(values)
    assert all(key(value) == key(copy.deepcopy(value)) for value in values.values())


def test_bytes_by_any_name_are_the_same() -> None:
    assert key(b"abc") == key(bytearray(b"abc")) == key(memoryview(b"abc"))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("messages", ["hi", [("hi", 1)], {"$ref": 1}, [b"x"]])
def test_a_request_made_by_a_key_function_has_its_own_key(messages: Any, exact: bool) -> None:
    made = {"messages": messages, "model": ("m", 1)}
    params = {"model": ("m", 1)}
    assert digest_of(made, exact=exact) == digest(messages, params, exact=exact)
    assert made == {"messages": messages, **params}


def test_a_tagged_request_equals_no_plain_one() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(canonical([{"c": b"x"}], {}))


def test_the_tag_cannot_be_forged_beside_a_tagged_value() -> None:
    with pytest.raises(RequestNotCacheable):
        canonical([{"a": b"x", "b": {"$llm_cache_mem": ["bytes", "eA=="]}}], {})
    assert digest([{"b": {"$llm_cache_mem": 1}}], {}) == formula([{"b": {"$llm_cache_mem": 1}}], {})
    assert digest([{"a": b"x", "b": '"$llm_cache_mem": '}], {})  # as text it is nothing special


# Refused

CYCLE: list[Any] = []
CYCLE.append([CYCLE, CYCLE])


def nested(levels: int) -> Any:
    value: Any = "leaf"
    for _ in range(levels):
        value = [value]
    return value


class Hostile(UserDict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError("SECRET")


class Secretive:
    def __repr__(self) -> str:
        return "SECRET"

    __str__ = __repr__


@dataclasses.dataclass
class Unset:
    there: str
    missing: str = dataclasses.field(init=False)


REFUSED = [
    ("nan", float("nan"), ""),
    ("infinity", float("-inf"), ""),
    ("1e400", 1e400, ""),
    ("nan in a tuple", ("SECRET", float("nan")), "[1]"),
    ("nan key", {float("nan"): 1}, ".*"),
    ("set", {"SECRET"}, ""),
    ("frozenset", frozenset({"SECRET"}), ""),
    ("cycle", CYCLE, ".*"),
    ("colliding keys", {1: "SECRET", "1": "x"}, ""),
    ("colliding None", {None: "SECRET", "null": "x"}, ""),
    ("colliding bool", {"true": "SECRET", True: "x"}, ""),
    ("tuple key", {("SECRET",): 1}, ".*"),
    ("bytes key", {b"SECRET": 1}, ".*"),
    ("two lone surrogates", "SECRET\ud83d\ude00", ""),
    ("surrogate in a key", {"SECRET\ud83d": 1}, ".*"),
    ("too deep", nested(200), ".*"),
    ("object", Secretive(), ""),
    ("object()", object(), ""),
    ("class", Secretive, ""),
    ("function", formula, ""),
    ("complex", 1j, ""),
    ("Ellipsis", ..., ""),
    ("generator", (x for x in ["SECRET"]), ""),
    ("dict view", {"SECRET": 1}.keys(), ""),
    ("huge int", 10**5000, ""),
    ("unreadable mapping", Hostile(a=1), ""),
    ("unreadable dataclass", Unset("SECRET"), ""),
    ("exception", ValueError("SECRET"), ""),
]


@pytest.mark.parametrize(
    ("value", "below"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refused_with_its_path_and_without_its_content(value: Any, below: str) -> None:
    for messages, params, path in (
        (
            [*TEXT, {"role": "user", "content": [{"source": value}]}],
            {"model": "m"},
            r"messages\[1\].content\[0\].source",
        ),
        (TEXT, {"tools": [{"input_schema": value}]}, r"tools\[0\].input_schema"),
        ([{"source": value}, *TEXT], {}, r"messages\[0\].source"),
    ):
        for _ in range(2):
            with pytest.raises(RequestNotCacheable) as caught:
                digest(messages, params)
            pattern = path + (
                r"[\[\].0-9…]*" if below == ".*" else below.replace("[", r"\[").replace("]", r"\]")
            )
            assert re.fullmatch(pattern, caught.value.path), caught.value.path
            assert "SECRET" not in str(caught.value)
            assert caught.value.__cause__ is None
            assert caught.value.__suppress_context__


def test_keys_that_look_like_data_stay_out_of_the_path() -> None:
    with pytest.raises(RequestNotCacheable) as caught:
        digest([{"input": {"jane@example.com": float("nan")}}], {})
    assert caught.value.path == "messages[0].input[…]"


def test_nesting_up_to_the_limit_is_fine() -> None:
    assert MAX_DEPTH == 128
    value = nested(MAX_DEPTH - 1)  # inside the request itself
    assert digest(value, {}) == formula(value, {})
    with pytest.raises(RequestNotCacheable):
        digest([value], {})
    with pytest.raises(RequestNotCacheable):
        digest(TEXT, {"p": nested(MAX_DEPTH)})


def test_messages_given_twice_is_refused() -> None:
    with pytest.raises(RequestNotCacheable, match="given twice"):
        digest(TEXT, {"messages": TEXT})


def test_the_longest_integer_that_python_writes_is_fine() -> None:
    value = 10 ** (sys.get_int_max_str_digits() - 1)
    assert key(value) == formula([{"role": "user", "content": value}], {"model": "m"})


def test_a_str_or_nothing_for_messages() -> None:
    for messages in ("hello", "", None, [], {"role": "user"}, ["a", "b"], 1):
        assert digest(messages, {"model": "m"}) == formula(messages, {"model": "m"})


# Memo: it never changes a digest


def random_json(rnd: random.Random, depth: int = 3) -> Any:
    atoms: list[Any] = [
        0,
        1,
        1.0,
        True,
        False,
        None,
        -0.0,
        0.0,
        "1",
        "a",
        "é",
        "\U0001f600",
        "\x7f",
        '"',
        "",
        10**20,
        2**31,
        -1,
        1e16,
        1.5,
    ]
    pick = rnd.random()
    if depth == 0 or pick < 0.5:
        return rnd.choice(atoms)
    if pick < 0.75:
        return [random_json(rnd, depth - 1) for _ in range(rnd.randrange(3))]
    return {
        rnd.choice(["role", "content", "a", "b", "é"]): random_json(rnd, depth - 1)
        for _ in range(rnd.randrange(3))
    }


def random_messages(rnd: random.Random) -> Any:
    if rnd.random() < 0.1:
        return random_json(rnd)
    return [
        {
            "role": rnd.choice(["user", "assistant"]),
            "content": rnd.choice(["a", "b", None]) if rnd.random() < 0.6 else random_json(rnd),
        }
        for _ in range(rnd.randrange(4))
    ]


def mutate(rnd: random.Random, value: Any) -> None:
    """Change something inside, in place."""
    while isinstance(value, (list, dict)) and value:
        place = rnd.randrange(len(value)) if isinstance(value, list) else rnd.choice(list(value))
        if not isinstance(value[place], (list, dict)) or rnd.random() < 0.2:
            value[place] = rnd.choice([1, 1.0, True, "a", "b", None, [], {}, 0.0, -0.0])
            return
        value = value[place]


def test_fuzz_against_the_formula() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rnd = random.Random(seed)
    alive: list[tuple[Any, dict[str, Any]]] = []
    for step in range(60_000):
        if alive and rnd.random() < 0.6:
            messages, params = rnd.choice(alive)
            if rnd.random() < 0.5:
                mutate(rnd, messages if rnd.random() < 0.7 else params)
            elif rnd.random() < 0.5:  # equal, not identical
                messages, params = copy.deepcopy(messages), dict(reversed(list(params.items())))
        else:
            messages, params = (
                random_messages(rnd),
                {"model": "m", rnd.choice("tk"): random_json(rnd, 1)},
            )
            alive = [*alive[-40:], (messages, params)]
        assert digest(messages, params) == formula(messages, params), f"seed {seed} step {step}"


@pytest.mark.parametrize("place", ["last message", "earlier message", "params"])
def test_equal_values_of_other_types_are_not_confused(place: str) -> None:
    for value in (1, 1.0, True, Number.ONE, 1, True, 1.0, 0, False, 0.0, -0.0, 0, "1"):
        message = {"role": "user", "content": [{"n": value}]}
        messages: list[Any] = {
            "last message": [*TEXT, message],
            "earlier message": [message, *TEXT],
        }.get(place, TEXT)
        params = {"n": value} if place == "params" else {}
        assert digest(messages, params) == formula(messages, params)


class Agreeable:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Caseless(str):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    def __hash__(self) -> int:
        return hash(self.lower())


@pytest.mark.parametrize(
    "head", [{"role": "user", "content": "hi"}, {"role": "user", "content": "hi", "n": 1.5}]
)
def test_values_that_compare_by_their_own_rules_do_not_fool_the_memo(head: dict[str, Any]) -> None:
    digest([head, *TEXT], {})
    with pytest.raises(RequestNotCacheable):
        digest([{**head, "content": Agreeable()}, *TEXT], {})
    with pytest.raises(RequestNotCacheable):
        digest([Agreeable(), *TEXT], {})
    loud = [{**head, "content": Caseless("HI")}, *TEXT]
    assert digest(loud, {}) == formula(loud, {}) != digest([head, *TEXT], {})
    odd_key = [
        {Caseless("ROLE"): "user", **{name: item for name, item in head.items() if name != "role"}},
        *TEXT,
    ]
    assert digest(odd_key, {}) == formula(odd_key, {})


def test_a_refused_or_tagged_request_leaves_nothing_behind() -> None:
    for value in (float("nan"), {1, 2}, "\ud83d\ude00", b"x", (1, 2), {2: 1, 10: 2}):
        for messages in ([{"c": value}], [{"c": value}, *TEXT]):
            with contextlib.suppress(RequestNotCacheable):
                digest(messages, {"t": "leave"})
    for plain in ({"$llm_cache_mem": ["bytes", "eA=="]}, [1, 2], {"10": 2, "2": 1}, "\U0001f600"):
        for messages in ([{"c": plain}], [{"c": plain}, *TEXT]):
            assert digest(messages, {"t": "leave"}) == formula(messages, {"t": "leave"})


def test_the_request_is_left_as_it_was() -> None:
    messages = [{"role": "user", "content": [{"data": b"x", 1: (1, 2)}]}]
    params = {"schema": OrderedDict(a=1)}
    before = copy.deepcopy((messages, params))
    digest(messages, params)
    assert (messages, params) == before
    assert type(params["schema"]) is OrderedDict


def test_threads() -> None:
    requests = [
        (
            [{"role": "user", "content": "x" * (i % 7), "n": i % 50}, *TEXT * (i % 3)],
            {"k": [i % 50, {}]},
        )
        for i in range(150)
    ]
    expected = [formula(*request) for request in requests]
    wrong: list[int] = []

    def work(seed: int) -> None:
        rnd = random.Random(seed)
        for _ in range(1500):
            i = rnd.randrange(len(requests))
            if digest(copy.deepcopy(requests[i][0]), requests[i][1]) != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_request_changed_by_another_thread_poisons_nothing() -> None:
    message = {"role": "user", "content": "a"}
    shared = [message, {"role": "user", "content": "a"}]
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for content in ("a", "b", "c"):
                message["content"] = shared[1]["content"] = content

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(3000):
            digest(shared, {"t": "race"})
    finally:
        stop.set()
        changer.join()
    for one in "abc":
        for other in "abc":
            messages = [{"role": "user", "content": one}, {"role": "user", "content": other}]
            assert digest(messages, {"t": "race"}) == formula(messages, {"t": "race"})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork() -> None:
    before = digest(TEXT, {"model": "fork"})
    child = os.fork()
    if child == 0:
        right = digest(TEXT, {"model": "fork"}) == before and digest(
            TEXT, {"model": "f2"}
        ) == formula(TEXT, {"model": "f2"})
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Stored keys


def test_prefix_and_parse_are_inverse() -> None:
    for namespace in ("", "acme", "a b", "a:b", "ü/漢字", "*?[]", "%41", "~", "a.b-c_d", "\x00\n"):
        for sample in (None, 0, 12):
            stored = prefix(namespace, "core") + "0" * 64 + ("" if sample is None else f".{sample}")
            assert parse(stored) == (1, namespace, "core", "0" * 64, sample)
            assert stored.startswith(prefix(namespace))
            assert stored.isascii()
            assert not set(stored) & set(" *?[]\n\x00")


def test_no_namespace_is_the_prefix_of_another() -> None:
    names = ["", "a", "ab", "a:b", "a%3Ab", "~", "x" * 500, "x" * 501]
    prefixes = [prefix(name) for name in names]
    assert not [(a, b) for a in prefixes for b in prefixes if a != b and b.startswith(a)]
    assert len(set(prefixes)) == len(names)


@pytest.mark.parametrize("namespace", ["", "acme", "a:b%", "ü", "x" * 500])
@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("value", "core"),
        ("stream", "core"),
        ("langchain-chat", "langchain"),
        ("tool.search", "tool"),
        ("tool-x", "tool"),
        ("openai.v1", "openai"),
    ],
)
def test_a_stored_key_tells_its_place(namespace: str, kind: str, layer: str) -> None:
    stored = prefix(namespace, kind) + "0" * 64
    assert namespace_prefix(stored) == prefix(namespace)
    known_as, found = place_of(stored)
    assert found == layer
    assert known_as == namespace if len(namespace) < 500 else known_as.startswith("~")


def test_a_stored_key_has_at_most_250_bytes() -> None:
    for namespace in ("n" * 109, "n" * 110, "n" * 111, "ü" * 400):
        assert len(prefix(namespace, "k" * 40) + "0" * 64 + "." + str(2**63)) <= 250


@pytest.mark.parametrize("kind", ["", "a:b", "a b", "k" * 41, "ü"])
def test_a_bad_kind_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="kind"):
        prefix("n", kind)


def test_a_namespace_must_be_text() -> None:
    with pytest.raises(TypeError):
        prefix(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="surrogate"):
        prefix("\ud800")


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "x",
        "1:a:core",
        "1:a:core:" + "0" * 63,
        "1:a:core:" + "0" * 64 + ".x",
        "1:a:core:" + "g" * 64,
        "1:%:c:" + "0" * 64,
    ],
)
def test_a_foreign_key_is_not_parsed(stored: str) -> None:
    with pytest.raises(ValueError, match="not a key of this library"):
        parse(stored)


def test_only_how_the_call_is_made_is_ignored_by_default() -> None:
    assert {
        "api_key",
        "auth_token",
        "azure_ad_token",
        "timeout",
        "request_timeout",
        "stream_timeout",
        "max_retries",
        "num_retries",
        "idempotency_key",
    } == DEFAULT_IGNORE
