"""Which function a call is of: what its code does, what it reads, and how it was called."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from llm_cache_mem.keys.callables import Identity, arguments, by_name, fingerprint, name_of
from llm_cache_mem.keys.digest import digest_of


def made(source: str, **scope: Any) -> Any:
    exec(source, scope)
    return scope["ask"]


def key_of(fn: Callable[..., Any]) -> str:
    return digest_of(Identity(fn, "").params())


EDITS = [
    ("return x + 1", "return x + 2"),
    ("return x + 1", "return x - 1"),
    ("return x.a", "return x.b"),
    ("return x in {1, 2}", "return x in {1, 3}"),
    ("return x in {1, 2}", "return x in (1, 2)"),
    ("return (1, (2, x))", "return (1, (3, x))"),
    ("return (1, '2')", "return ('1', 2)"),
    ("return 1", "return 1.0"),
    ("return 1", "return True"),
    ("return lambda: x", "return lambda: [x]"),
    ("y = x; return y", "z = x; return z"),
    ("try:\n  x()\n except KeyError: return 1", "try:\n  x()\n except OSError: return 1"),
]


@pytest.mark.parametrize(("one", "other"), EDITS)
def test_an_edit_of_the_code_is_another_function(one: str, other: str) -> None:
    first, second = (fingerprint(made(f"def ask(x):\n {body}").__code__) for body in (one, other))
    moved = fingerprint(made(f"\n\ndef ask(x):\n {one}").__code__)
    assert first == moved != second
    assert len(first) == 32


READ = [
    "def ask(): return A",
    "def ask(): return lambda: A",
    "def ask(): return [lambda: lambda: A]",
]


@pytest.mark.parametrize("source", READ)
@pytest.mark.parametrize(("one", "other"), [("a", "b"), (1, 2), (None, "a"), (0.5, 1.5)])
def test_plain_globals_that_it_reads_count(source: str, one: Any, other: Any) -> None:
    assert key_of(made(source, A=one)) == key_of(made(source, A=one))
    assert key_of(made(source, A=one)) != key_of(made(source, A=other))


@pytest.mark.parametrize(
    "source",
    [
        "def ask():\n global A\n A += 1",
        "def ask():\n def more():\n  global A\n  A += 1\n return A",
        "def ask():\n global A\n print(A)\n del A",
        "def ask(): return A.b",
    ],
)
def test_globals_that_it_assigns_to_and_objects_do_not_count(source: str) -> None:
    plain = "A.b" not in source
    one, other = (made(source, A=n if plain else [n]) for n in (1, 2))
    assert key_of(one) == key_of(other)


def closure(value: Any, *, assigns: bool = False) -> Any:
    if assigns:

        def count() -> Any:
            nonlocal value
            value += 1
            return value

        return count
    return lambda: value


def test_a_closure_that_is_not_yet_assigned_does_not_count() -> None:
    def outer() -> Any:
        def ask() -> Any:
            return later

        before = key_of(ask)
        later = 1
        assert key_of(ask) != before
        return before

    assert outer() == outer()


def test_a_counter_in_a_closure_is_one_function() -> None:
    count = closure(1, assigns=True)
    before = key_of(count)
    count()
    assert key_of(count) == before


@pytest.mark.parametrize(
    "make",
    [
        lambda by: [lambda x: x * by],
        lambda by: (1, {"a": lambda x: x * by}),
        lambda by: functools.partial(lambda x, y: x * y, by),
        lambda by: functools.partial(lambda x, *, y: x * y, y=by),
        lambda by: [functools.partial(lambda x: x * by)],
        lambda by: {lambda x: x: by},
        lambda by: closure(by),
        lambda by: closure(closure(by)),
    ],
)
def test_helpers_in_a_closure_count_by_what_they_hold(make: Any) -> None:
    assert key_of(closure(make(1))) == key_of(closure(make(1)))
    assert key_of(closure(make(1))) != key_of(closure(make(2)))


@pytest.mark.parametrize("make", [object, lambda: len, lambda: [object()], lambda: str])
def test_other_objects_in_a_closure_do_not_count(make: Any) -> None:
    assert key_of(closure(make())) == key_of(closure(make()))


class Bot:
    def ask(self) -> str:
        return "a"

    @classmethod
    def made(cls) -> str:
        return "b"

    @staticmethod
    def alone() -> str:
        return "c"


class Other(Bot):
    pass


def test_methods_of_a_class_count_by_the_class() -> None:
    assert key_of(Bot.made) != key_of(Other.made)
    assert key_of(Bot.alone) == key_of(Other.alone)
    assert key_of(vars(Bot)["alone"]) == key_of(Bot.alone)
    assert key_of(vars(Bot)["made"]) == key_of(Bot.made.__func__)
    assert key_of(len) != key_of(print)


def test_a_name_is_of_the_function_or_its_class() -> None:
    assert name_of(Bot.ask).endswith("test_callables:Bot.ask")
    assert name_of(Bot()).endswith("test_callables:Bot")


def test_a_version_stands_for_the_code() -> None:
    one, other = made("def ask(): return 1"), made("def ask(): return 2")
    assert Identity(one, "1").params() == Identity(other, "1").params()
    assert Identity(one, "1").params() != Identity(one, "2").params()


def test_arguments_are_told_by_name() -> None:
    def ask(a: int, /, b: int, *rest: int, c: int = 3, **more: Any) -> None: ...

    signature = inspect.signature(ask)
    base = {"a": 1, "b": 2, "cached.args": (), "c": 3}
    assert arguments(signature, (1, 2), {}) == base
    assert arguments(signature, (1,), {"b": 2}) == base
    assert arguments(signature, (1, 2), {"d": 4}) == {**base, "d": 4}
    assert arguments(signature, (1, 2, 5), {}) == {**base, "cached.args": (5,)}
    for taken in ("a", "messages", "x.y"):
        named = {taken: 4}
        assert arguments(signature, (1, 2), named) == {**base, "cached.kwargs": named}
    assert arguments(signature, (), {}) is None
    assert by_name(signature, {"a": 1, "b": 2}) == base
    assert by_name(signature, {"b": 2}) is None
