"""PromptCacheTracker: shares by prefix, and an alert with the reason when one drops, through the
real SDKs."""

import threading

import anthropic
import pytest
from prompt_cache_server import CLAUDE, GPT, OLDER_GPT, PRICES, SYSTEM

from llm_cache_mem import LLMCache
from llm_cache_mem.prompt_cache import PromptCacheTracker

MARK = {"type": "ephemeral"}


def block(text, mark=MARK):
    return {"type": "text", "text": text} | ({"cache_control": mark} if mark else {})


class Asker:
    """Asks a Claude through a tracker; ``alerts`` are those so far."""

    def __init__(self, client, clock, **options):
        self.alerts = []
        self.tracker = PromptCacheTracker(
            prices=PRICES, clock=clock, on_alert=self.alerts.append, **options
        )
        self.create = self.tracker.wrap(client.messages.create)

    def __call__(self, system=SYSTEM, question="why", messages=None, **params):
        system = [block(system)] if isinstance(system, str) else system
        messages = messages or [{"role": "user", "content": question}]
        return self.create(model=CLAUDE, max_tokens=5, system=system, messages=messages, **params)

    @property
    def reasons(self):
        return [(alert.reason, alert.path) for alert in self.alerts]


@pytest.fixture
def ask(claude, clock):
    return Asker(claude, clock)


def test_a_healthy_prefix_has_its_share_and_no_alert(ask, clock):
    for number in range(10):
        ask(question=f"question {number}")
        clock.advance(60)
    (prefix,) = ask.tracker.stats().prefixes
    assert (prefix.calls, prefix.read_tokens, prefix.write_tokens) == (10, 18_000, 2_000)
    assert prefix.share == pytest.approx(0.9, abs=0.01)
    assert prefix.recent_share > 0.95
    assert prefix.saved_usd == pytest.approx((18_000 * 2.70 - 2_000 * 0.75) / 1e6)
    assert ask.alerts == []


def test_a_changed_system_prompt_is_located_but_not_quoted(ask, caplog):
    before = f"{SYSTEM}\nSecret Zacharias works here.\n{SYSTEM}"
    for _ in range(3):
        ask(before)
    ask(before.replace("Zacharias", "Balthasar"))
    (alert,) = ask.alerts
    assert alert.reason == "changed"
    place = before.index("\nSecret") + 1
    assert (
        alert.path == f"system[0].text, characters {place:,} to"
        f" {place + len('Secret Balthasar works here.') + 1:,}"
    )
    assert (alert.before > 0.4, alert.now, alert.read_tokens) == (True, 0.0, 0)
    assert str(alert) in caplog.text
    assert "Balthasar" not in caplog.text


def test_text_put_before_a_one_line_prompt_is_found(ask):
    rules = " ".join(f"Be kind to guest {number}." for number in range(600))
    for _ in range(3):
        ask(rules)
    ask(f"It is ten. {rules}")
    (alert,) = ask.alerts
    assert (alert.reason, alert.path) == ("changed", "system[0].text, characters 0 to 11")
    assert alert.before > 0.4


def test_a_changed_tool_is_told_with_its_field(ask):
    tool = {
        "name": "look",
        "description": "word " * 600,
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    other = {**tool, "input_schema": {"type": "object", "properties": {"city": {"type": "number"}}}}
    for _ in range(2):
        ask(tools=[tool, tool | {"name": "see"}])
    ask(tools=[tool, other | {"name": "see"}])
    assert ask.reasons == [("changed", "tools[1].input_schema.properties.city.type")]


def test_a_timestamp_in_the_prompt_is_reported_once(ask, clock):
    for minute in range(20):
        ask(f"Today is 2026-11-23 10:{minute:02}.\n{SYSTEM}")
        clock.advance(30)
    assert ask.reasons == [("changed", "system[0].text, characters 0 to 27")]
    assert ask.tracker.stats().alerts == 1


def test_an_expired_prefix_is_told_with_how_long_it_was_unused(ask, clock):
    ask()
    ask()
    clock.advance(1000)
    ask()
    (alert,) = ask.alerts
    assert (alert.reason, alert.idle_seconds) == ("expired", 1000)
    assert "after 1,000 s" in str(alert)


def test_an_hour_is_not_expired_after_ten_minutes(ask, clock, server):
    hour = [block(SYSTEM, {"type": "ephemeral", "ttl": "1h"})]
    ask(hour)
    clock.advance(600)
    server.written.clear()
    ask(hour)
    assert ask.reasons == [("unknown", None)]


def test_a_prefix_too_short_for_the_model_is_told_once(ask):
    for _ in range(3):
        ask("short prompt")
    (alert,) = ask.alerts
    assert (alert.reason, alert.expected_tokens) == ("too short", 1024)


def test_an_evicted_provider_prefix_alerts_again_after_recovery(ask, server):
    ask()
    for _ in range(2):
        ask()
        server.written.clear()
        ask()
    assert ask.reasons == [("unknown", None)] * 2


def test_other_prompts_and_new_conversations_are_no_changes(ask, clock):
    systems = [" ".join(f"agent{agent}-{number}" for number in range(1500)) for agent in range(5)]
    for turn in range(6):
        for system in systems:
            ask(system, question=f"conversation {turn} " + "word " * 500)
        clock.advance(100)
    assert ask.alerts == []
    assert len(ask.tracker.stats().prefixes) == 5


def test_calls_without_breakpoints_raise_no_alert(ask):
    for number in range(3):
        ask([block(f"{number} {SYSTEM}", None)])
    assert ask.alerts == []


def talk(turns, *, edited=False):
    messages = []
    for number in range(turns):
        role = "user" if number % 2 == 0 else "assistant"
        text = f"turn {number} " + "word " * 300
        if edited and number == 1:
            text = "summarised"
        messages.append({"role": role, "content": [block(text, None)]})
    messages[-1]["content"][0]["cache_control"] = MARK
    return messages


def test_a_rewritten_conversation_is_located_a_growing_one_is_fine(ask):
    for turns in (5, 7, 9, 11):
        ask(messages=talk(turns))
    assert ask.alerts == []
    ask(messages=talk(13, edited=True))
    assert ask.reasons == [("changed", "messages[1]")]


def test_a_conversation_that_goes_back_is_no_change(ask):
    ask(messages=talk(9))
    ask(messages=talk(5))
    assert ask.alerts == []


def test_leading_documents_are_part_of_the_prefix(ask):
    def asked(document, question):
        return [{"role": "user", "content": [block(document), block(question, None)]}]

    document = "\n".join(f"line {n} of the handbook" for n in range(700))
    for question in ("a", "b", "c"):
        ask("Be kind.", messages=asked(document, question))
    assert len(ask.tracker.stats().prefixes) == 1
    ask("Be kind.", messages=asked(document.replace("line 350", "line CCC"), "d"))
    ((reason, path),) = ask.reasons
    assert reason == "changed"
    assert path.startswith("messages[0].content[0].text, characters ")


def test_concurrent_first_calls_are_no_drop(clock):
    alerts = []
    tracker = PromptCacheTracker(clock=clock, on_alert=alerts.append)
    request = {
        "model": CLAUDE,
        "system": [block(SYSTEM)],
        "messages": [{"role": "user", "content": "x"}],
    }
    usage = {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 2000}
    for _ in range(10):  # all were under way for five seconds, and end at once
        tracker.observe(request, {"usage": usage}, seconds=5)
    assert alerts == []
    clock.advance(10)
    tracker.observe(request, {"usage": usage}, seconds=5)
    assert len(alerts) == 1


@pytest.mark.parametrize(
    ("response", "diagnosis"),
    [
        (
            {
                "diagnostics": {
                    "cache_miss_reason": {"type": "tools_changed", "cache_missed_input_tokens": 9}
                }
            },
            "tools",
        ),
        ({"prompt_cache_diagnostics": {"type": "cache_miss", "reason": "input_changed"}}, "input"),
    ],
)
def test_the_providers_own_diagnosis_is_heard(clock, response, diagnosis):
    alerts = []
    tracker = PromptCacheTracker(clock=clock, on_alert=alerts.append)
    request = {"model": CLAUDE, "system": [block(SYSTEM)], "messages": []}
    usage = {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 2000}
    tracker.observe(request, {"usage": usage})
    clock.advance(1)
    tracker.observe(request, {"usage": usage, **response})
    assert (alerts[0].reason, alerts[0].path) == ("changed", diagnosis)
    assert alerts[0].diagnosis.endswith("_changed")


# -- OpenAI


def test_openai_is_tracked_in_both_of_its_ways(gpt, clock):
    alerts = []
    tracker = PromptCacheTracker(clock=clock, on_alert=alerts.append)
    create = tracker.wrap(gpt.chat.completions.create)
    for model in (OLDER_GPT, GPT):
        for question in ("a", "b", "c"):
            turns = [
                {
                    "role": "system",
                    "content": [
                        {
                            "type": "text",
                            "text": SYSTEM,
                            "prompt_cache_breakpoint": {"mode": "explicit"},
                        }
                    ],
                }
            ]
            create(model=model, messages=[*turns, {"role": "user", "content": question}])
            clock.advance(5)
    assert alerts == []
    shares = {one.model: one.share for one in tracker.stats().prefixes}
    assert shares[OLDER_GPT] == pytest.approx(2 * 1920 / 6003, abs=0.01)
    assert shares[GPT] == pytest.approx(2 / 3, abs=0.01)


def test_an_automatic_cache_that_never_gets_to_read_is_noticed(gpt, clock):
    alerts = []
    create = PromptCacheTracker(clock=clock, on_alert=alerts.append).wrap(
        gpt.chat.completions.create
    )
    for minute in range(5):
        turns = [
            {"role": "system", "content": f"It is 10:{minute:02}\n{SYSTEM}"},
            {"role": "user", "content": "x"},
        ]
        create(model=OLDER_GPT, messages=turns)
        clock.advance(60)
    assert [(alert.reason, alert.path) for alert in alerts] == [
        ("changed", "messages[0].content[0].text, characters 0 to 12")
    ]


# -- Streams


def test_streams_of_the_real_sdks_are_watched_while_they_are_read(claude, gpt, clock):
    tracker = PromptCacheTracker(clock=clock)
    params = {
        "model": CLAUDE,
        "max_tokens": 9,
        "system": [block(SYSTEM)],
        "messages": [{"role": "user", "content": "x"}],
    }
    for _ in range(2):
        with tracker.wrap(claude.messages.create)(**params, stream=True) as stream:
            assert next(stream).type == "message_start"
            assert [event.type for event in stream][-1] == "message_stop"
            assert stream.response.status_code == 200  # still the SDK's stream
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "x"}]
    for _ in range(2):
        chunks = list(
            tracker.wrap(gpt.chat.completions.create)(model=OLDER_GPT, messages=turns, stream=True)
        )
        assert len(chunks) > 3
    by_model = {one.model: (one.calls, one.read_tokens) for one in tracker.stats().prefixes}
    assert by_model == {CLAUDE: (2, 2000), OLDER_GPT: (2, 1920)}


def test_a_stream_that_is_left_was_paid_for(claude, clock):
    tracker = PromptCacheTracker(clock=clock)
    params = {
        "model": CLAUDE,
        "max_tokens": 9,
        "system": [block(SYSTEM)],
        "messages": [{"role": "user", "content": "x"}],
    }
    stream = tracker.wrap(claude.messages.create)(**params, stream=True)
    next(stream)
    stream.close()
    stream.close()
    assert tracker.stats().prefixes[0].write_tokens == 2000


async def test_async_clients_and_their_streams_are_watched(async_claude, async_gpt, clock):
    tracker = PromptCacheTracker(clock=clock, prices=PRICES)
    create = tracker.wrap(async_claude.messages.create)
    params = {
        "model": CLAUDE,
        "max_tokens": 9,
        "system": [block(SYSTEM)],
        "messages": [{"role": "user", "content": "x"}],
    }
    await create(**params)
    async with await create(**params, stream=True) as stream:
        assert len([event async for event in stream]) > 3
    response = await tracker.wrap(async_gpt.responses.create)(
        model=GPT, instructions=SYSTEM, input="x", stream=True
    )
    assert len([event async for event in response]) == 2
    assert {one.model: one.calls for one in tracker.stats().prefixes} == {CLAUDE: 2, GPT: 1}


# -- One ledger


def test_tracked_calls_count_in_the_ledger_once(claude, clock):
    cache = LLMCache(prices=PRICES, clock=clock)
    tracker = PromptCacheTracker(cache, clock=clock)
    create = tracker.wrap(claude.messages.create)
    params = {"model": CLAUDE, "max_tokens": 7, "system": [block(SYSTEM)]}
    create(messages=[{"role": "user", "content": "beside"}], **params)
    for _ in range(3):
        cache.get_or_call([{"role": "user", "content": "through"}], create, **params)
    provider = cache.stats().provider
    assert (provider.calls, provider.write_tokens, provider.read_tokens) == (2, 2000, 2000)
    assert provider.saved_usd == pytest.approx((2000 * 2.70 - 2000 * 0.75) / 1e6)
    assert tracker.stats().provider == provider
    assert [saving.calls for saving in cache.stats().savings()] == [2, 0, 1]


def test_a_tracker_sees_every_paid_call_and_no_hit(claude, clock):
    cache = LLMCache(prices=PRICES, clock=clock)
    tracker = PromptCacheTracker(cache, clock=clock)
    for _ in range(2):
        for question in ("a", "b"):
            params = {"model": CLAUDE, "max_tokens": 7, "system": [block(SYSTEM)]}
            cache.get_or_call(
                [{"role": "user", "content": question}], claude.messages.create, **params
            )
    (prefix,) = tracker.stats().prefixes
    assert (prefix.calls, prefix.write_tokens, prefix.read_tokens) == (2, 2000, 2000)
    assert cache.stats().provider == tracker.stats().provider


def test_a_cache_below_the_sdk_is_seen_through_and_its_hits_are_no_calls(server, clock):
    http = pytest.importorskip("llm_cache_mem.http")
    cache = LLMCache(prices=PRICES, clock=clock)
    tracker = PromptCacheTracker(cache, clock=clock)
    with http.cache_client(
        anthropic.Anthropic(api_key="none", base_url=server.url, max_retries=0), cache
    ) as client:
        create = tracker.wrap(client.messages.create)
        for question in ("a", "a", "b", "a"):
            create(
                model=CLAUDE,
                max_tokens=7,
                system=[block(SYSTEM)],
                messages=[{"role": "user", "content": question}],
            )
    assert len(server.requests) == 2
    assert cache.stats().hits == 2
    (prefix,) = tracker.stats().prefixes
    assert (prefix.calls, prefix.write_tokens, prefix.read_tokens) == (2, 2000, 2000)
    assert cache.stats().provider == tracker.stats().provider


def test_calls_through_the_http_transport_need_no_wrapping(server, clock):
    http = pytest.importorskip("llm_cache_mem.http")
    tracker = PromptCacheTracker(cache := LLMCache(prices=PRICES, clock=clock), clock=clock)
    with http.cache_client(
        anthropic.Anthropic(api_key="none", base_url=server.url, max_retries=0), cache
    ) as client:
        for number in range(3):
            turns = [{"role": "user", "content": "Hello"}]
            with client.messages.create(
                model=CLAUDE,
                max_tokens=7,
                system=[block(f"It is 10:{number:02}.\n{SYSTEM}")],
                messages=turns,
                stream=True,
            ) as stream:
                assert len(list(stream)) > 3
            clock.advance(60)
    assert (tracker.stats().calls, tracker.stats().alerts) == (3, 1)


# -- Robustness


def test_memory_is_bounded(clock):
    tracker = PromptCacheTracker(clock=clock, max_prefixes=10, max_conversations=20)
    for number in range(200):
        request = {
            "model": f"claude-{number % 7}",
            "system": f"{number} " * 50,
            "messages": [{"role": "user", "content": f"{number}"}],
        }
        tracker.observe(request, {"usage": {"input_tokens": 2000, "output_tokens": 1}})
    assert len(tracker.stats().prefixes) == 10
    assert len(tracker._history._conversations) == 20
    assert tracker.stats().calls == 200


def test_many_threads_lose_no_calls(clock):
    tracker = PromptCacheTracker(clock=clock)
    usage = {"usage": {"input_tokens": 2000, "output_tokens": 1, "cache_read_input_tokens": 5}}

    def work(name):
        for number in range(200):
            tracker.observe(
                {
                    "model": "claude-x",
                    "system": name,
                    "messages": [{"role": "user", "content": str(number)}],
                },
                usage,
            )

    threads = [threading.Thread(target=work, args=(str(n % 3),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tracker.stats().calls == 1600
    assert sum(one.calls for one in tracker.stats().prefixes) == 1600


class Hostile:
    def __getattr__(self, name):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"messages": Hostile(), "tools": Hostile(), "system": Hostile()},
        {"messages": [Hostile(), None, 3, "x", ["y"]]},
        {"model": 3, "tools": "abc", "system": {"a": 1}, "messages": {"role": "user"}},
        {"messages": [{"role": "user", "content": "\ud800" * 5000}]},
        {"messages": [{"role": "user", "content": [{"a": [[[[[{"b": {}}]]]]]}] * 50}]},
        {"input": "text", "instructions": None},
    ],
    ids=[str(number) for number in range(7)],
)
def test_requests_of_any_shape_break_nothing(request_, caplog):
    tracker = PromptCacheTracker()
    for _ in range(2):
        tracker.observe(
            request_,
            {"usage": {"input_tokens": 5000, "output_tokens": 1, "cache_read_input_tokens": 10}},
        )
    assert tracker.stats().calls == 2, caplog.text


def test_an_endless_request_is_read_to_a_depth():
    endless: dict = {}
    endless["self"] = endless
    tracker = PromptCacheTracker()
    tracker.observe({"messages": [endless]}, {"usage": {"input_tokens": 5000, "output_tokens": 1}})
    assert tracker.stats().calls == 1


@pytest.mark.parametrize(
    "response",
    [None, "text", {}, Hostile(), {"usage": {"input_tokens": -3}}, []],
    ids=["0", "1", "2", "3", "4", "5"],
)
def test_answers_without_usage_are_counted_as_that(response):
    tracker = PromptCacheTracker()
    tracker.observe({"model": "m"}, response)
    assert (tracker.stats().calls, tracker.stats().without_usage) == (0, 1)


def test_a_listeners_error_reaches_no_caller(clock, caplog):
    def listener(alert):
        raise ZeroDivisionError

    tracker = PromptCacheTracker(clock=clock, on_alert=listener)
    assert (
        tracker.observe(
            {"model": CLAUDE, "system": [block("x")]},
            {"usage": {"input_tokens": 9, "output_tokens": 1}},
        )
        is not None
    )
    assert "on_alert raised" in caplog.text


def test_errors_of_the_call_are_raised_unchanged(claude, server):
    server.fail = [529]
    ask = Asker(claude, lambda: 0.0)
    with pytest.raises(Exception, match="as told"):
        ask()
    assert ask.tracker.stats().calls == 0


def test_the_hash_of_a_prefix_is_the_same_in_every_process():
    tracker = PromptCacheTracker()
    request = {"model": "m", "tools": [{"name": "t"}], "system": "s", "messages": []}
    tracker.observe(request, {"usage": {"input_tokens": 5, "output_tokens": 1}})
    assert tracker.stats().prefixes[0].prefix == "f3f0adde5c605607750c53fafde9e1ba"


@pytest.mark.parametrize(
    "options", [{"drop": 0}, {"drop": 1.5}, {"max_prefixes": 0}, {"max_conversations": 0}]
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        PromptCacheTracker(**options)
    with pytest.raises(TypeError, match="on_alert"):
        PromptCacheTracker(on_alert=3)  # type: ignore[arg-type]


def test_the_statistics_are_tables(ask):
    assert str(PromptCacheTracker()) == "0 calls, 0 more without usage, 0 alerts"
    ask()
    assert CLAUDE in str(ask.tracker)
    assert "<table>" in ask.tracker._repr_html_()


def test_a_client_passed_as_a_cache_gets_a_hint(claude):
    with pytest.raises(
        TypeError,
        match=r"must be an LLMCache, not Anthropic; calls of a client are observed by wrap\(\)",
    ):
        PromptCacheTracker(claude)


def test_a_client_in_place_of_its_method_is_refused(claude):
    with pytest.raises(TypeError, match=r"such as client\.messages\.create, not Anthropic"):
        PromptCacheTracker().wrap(claude)


async def test_an_object_that_is_called_like_a_coroutine_function_is_watched():
    class Asks:
        async def __call__(self, **request):
            return {"usage": {"input_tokens": 9, "output_tokens": 1}}

    tracker = PromptCacheTracker()
    await tracker.wrap(Asks())(model=CLAUDE, system=[block("x")])
    assert tracker.stats().calls == 1
