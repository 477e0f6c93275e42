"""A setting that grows with each call is named in the log, once per class."""

from typing import Any

import pytest

from llm_cache_mem.keys.growing import note_settings


def logged(caplog: pytest.LogCaptureFixture, calls: Any) -> list[str]:
    cls = type("Model", (), {})
    for settings in calls:
        note_settings(cls, settings)
    return caplog.messages


@pytest.mark.parametrize(
    "setting",
    [lambda n: ["call"] * n, lambda n: {str(i): i for i in range(n)}, lambda n: n],
    ids=["list", "dict", "count"],
)
def test_setting_that_grows_with_each_call_is_logged_once(
    caplog: pytest.LogCaptureFixture, setting: Any
) -> None:
    calls = [{"model": "m", "_calls": setting(n)} for n in range(20)]
    (message,) = logged(caplog, calls)
    assert message.startswith("Model._calls has grown with each of the last 5 calls.")
    assert "LLMCache(key_fn=ignoring('_calls'))" in message


@pytest.mark.parametrize(
    "calls",
    [
        [{"stop": ["a"]}, {"stop": ["a", "b"]}] * 20,
        [{"_calls": ["a"] * n} for n in (1, 2, 3, 4, 4, 5, 6, 7)],
        [{"max_tokens": n} for n in range(20)],
        [{"_style": "a" * n} for n in range(20)],
        [{"words": ["a"]}] * 20,
    ],
    ids=["two models", "a pause", "a declared number", "text", "no change"],
)
def test_setting_that_users_change_is_not_logged(
    caplog: pytest.LogCaptureFixture, calls: Any
) -> None:
    assert logged(caplog, calls) == []


def test_only_the_first_calls_of_a_class_are_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    calls = [{"_calls": []}] * 100 + [{"_calls": ["a"] * n} for n in range(20)]
    assert logged(caplog, calls) == []
