"""The reader of pickles: plain data comes back equal, and nothing else is read or run."""

import os
import pickle
import tracemalloc
from collections import OrderedDict
from contextlib import suppress
from datetime import date
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_cache_mem.migration import pickles
from llm_cache_mem.migration.pickles import NotPlainData, read_plain_pickle

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


def data(scalars: Any) -> Any:
    def collections(part: Any) -> Any:
        names = st.dictionaries(st.text(), part)
        return st.lists(part) | names | st.tuples(part) | st.tuples(part, part, part, part)

    return st.recursive(scalars, collections, max_leaves=20)


@settings(deadline=None)
@given(data(SCALARS), st.integers(0, 5))
def test_plain_data_comes_back_equal(value: Any, protocol: int) -> None:
    assert repr(read_plain_pickle(pickle.dumps(value, protocol))) == repr(value)


@settings(deadline=None)
@given(data(SCALARS | st.binary()), st.integers(3, 5))
def test_bytes_come_back_from_protocols_that_have_them(value: Any, protocol: int) -> None:
    assert repr(read_plain_pickle(pickle.dumps(value, protocol))) == repr(value)


class Runs:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def nested(depth: int) -> Any:
    value: Any = "x" * 1000
    for _ in range(depth):
        value = [value, value]
    return value


def endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [OrderedDict(a=1), date(2026, 1, 1), {1}, len, object, Path("x")])
@pytest.mark.parametrize("protocol", range(6))
def test_objects_are_refused(value: Any, protocol: int) -> None:
    with pytest.raises(NotPlainData, match="objects"):
        read_plain_pickle(pickle.dumps(value, protocol))


@pytest.mark.parametrize("protocol", range(6))
def test_no_code_runs(tmp_path: Path, protocol: int) -> None:
    hostile = pickle.dumps(["SECRET12", Runs(tmp_path / "mark")], protocol)
    with pytest.raises(NotPlainData) as caught:
        read_plain_pickle(hostile)
    assert not (tmp_path / "mark").exists()
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("value", [nested(60), endless()])
def test_data_that_unfolds_without_end_is_refused(value: Any) -> None:
    with pytest.raises(NotPlainData, match="larger than it seems"):
        read_plain_pickle(pickle.dumps(value))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02]q\x00(" + b"h\x00" * 60_000 + b"e.",
        b"\x80\x02}q\x00(" + b"".join(b"J%bh\x00" % pack("<i", n) for n in range(60_000)) + b"u.",
    ],
    ids=["list", "dict"],
)
def test_data_that_holds_itself_often_takes_little_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(NotPlainData, match="larger than it seems"):
            read_plain_pickle(data)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_exhaustion_is_bad_data_too(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def exhausted(value: Any) -> None:
        raise error

    monkeypatch.setattr(pickles, "_check_size", exhausted)
    with pytest.raises(NotPlainData):
        read_plain_pickle(pickle.dumps([1]))


def test_damaged_pickles_are_refused() -> None:
    whole = pickle.dumps({"a": [1, 2.5, "text", (None, True)]})
    for end in range(len(whole)):
        with pytest.raises(NotPlainData):
            read_plain_pickle(whole[:end])
    for place in range(len(whole)):
        with suppress(NotPlainData):
            read_plain_pickle(whole[:place] + b"\xff" + whole[place + 1 :])
