"""What models change by themselves is told from what their users set, object by object."""

from typing import Any

import pytest

from llm_cache_mem.keys.changing import Changing


class Model:
    """Records its calls, and has words that are a setting."""

    def __init__(self, words: list[str] | None = None) -> None:
        self._calls: list[object] = []
        self._words = words or []
        self._number = 0


@pytest.fixture
def changing() -> Changing:
    return Changing()


def settings(changing: Changing, model: Any) -> dict[str, Any]:
    return dict(changing.settings(model))


def call(changing: Changing, model: Model, *, fails: bool = False) -> None:
    ended = changing.watch(model)
    model._calls.append(object())
    ended(not fails)


def test_a_record_of_calls_counts_as_it_was_at_first(changing: Changing) -> None:
    model = Model()
    for _ in range(3):
        call(changing, model)
        assert settings(changing, model)["_calls"] == []


@pytest.mark.parametrize("empty", [[], {}, set()])
def test_every_kind_of_collection_can_be_a_record(changing: Changing, empty: Any) -> None:
    model: Any = Model()
    model._calls = type(empty)()
    ended = changing.watch(model)
    if isinstance(empty, list):
        model._calls.append("a")
    else:
        model._calls.update({"a": 1})
    assert settings(changing, model)["_calls"] == empty  # while the call is under way
    ended(True)
    assert settings(changing, model)["_calls"] == empty


def test_what_a_user_sets_between_calls_is_a_setting(changing: Changing) -> None:
    model: Any = Model()
    call(changing, model)
    model._words.append("arr")
    assert settings(changing, model)["_words"] == ["arr"]
    model._calls = ["mine"]
    assert settings(changing, model)["_calls"] == ["mine"]


def test_what_a_user_adds_to_a_record_between_calls_is_a_setting(changing: Changing) -> None:
    model: Any = Model()
    call(changing, model)
    model._calls.append("a rule")
    assert settings(changing, model)["_calls"][1:] == ["a rule"]
    call(changing, model)
    assert settings(changing, model)["_calls"][1:] == ["a rule"]


def test_more_than_one_thing_for_each_call_under_way_is_a_setting(changing: Changing) -> None:
    model: Any = Model()
    call(changing, model)
    ended = changing.watch(model)
    model._calls += ["of the call", "a rule"]
    assert settings(changing, model)["_calls"][1:] == ["of the call", "a rule"]
    ended(True)


def test_what_a_user_adds_during_a_call_is_a_setting(changing: Changing) -> None:
    call(changing, Model())  # which leaves the words of this class as they were
    model = Model()
    ended = changing.watch(model)
    model._words.append("arr")
    ended(True)
    assert settings(changing, model)["_words"] == ["arr"]


def test_what_is_added_after_a_failed_call_is_a_setting(changing: Changing) -> None:
    model = Model()
    changing.watch(model)(False)
    model._words.append("arr")
    assert settings(changing, model)["_words"] == ["arr"]


def test_another_object_of_the_class_has_its_own_records(changing: Changing) -> None:
    call(changing, Model())
    other: Any = Model()
    other._calls = ["mine"]
    assert settings(changing, other)["_calls"] == ["mine"]


def test_a_number_is_a_setting_even_if_a_call_raises_it(changing: Changing) -> None:
    model = Model()
    ended = changing.watch(model)
    model._number += 1
    ended(True)
    assert settings(changing, model)["_number"] == 1


def test_what_a_model_makes_for_itself_counts_as_what_was_there(changing: Changing) -> None:
    class Pipeline:
        pass

    model: Any = Model()
    model._pipe = Pipeline()
    changing.made("_pipe", None, model._pipe)
    assert settings(changing, model)["_pipe"] is None
    given = model._pipe = Pipeline()
    assert settings(changing, model)["_pipe"] is given


def test_objects_that_were_made_are_not_kept_alive(changing: Changing) -> None:
    class Pipeline:
        pass

    changing.made("_pipe", None, Pipeline())
    assert not changing._made
