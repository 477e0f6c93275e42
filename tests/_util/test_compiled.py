"""The compiled part does what the Python beside it does, for whatever it is given, and no caller can
make it see an object change."""

import enum
import gc
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from llm_cache_mem._util import compiled
from llm_cache_mem.errors import RequestNotCacheable, ValueNotCacheable
from llm_cache_mem.keys import canonical, digest
from llm_cache_mem.values import payload

pytestmark = pytest.mark.skipif(
    compiled.speedups is None, reason="the compiled part is not built, or turned off"
)
C: Any = compiled.speedups


class Text(str):
    def __eq__(self, other: object) -> bool:
        raise AssertionError("nobody may ask")

    __hash__ = str.__hash__


class Whole(int):
    def __repr__(self) -> str:
        raise AssertionError("nobody may ask")


class Table(dict[str, Any]):
    def items(self) -> Any:
        return {"seen": "by items"}.items()


class Row(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(["seen by iter"])


class Colour(enum.StrEnum):
    RED = "red"


TEXTS = [
    "",
    "a",
    "role",
    "é",
    "\x7f",
    '\x00\n"\\\t\x1f',
    "日本",
    "😀",
    "\ud7ff\ue000",
    "x" * 40,
    "y" * 31 + '"' + "z" * 40,
]
LONG = "A request that is remembered, for it is long. " * 1500
PLAIN = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**63 - 1,
    -(2**63),
    0.0,
    -0.0,
    1.0,
    1e16,
    5e-324,
    0.1,
    *TEXTS,
]
ODD = [
    float("nan"),
    float("inf"),
    2**63,
    -(2**63) - 1,
    10**30,
    "\ud83d",
    "\ud83d\ude00",
    (1, "a"),
    b"bytes",
    Text("a"),
    Whole(7),
    Table(a=1),
    Row([1, 2]),
    Colour.RED,
    {1: "a", 10: "b", 2: "c"},
    {1: "a", "1": "b"},
    {None: 1, True: 2},
    {1, 2},
    object(),
]


def some(rng: random.Random, odd: float, depth: int = 4) -> Any:
    """A random value, of which a share *odd* is not plain."""
    if rng.random() < odd:
        return rng.choice(ODD)
    kind = rng.random()
    if depth == 0 or kind < 0.5:
        return rng.choice(PLAIN)
    if kind < 0.75:
        return [some(rng, odd, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS) + str(n): some(rng, odd, depth - 1) for n in range(rng.randrange(5))}


def changed(rng: random.Random, value: Any) -> Any:
    """A copy of a plain value, perhaps with one leaf that differs, and its keys in another order."""
    if isinstance(value, list):
        return [changed(rng, item) for item in value]
    if isinstance(value, dict):
        items = list(value.items())
        rng.shuffle(items)
        return {key: changed(rng, item) for key, item in items}
    return rng.choice(PLAIN) if rng.random() < 0.05 else value


@contextmanager
def without(*modules: Any) -> Iterator[None]:
    """The same in Python alone."""
    for module in modules:
        module.speedups = None
    try:
        yield
    finally:
        for module in modules:
            module.speedups = C


def key_of(value: Any, system: str = "") -> Any:
    try:
        return digest.digest(value, {"model": "m", "p": value, "system": system})
    except RequestNotCacheable as exc:
        return exc.path, exc.reason


def rested(value: Any) -> Any:
    try:
        at_rest = payload.Payload.of(value)
        found = at_rest.decode()
        return at_rest.json(), repr(found), at_rest.size
    except ValueNotCacheable as exc:
        return exc.path, exc.reason


def print_of(value: Any) -> Any:
    """By what a large request with *value* in it is recognised."""
    made = C.text_or_print([LONG, value])
    assert type(made) is int
    return made


def check(cases: int) -> None:
    seed = int(os.environ.get("LLM_CACHE_MEM_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed}")
    rng = random.Random(seed)
    for number in range(cases):
        value = some(rng, 0.0 if number % 2 else 0.05)
        got = key_of(value), key_of(value, LONG), key_of(value, LONG), rested(value)
        with without(canonical, digest, payload):
            long = key_of(value, LONG)
            assert got == (key_of(value), long, long, rested(value)), f"seed {seed}, case {number}"
        kept = C.snapshot(value)
        if kept is NotImplemented:
            continue
        text, other = json.dumps(value, sort_keys=True), changed(rng, value)
        assert C.copy(kept[0]) == value
        if C.canonical(kept[0]) is NotImplemented:  # half surrogates
            assert type(got[0]) is tuple
            continue
        assert C.canonical(kept[0]) == text.encode()
        is_same = json.dumps(other, sort_keys=True) == text
        assert C.same(kept[0], other) is is_same, f"seed {seed}, case {number}"
        if is_same:
            assert print_of(other) == print_of(value), f"seed {seed}, case {number}"


def test_it_agrees_with_the_python_beside_it() -> None:
    check(int(os.environ.get("LLM_CACHE_MEM_FUZZ", 100_000)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_it_agrees_with_the_python_beside_it_for_a_million_values() -> None:
    check(1_000_000)


@pytest.mark.parametrize("odd", ODD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("wrap", [lambda it: it, lambda it: [it], lambda it: {"a": {"b": it}}])
def test_non_plain_values_fall_back_to_python(odd: Any, wrap: Any) -> None:
    if type(odd) is not str:  # half surrogates are text, if none that may be part of a key
        assert C.snapshot(wrap(odd)) is NotImplemented
        assert C.copy(wrap(odd)) is NotImplemented
    assert C.canonical(wrap(odd)) is NotImplemented
    assert C.same(C.snapshot(wrap(1))[0], wrap(odd)) is False
    print_of(wrap(odd))


@pytest.mark.parametrize("depth", [100, 101, 100_000])
def test_depth_is_bounded_whatever_the_recursion_limit(depth: int) -> None:
    for wrap in (lambda inner: [inner], lambda inner: {"a": inner}):
        value: Any = 1
        for _ in range(depth):
            value = wrap(value)
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(60 + len(_frames()))
        try:
            answers = [C.canonical(value), C.snapshot(value), C.copy(value)]
            print_of(value)
        finally:
            sys.setrecursionlimit(limit)
        assert [answer is NotImplemented for answer in answers] == [depth > 100] * 3
        while type(value) in (list, dict):  # piece by piece: its own destructor would be deep
            value = value.popitem()[1] if type(value) is dict else value.pop()


def _frames() -> list[Any]:
    frame, found = sys._getframe(), []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def test_shared_parts_and_cycles_come_to_an_end() -> None:
    shared: Any = ["x"]
    for _ in range(60):
        shared = [shared, shared]
    loop: dict[str, Any] = {}
    loop["loop"] = [loop]
    for value in (shared, loop):
        assert C.canonical(value) is C.snapshot(value) is C.copy(value) is NotImplemented
        print_of(value)


def test_a_copy_shares_no_container_with_its_snapshot() -> None:
    value = {"a": [{"b": []}], "c": {}, "d": "text"}
    own, size = C.snapshot(value)
    assert size > 0
    back = C.copy(own)
    for made in (own, back):
        assert made == value
        assert made is not value
        assert made["a"] is not value["a"]
        assert made["a"][0]["b"] is not value["a"][0]["b"]
    assert back["a"][0] is not own["a"][0]
    assert not any(map(gc.is_tracked, (own, own["a"], own["a"][0], own["c"])))
    assert all(map(gc.is_tracked, (back, back["a"], back["a"][0])))
    back["a"].append(back)  # a cycle through a copy is garbage that is found
    gc.collect()
    before = len(gc.get_objects())
    del back, made
    assert gc.collect() > 0
    assert len(gc.get_objects()) < before


def test_no_reference_leaks() -> None:
    leaf, key = "leaf" * 10, "key" * 10
    values = [
        {key: [leaf, {"x": leaf}], "n": 1.5},
        [leaf, object()],
        {key: {"deep": [float("nan")]}},
    ]
    for value in values:
        for _ in range(2):  # the first round fills what Python keeps
            before = sys.getrefcount(leaf), sys.getrefcount(key), sys.getallocatedblocks()
            for _ in range(2_000):
                kept = C.snapshot(value)
                C.canonical(value), C.copy(value), print_of(value)
                C.same(value, values[0]), C.same(value, json.loads('{"a": [1]}'))
                del kept
            after = sys.getrefcount(leaf), sys.getrefcount(key), sys.getallocatedblocks()
        assert before[:2] == after[:2]
        assert after[2] - before[2] < 200


def test_snapshots_share_only_short_names_of_fields() -> None:
    texts = [f'{{"{name}": 1}}' for name in ("a field", "a field " * 10)]
    keys = [[next(iter(C.snapshot(json.loads(text))[0])) for _ in range(2)] for text in texts]
    assert [one is other for one, other in keys] == [True, False]


def test_large_values_are_recognised_if_their_texts_are_long() -> None:
    for value in ({"a": "x" * 10_000}, {"a": ["x" * 2000] * 10}, ["é" * 5_000, 1]):
        assert type(C.text_or_print(value)) is int
        assert C.canonical(value) == json.dumps(value, sort_keys=True).encode()
    many = [{"role": "user", "content": "x" * 200}] * 500
    for value in ({"a": ["x\n" * 1000] * 3}, "x" * 5_000, many, PLAIN):
        assert C.text_or_print(value) == C.canonical(value)


def test_a_request_changed_meanwhile_has_the_key_of_one_state() -> None:
    states = [[{"role": "user", "content": word * 200}] for word in ("a", "é", "日")]
    known = {digest.digest(state, {}) for state in states}
    request: list[Any] = [*states[0]]
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            for state in states:
                request[0] = state[0]

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(20_000):
            assert digest.digest(request, {}) in known
            digest.forget()
    finally:
        done.set()
        changer.join()


def test_a_finalizer_cannot_change_what_is_copied() -> None:
    victim = {"a": [["x"] * 50 for _ in range(50)]}
    whole = json.dumps(victim)

    class Bomb:
        def __del__(self) -> None:
            victim["a"].clear()

    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(200):
            victim["a"] = [["x"] * 50 for _ in range(50)]
            bomb = Bomb()
            bomb.itself = bomb  # type: ignore[attr-defined]
            del bomb
            kept = C.snapshot(victim)
            assert json.dumps(kept[0]) in (whole, '{"a": []}')
    finally:
        gc.set_threshold(*thresholds)
    assert gc.isenabled()


def test_collection_stays_off_where_the_program_has_turned_it_off() -> None:
    gc.disable()
    try:
        C.copy({"a": []})
        assert not gc.isenabled()
    finally:
        gc.enable()


def in_process(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()


def test_the_environment_turns_it_off() -> None:
    code = "import llm_cache_mem; print(llm_cache_mem.speedups)"
    assert in_process(code, LLM_CACHE_MEM_NO_SPEEDUPS="1") == "False"
    assert in_process(code, LLM_CACHE_MEM_NO_SPEEDUPS="0") == "True"
