"""options(...): what a caller may ask for, how it nests, and that wrong values are refused at
once."""

import asyncio
import threading
from datetime import timedelta

import pytest

from llm_cache_mem.options import INHERITED, check_mode, current, options, to_seconds


def test_outside_of_any_options_everything_is_left_to_the_cache():
    assert current()[:4] == (INHERITED, INHERITED, 0, INHERITED)


def test_inner_options_add_to_the_outer_ones_and_end_with_their_block():
    with options(ttl_seconds=60, namespace="acme"):
        with options(ttl_seconds=None, mode="refresh", sample=2):
            assert current()[:4] == (None, "refresh", 2, "acme")
        assert current()[:4] == (60.0, INHERITED, 0, "acme")
    assert current().ttl_seconds is INHERITED


def test_one_options_object_can_be_entered_again_inside_itself():
    asked = options(sample=3)
    with asked, asked:
        assert current().sample == 3
    assert current().sample == 0


def test_options_reach_tasks_but_not_other_threads():
    async def sample() -> int:
        return current().sample

    seen: list[int] = []
    with options(sample=4):
        assert asyncio.run(sample()) == 4
        thread = threading.Thread(target=lambda: seen.append(current().sample))
        thread.start()
        thread.join()
    assert seen == [0]


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), timedelta(0)])
def test_a_ttl_that_is_not_more_than_zero_is_refused(value):
    with pytest.raises(ValueError, match="ttl_seconds must be more than 0"):
        options(ttl_seconds=value)


@pytest.mark.parametrize("value", [b"60", True, [1]])
def test_a_ttl_that_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="ttl_seconds must be a number of seconds"):
        options(ttl_seconds=value)


def test_a_timedelta_is_a_ttl():
    assert to_seconds(timedelta(minutes=2)) == 120.0


def test_an_unknown_mode_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="on, off, refresh, replay"):
        check_mode("of")


@pytest.mark.parametrize("sample", [-1, True, 1.5, "2"])
def test_a_sample_that_is_no_whole_number_is_refused(sample):
    with pytest.raises(ValueError, match="sample"):
        options(sample=sample)


def test_a_namespace_that_is_no_str_is_refused():
    with pytest.raises(TypeError, match="namespace"):
        options(namespace=7)


def test_an_unencodable_namespace_is_rejected_at_its_call():
    with pytest.raises(ValueError, match="namespace must be text"):
        options(namespace="\ud800")


def test_one_options_object_serves_two_tasks_at_once():
    asked = options(mode="refresh")

    async def work():
        with asked:
            await asyncio.sleep(0)
            assert current().mode == "refresh"
        assert not current().mode

    async def main():
        await asyncio.gather(work(), work())

    asyncio.run(main())


def test_options_may_be_left_in_another_context():
    import contextvars

    def dependency():
        with options(mode="off"):
            yield

    steps = dependency()
    contextvars.copy_context().run(next, steps)
    contextvars.copy_context().run(next, steps, None)
    assert not current().mode


# -- Durations and decorators


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("5m", 300.0), ("1h30m", 5400.0), ("7d", 604800.0)]
)
def test_durations_may_be_text(text, seconds):
    assert to_seconds(text) == seconds
    with options(ttl_seconds=text):
        assert current().ttl_seconds == seconds


@pytest.mark.parametrize("text", ["", "90", "soon", "0s", "-1h", "٣h"])
def test_text_that_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="ttl_seconds"):
        options(ttl_seconds=text)


def test_options_decorate_functions_and_coroutine_functions():
    @options(namespace="acme", ttl_seconds="1h")
    def plain(name, *, loud=False):
        return name, loud, current().namespace, current().ttl_seconds

    @options(sample=2)
    async def coroutine():
        await asyncio.sleep(0)
        return current().sample, current().namespace

    assert plain.__name__ == "plain"
    assert plain("a", loud=True) == ("a", True, "acme", 3600.0)
    with options(namespace="outer"):
        assert asyncio.run(coroutine()) == (2, "outer")
    assert current().namespace is INHERITED
    assert current().sample == 0


def test_options_refuse_to_decorate_generator_functions():
    def generator():
        yield 1

    async def async_generator():
        yield 1

    for function in (generator, async_generator):
        with pytest.raises(TypeError, match="with options"):
            options(mode="off")(function)
    with pytest.raises(TypeError, match="decorates a function, not int"):
        options(mode="off")(7)
