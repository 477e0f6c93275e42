"""Copies of exceptions: equal in all that a handler looks at, and independent."""

import errno
import json
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest

from llm_cache_mem._util.exceptions import copy_exception


def raised(make: Callable[[], Any]) -> BaseException:
    """What *make* raises, or else returns, once it has been raised."""
    try:
        raise make()
    except BaseException as exc:
        return exc


def length(trace: TracebackType | None) -> int:
    return 0 if trace is None else 1 + length(trace.tb_next)


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Slotted(Exception):
    __slots__ = ("code", "unset")

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class OwnNew(Exception):
    def __new__(cls, one: int, two: int) -> "OwnNew":
        return super().__new__(cls, one + two)

    def __init__(self, one: int, two: int) -> None:
        self.sum = one + two


class OwnOSError(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(errno.ENOENT, "gone", path)
        self.path = path


class Group(ExceptionGroup[Exception]):
    pass


def openai_error() -> BaseException:
    httpx = pytest.importorskip("httpx2")
    openai = pytest.importorskip("openai")
    response = httpx.Response(
        429, headers={"retry-after": "1"}, request=httpx.Request("POST", "http://x/")
    )
    return openai.RateLimitError("slow down", response=response, body={"code": "rate", "type": "t"})


def openai_connection_error() -> BaseException:
    httpx, openai = pytest.importorskip("httpx2"), pytest.importorskip("openai")
    return openai.APITimeoutError(request=httpx.Request("POST", "http://x/"))


def anthropic_error() -> BaseException:
    httpx, anthropic = pytest.importorskip("httpx2"), pytest.importorskip("anthropic")
    response = httpx.Response(529, request=httpx.Request("POST", "http://x/"))
    return anthropic.APIStatusError("overloaded", response=response, body=None)


def httpx_error() -> BaseException:
    httpx = pytest.importorskip("httpx2")
    request = httpx.Request("GET", "http://x/")
    return httpx.HTTPStatusError(
        "bad", request=request, response=httpx.Response(500, request=request)
    )


def connect_error() -> BaseException:
    httpx = pytest.importorskip("httpx2")
    return httpx.ConnectError("refused", request=httpx.Request("GET", "http://x/"))


def pydantic_error() -> BaseException:
    pydantic = pytest.importorskip("pydantic")
    return raised(
        lambda: pydantic.TypeAdapter(dict[str, int]).validate_python({"a": "x", "b": None})
    )


def cases() -> list[Callable[[], BaseException]]:
    return [
        lambda: ValueError("text", 2),
        lambda: KeyError("k"),
        lambda: KeywordOnly(code=7),
        lambda: Slotted(7),
        lambda: OwnNew(3, 4),
        lambda: OSError(errno.ECONNRESET, "reset"),
        lambda: FileNotFoundError(errno.ENOENT, "gone", "a.txt"),
        lambda: OSError(errno.EXDEV, "across", "a", None, "b"),
        lambda: OSError("only text"),
        lambda: OwnOSError("b.txt"),
        lambda: raised(lambda: b"\xff".decode()),
        lambda: raised(lambda: "\ud800".encode()),
        lambda: raised(lambda: json.loads("{")),
        lambda: raised(lambda: compile("1 +", "f.py", "exec")),
        lambda: raised(lambda: __import__("no_such_module")),
        lambda: raised(lambda: object().nothing),  # type: ignore[attr-defined]
        lambda: StopIteration(3),
        lambda: ExceptionGroup("several", [ValueError(1), TypeError(2)]),
        lambda: Group("several", [ValueError(1)]),
        openai_error,
        openai_connection_error,
        anthropic_error,
        httpx_error,
        connect_error,
        pydantic_error,
    ]


@pytest.mark.parametrize("make", cases())
def test_a_twin_is_equal_in_all_that_a_handler_looks_at(make: Callable[[], BaseException]) -> None:
    error = raised(make)
    copy = copy_exception(error, error.__traceback__)
    assert copy is not error
    assert type(copy) is type(error)
    assert (str(copy), repr(copy), copy.args) == (str(error), repr(error), error.args)
    assert copy.__dict__ == error.__dict__
    for name in dir(error):
        if not name.startswith("_"):
            value = getattr(error, name, None)
            assert callable(value) or getattr(copy, name, None) == value, name
    assert traceback.format_exception(copy) == traceback.format_exception(error)


def test_a_twin_has_the_cause_and_the_context() -> None:
    cause = ValueError("below")
    try:
        raise RuntimeError("above") from cause
    except RuntimeError as exc:
        error = exc
    copy = copy_exception(error, None)
    assert (copy.__cause__, copy.__context__, copy.__suppress_context__) == (cause, None, True)
    assert copy.__traceback__ is None


def test_notes_are_copied_and_then_are_its_own() -> None:
    error = ValueError()
    error.add_note("first")
    copy = copy_exception(error, None)
    copy.add_note("second")
    assert (error.__notes__, copy.__notes__) == (["first"], ["first", "second"])


def test_raising_a_twin_lengthens_no_other_traceback() -> None:
    error = raised(lambda: ValueError())
    trace = error.__traceback__
    copies = [raised(lambda: copy_exception(error, trace)) for _ in range(100)]
    assert {length(copy.__traceback__) for copy in copies} == {length(trace) + 1}
    assert error.__traceback__ is trace


def test_an_uncopyable_exception_is_reused_with_a_short_traceback() -> None:
    class Singular(Exception):
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError("no copies")

        @property
        # what hides its attributes has no copy
        def __dict__(self) -> Any:  # type: ignore[override]
            raise TypeError("no copies")

    error = raised(Singular)
    trace = error.__traceback__
    for _ in range(10):
        assert raised(lambda: copy_exception(error, trace)) is error
    assert length(error.__traceback__) == length(trace) + 1
