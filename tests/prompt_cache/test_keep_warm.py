"""keep_warm: renewals before expiry, with jitter, that stop when told and give up when they keep
failing; nobody sleeps."""

import asyncio
import threading

import anthropic
import pytest
from prompt_cache_server import CLAUDE, PRICES, SYSTEM

from llm_cache_mem.prompt_cache import Warmer
from llm_cache_mem.prompt_cache.keep_warm import Schedule


class Wait:
    """Waiting that moves the test's clock; after *times* it stops the renewals, or waits for ever
    where *then_block*."""

    def __init__(self, clock, times):
        self.clock, self.times = clock, times
        self.waits: list[float] = []
        self.done = threading.Event()

    def __call__(self, seconds):
        if len(self.waits) == self.times:
            self.done.set()
            return True
        self.waits.append(seconds)
        self.clock.advance(seconds)
        return False


def test_the_prefix_stays_warm_for_hours_and_each_renewal_only_reads(claude, server, clock):
    wait = Wait(clock, 30)
    warmer = Warmer(claude, prices=PRICES, clock=clock)
    with warmer.keep_warm(model=CLAUDE, system=SYSTEM, wait=wait) as warming:
        assert wait.done.wait(60)
    assert (warming.renewals, warming.gave_up, warming.running) == (30, False, False)
    assert all(216 <= seconds <= 240 for seconds in wait.waits)
    assert len(set(wait.waits)) > 20  # jitter
    written, read = 2000 * 3.75 / 1e6, 2000 * 0.30 / 1e6
    assert warming.cost_usd == pytest.approx(written + 30 * read + 31 * 3.0 / 1e6)
    assert warming.last is not None
    assert warming.last.read_tokens == 2000


def test_entering_warms_at_once_and_raises_its_errors(claude, server):
    server.fail = [529]
    with (
        pytest.raises(anthropic.APIStatusError),
        Warmer(claude).keep_warm(model=CLAUDE, system=SYSTEM),
    ):
        pass
    with Warmer(claude).keep_warm(model=CLAUDE, system=SYSTEM) as warming:
        assert warming.last is not None
        assert warming.running
    assert not warming.running


def test_it_gives_up_after_so_many_failures_in_a_row(claude, server, clock, caplog):
    wait = Wait(clock, 100)

    def fail_from_the_second_on(warmed):
        server.fail = [529] * 3 if len(server.requests) == 2 else []

    options = {"wait": wait, "jitter": 0, "max_failures": 3, "on_warmed": fail_from_the_second_on}
    with Warmer(claude, clock=clock).keep_warm(model=CLAUDE, system=SYSTEM, **options) as warming:
        assert warming._thread is not None
        warming._thread.join(60)
    assert (warming.gave_up, warming.renewals, wait.waits) == (True, 1, [240, 240, 5, 10])
    assert isinstance(warming.error, anthropic.APIStatusError)
    assert "gave up keeping a prefix warm after 3 failures" in caplog.text


def test_a_failure_that_passes_is_forgotten(clock):
    schedule = Schedule(240, 0, 3, clock, lambda: 0.0)
    for _ in range(10):
        assert not schedule.failed()
        assert not schedule.failed()
        schedule.used()
    assert schedule.failures == 0


def test_use_by_others_puts_the_renewal_off(clock):
    schedule = Schedule(240, 0, 3, clock, lambda: 0.0)
    schedule.used()
    clock.advance(200)
    assert schedule.pause() == 40
    schedule.used()
    assert schedule.pause() == 240


def test_stopping_interrupts_a_wait(claude):
    with Warmer(claude).keep_warm(model=CLAUDE, system=SYSTEM, every=3600) as warming:
        thread = warming._thread
    assert thread is not None
    assert not thread.is_alive()


def test_renewing_later_than_the_prefix_lives_is_warned_of(claude, caplog):
    Warmer(claude).keep_warm(model=CLAUDE, system=SYSTEM, every=299)
    assert caplog.text == ""
    Warmer(claude).keep_warm(model=CLAUDE, system=SYSTEM, every=3600)
    assert "every=3600 s is too late for a prefix that lives 300 s" in caplog.text


def test_a_function_gives_the_prefix_of_each_renewal(claude, server, clock, caplog):
    warmer = Warmer(claude, clock=clock)
    versions = iter(range(10))
    wait = Wait(clock, 1)
    with warmer.keep_warm(
        lambda: warmer.prefix(model=CLAUDE, system=f"{SYSTEM} v{next(versions)}"), wait=wait
    ) as warming:
        assert wait.done.wait(60)
    assert warming.last is not None
    assert "it changed since it was last warmed" in warming.last.warnings[0]


def test_a_listeners_error_stops_nothing(claude, clock, caplog):
    wait = Wait(clock, 3)

    def listener(warmed):
        raise ZeroDivisionError

    with Warmer(claude, clock=clock).keep_warm(
        model=CLAUDE, system=SYSTEM, wait=wait, on_warmed=listener
    ) as warming:
        assert wait.done.wait(60)
    assert (warming.renewals, warming.gave_up) == (3, False)
    assert "on_warmed raised" in caplog.text


async def test_async_clients_are_renewed_in_a_task_that_ends_with_the_context(
    async_claude, server, clock
):
    waits: list[float] = []
    done = asyncio.Event()

    async def wait(seconds):
        waits.append(seconds)
        clock.advance(seconds)
        if len(waits) == 5:
            done.set()
            await asyncio.Event().wait()  # for ever, until it is cancelled
        return False

    async with Warmer(async_claude, clock=clock).keep_warm(
        model=CLAUDE, system=SYSTEM, wait=wait
    ) as warming:
        await asyncio.wait_for(done.wait(), 60)
        assert warming.running
    assert not warming.running
    assert (warming.renewals, len(server.requests)) == (4, 5)


async def test_the_kind_of_context_must_fit_the_client(async_claude, claude):
    with (
        pytest.raises(TypeError, match="use async with"),
        Warmer(async_claude).keep_warm(model=CLAUDE, system=SYSTEM),
    ):
        pass
    with pytest.raises(TypeError, match="use with"):
        async with Warmer(claude).keep_warm(model=CLAUDE, system=SYSTEM):
            pass


def test_a_context_is_entered_once(claude):
    warming = Warmer(claude).keep_warm(model=CLAUDE, system=SYSTEM)
    with warming:
        pass
    with pytest.raises(RuntimeError), warming:
        pass


@pytest.mark.parametrize(
    "options",
    [{"every": 0}, {"every": float("nan")}, {"jitter": 1}, {"jitter": -0.1}, {"max_failures": 0}],
)
def test_options_that_make_no_sense_are_refused(claude, options):
    with pytest.raises(ValueError, match="must be"):
        Warmer(claude).keep_warm(model=CLAUDE, system=SYSTEM, **options)
