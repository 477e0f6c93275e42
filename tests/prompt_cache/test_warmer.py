"""Warmer: the smallest request that writes the provider's cache, and later calls that read exactly
that."""

import copy
import json

import anthropic
import pytest
from prompt_cache_server import CLAUDE, GPT, OLDER_GPT, PRICES, SYSTEM, PromptCacheServer

from llm_cache_mem.prompt_cache import Warmer

TOOLS = [
    {
        "name": "look",
        "description": "word " * 1100,
        "input_schema": {"type": "object", "properties": {}},
    }
]
DOCUMENTS = ["first " * 1500, "second " * 1500]


def test_it_writes_and_the_calls_that_follow_read(claude, server):
    warmed = Warmer(claude, prices=PRICES).warm(model=CLAUDE, system=SYSTEM)
    assert (warmed.written_tokens, warmed.read_tokens, warmed.output_tokens) == (2000, 0, 0)
    assert warmed.cost_usd == pytest.approx((2000 * 3.75 + 1 * 3.0) / 1e6)
    assert server.requests[-1]["max_tokens"] == 0
    usage = claude.messages.create(
        **warmed.prefix.request("Where is my parcel?", max_tokens=5)
    ).usage
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (2000, 0)


def test_warming_again_reports_a_read(claude):
    warmer = Warmer(claude, prices=PRICES)
    warmer.warm(model=CLAUDE, system=SYSTEM)
    again = warmer.warm(model=CLAUDE, system=SYSTEM)
    assert (again.written_tokens, again.read_tokens) == (0, 2000)
    assert again.cost_usd == pytest.approx((2000 * 0.30 + 1 * 3.0) / 1e6)


def test_verify_proves_that_a_second_call_reads_it(claude, server):
    warmed = Warmer(claude).warm(model=CLAUDE, system=SYSTEM, verify=True)
    assert (warmed.verified, warmed.verified_read_tokens, len(server.requests)) == (True, 2000, 2)
    assert Warmer(claude).warm(model=CLAUDE, system=SYSTEM).verified is None


def test_verify_tells_when_the_server_forgets_at_once(clock, caplog):
    with (
        PromptCacheServer(clock, caching=False) as server,
        anthropic.Anthropic(api_key="x", base_url=server.url) as client,
    ):
        warmed = Warmer(client).warm(model=CLAUDE, system=SYSTEM, verify=True)
    assert warmed.verified is False
    assert "no prompt cache" in warmed.warnings[0]
    assert "will not find it" in warmed.warnings[1]
    assert "will not find it" in caplog.text


def test_system_tools_and_documents_get_breakpoints(claude, server):
    warmer = Warmer(claude)
    warmed = warmer.warm(model=CLAUDE, system=SYSTEM, tools=TOOLS, documents=DOCUMENTS)
    assert warmed.prefix.breakpoints == 3
    whole = warmed.written_tokens
    assert whole > 2000 + 1100 + 3000
    call = warmed.prefix.request("What do they say?", max_tokens=5)
    assert [block["type"] for block in call["messages"][0]["content"]] == ["text"] * 3
    assert claude.messages.create(**call).usage.cache_read_input_tokens == whole
    without = warmer.prefix(model=CLAUDE, system=SYSTEM, tools=TOOLS).request(
        "No documents", max_tokens=5
    )
    assert claude.messages.create(**without).usage.cache_read_input_tokens == whole - 3000


def test_a_conversation_goes_on_from_the_prefix(claude):
    turns = [
        {"role": "user", "content": SYSTEM},
        {"role": "assistant", "content": "I have read it."},
    ]
    warmed = Warmer(claude).warm(model=CLAUDE, messages=turns)
    call = warmed.prefix.request("And?", max_tokens=5)
    assert [turn["role"] for turn in call["messages"]] == ["user", "assistant", "user"]
    assert (
        claude.messages.create(**call).usage.cache_read_input_tokens == warmed.written_tokens > 2000
    )


def test_an_hour_costs_more_and_lives_longer(claude, clock):
    warmed = Warmer(claude, prices=PRICES, clock=clock).warm(model=CLAUDE, system=SYSTEM, ttl="1h")
    assert warmed.cost_usd == pytest.approx((2000 * 6.0 + 3.0) / 1e6)
    assert warmed.expires_at == clock() + 3600
    clock.advance(3599)
    assert (
        claude.messages.create(
            **warmed.prefix.request("?", max_tokens=5)
        ).usage.cache_read_input_tokens
        == 2000
    )


def test_a_server_that_refuses_no_tokens_at_all_is_asked_for_one(clock):
    with (
        PromptCacheServer(clock, refuse_zero=True) as server,
        anthropic.Anthropic(api_key="x", base_url=server.url) as client,
    ):
        warmer = Warmer(client)
        assert warmer.warm(model=CLAUDE, system=SYSTEM).written_tokens == 2000
        warmer.warm(model=CLAUDE, system=SYSTEM)
        assert [request["max_tokens"] for request in server.requests] == [0, 1, 1]


def test_a_prefix_for_calls_that_think_leaves_room_for_an_answer(claude, server):
    warmer, thinking = Warmer(claude), {"type": "enabled", "budget_tokens": 2048}
    warmed = warmer.warm(model=CLAUDE, system=SYSTEM, thinking=thinking)
    assert (warmed.written_tokens, server.requests[-1]["max_tokens"]) == (2000, 2049)
    usage = claude.messages.create(
        **warmed.prefix.request("Where is my parcel?", max_tokens=4000)
    ).usage
    assert usage.cache_read_input_tokens == 2000


def test_an_unknown_model_or_a_bad_request_is_raised(claude, server):
    server.fail = [400, 400]
    with pytest.raises(anthropic.BadRequestError):
        Warmer(claude).warm(model=CLAUDE, system=SYSTEM)
    server.fail = [529]
    with pytest.raises(anthropic.APIStatusError):
        Warmer(claude).warm(model=CLAUDE, system=SYSTEM)
    assert len(server.requests) == 3


def test_a_prompt_below_the_minimum_gets_a_clear_warning(claude, caplog):
    warmed = Warmer(claude).warm(model=CLAUDE, system="secret " * 900)
    assert warmed.warnings == (
        "nothing was cached: it has 901 tokens, and claude-sonnet-5 caches from 1,024 on",
    )
    assert warmed.warnings[0] in caplog.text
    assert "secret" not in caplog.text


def test_a_changed_prefix_is_located_but_not_quoted(claude, clock, caplog):
    warmer = Warmer(claude, clock=clock)
    warmer.warm(model=CLAUDE, system=SYSTEM + "\nIt is Monday, says Zacharias.", name="support")
    clock.advance(100)
    changed = warmer.warm(
        model=CLAUDE, system=SYSTEM + "\nIt is Tuesday, says Zacharias.", name="support"
    )
    assert "first at system[0].text, characters" in changed.warnings[0]
    assert "unused for 200 s" in changed.warnings[0]
    assert "Zacharias" not in caplog.text
    clock.advance(301)
    assert warmer.warm(model=CLAUDE, system=SYSTEM, name="support").warnings == ()


def test_the_prefix_is_a_copy_of_the_callers_objects(claude):
    system = [{"type": "text", "text": SYSTEM}]
    tools = copy.deepcopy(TOOLS)
    prefix = Warmer(claude).prefix(model=CLAUDE, system=system, tools=tools)
    assert (system, tools) == ([{"type": "text", "text": SYSTEM}], TOOLS)
    before = json.dumps(prefix.request("?", max_tokens=1))
    system[0]["text"] = "other"
    prefix.request("?")["system"][0]["text"] = "other"
    assert json.dumps(prefix.request("?", max_tokens=1)) == before


def test_breakpoints_of_the_callers_stay_where_they_are(claude):
    own = [
        {"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "today"},
    ]
    prefix = Warmer(claude).prefix(model=CLAUDE, system=own, tools=TOOLS)
    assert prefix.request("?")["system"] == own
    assert prefix.breakpoints == 2


def test_never_more_than_four_breakpoints(claude):
    marked = [
        {"type": "text", "text": f"{n}", "cache_control": {"type": "ephemeral"}} for n in range(4)
    ]
    assert (
        Warmer(claude).prefix(model=CLAUDE, system=marked, tools=TOOLS, documents=["x"]).breakpoints
        == 4
    )
    with pytest.raises(ValueError, match="sets 5"):
        Warmer(claude).prefix(model=CLAUDE, system=[*marked, marked[0]])


def test_misordered_breakpoints_are_found_before_sending(claude):
    own = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    with pytest.raises(ValueError, match="longer ones first"):
        Warmer(claude).prefix(model=CLAUDE, system=own, tools=TOOLS)


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ({"model": CLAUDE}, ValueError),
        ({"model": "", "system": "x"}, TypeError),
        ({"model": CLAUDE, "system": "x", "ttl": "2h"}, ValueError),
        ({"model": CLAUDE, "system": "x", "max_tokens": 5}, TypeError),
        ({"model": CLAUDE, "system": "x", "stream": True}, TypeError),
        ({"system": "x"}, TypeError),
        ({"model": CLAUDE, "documents": "one text is not a list of documents"}, TypeError),
        ({"model": CLAUDE, "messages": "hello"}, TypeError),
        ({"model": CLAUDE, "tools": TOOLS[0]}, TypeError),
        ({"model": CLAUDE, "system": 5}, TypeError),
        ({"model": CLAUDE, "system": {"type": "text", "text": "x"}}, TypeError),
    ],
)
def test_wrong_input_is_told_early(claude, server, parts, error):
    with pytest.raises(error):
        Warmer(claude).warm(**parts)
    assert server.requests == []


def test_a_call_cannot_replace_the_prefix(claude):
    prefix = Warmer(claude).prefix(model=CLAUDE, system=SYSTEM)
    with pytest.raises(TypeError, match="system"):
        prefix.request("?", system="other")


def test_an_object_that_is_no_client_is_refused():
    with pytest.raises(TypeError, match="not a client"):
        Warmer(object())


def test_nothing_of_the_content_is_in_the_repr(claude):
    warmed = Warmer(claude).warm(model=CLAUDE, system=SYSTEM)
    assert "rule1" not in repr(warmed)
    assert "rule1" not in str(warmed)


async def test_async_clients_are_awaited(async_claude, claude):
    warmer = Warmer(async_claude, prices=PRICES)
    warmed = await warmer.awarm(model=CLAUDE, system=SYSTEM, verify=True)
    assert (warmed.written_tokens, warmed.verified) == (2000, True)
    with pytest.raises(TypeError, match="awarm"):
        warmer.warm(model=CLAUDE, system=SYSTEM)
    with pytest.raises(TypeError, match="not async"):
        await Warmer(claude).awarm(model=CLAUDE, system=SYSTEM)


# -- OpenAI


def test_openai_chat_is_warmed_at_an_explicit_breakpoint(gpt, server):
    warmed = Warmer(gpt, prices=PRICES).warm(
        model=GPT, system=SYSTEM, prompt_cache_key="support", verify=True
    )
    assert (
        warmed.written_tokens == 2001
    )  # with the filler, at the breakpoint that the model sets by itself
    assert (warmed.verified, warmed.warnings) == (True, ())
    usage = gpt.chat.completions.create(
        **warmed.prefix.request("Where?", max_completion_tokens=5)
    ).usage
    assert usage.prompt_tokens_details.cached_tokens == 2000
    assert server.requests[-1]["prompt_cache_key"] == "support"
    assert server.requests[0]["max_completion_tokens"] == 1


def test_openai_responses_are_prewarmed_without_output(gpt, server):
    warmer = Warmer(gpt, api="responses")
    warmed = warmer.warm(model=GPT, system=SYSTEM, documents=DOCUMENTS)
    assert server.requests[0]["prompt_cache_options"] == {"prewarm": True}
    assert (warmed.output_tokens, warmed.written_tokens) == (0, 5000)
    call = warmed.prefix.request("Where?", max_output_tokens=20)
    assert "prompt_cache_options" not in call
    assert gpt.responses.create(**call).usage.input_tokens_details.cached_tokens == 5000


def test_openai_responses_take_input_and_instructions_as_their_api_does(gpt, server):
    turns = [{"role": "user", "content": [{"type": "input_text", "text": SYSTEM}]}]
    warmer = Warmer(gpt, api="responses")
    warmed = warmer.warm(model=GPT, instructions="Be kind.", input=turns, verify=True)
    assert warmed.verified is True
    assert server.requests[0]["instructions"] == "Be kind."
    assert turns == [{"role": "user", "content": [{"type": "input_text", "text": SYSTEM}]}]
    usage = gpt.responses.create(**warmed.prefix.request("Where?", max_output_tokens=20)).usage
    assert usage.input_tokens_details.cached_tokens == 2000
    assert warmer.prefix(model=GPT, input=SYSTEM).request()["input"][0]["role"] == "user"


def test_system_and_documents_are_marked_apart_for_openai_too(gpt):
    prefix = Warmer(gpt).prefix(model=GPT, system=SYSTEM, documents=DOCUMENTS)
    assert prefix.breakpoints == 2


def test_documents_and_a_first_question_are_one_message(claude):
    prefix = Warmer(claude).prefix(
        model=CLAUDE, documents=DOCUMENTS, messages=[{"role": "user", "content": "Read this."}]
    )
    (turn,) = prefix.request()["messages"]
    assert len(turn["content"]) == 3
    assert "cache_control" in turn["content"][2]


def test_verify_proves_automatic_caching_of_older_openai_models(gpt, server):
    warmed = Warmer(gpt).warm(model=OLDER_GPT, system=SYSTEM, ttl="24h", verify=True)
    assert (warmed.written_tokens, warmed.verified, warmed.verified_read_tokens) == (0, True, 1920)
    assert warmed.warnings == ()
    assert server.requests[0]["prompt_cache_retention"] == "24h"
    assert warmed.prefix.breakpoints == 0
    usage = gpt.chat.completions.create(**warmed.prefix.request("Where?")).usage
    assert usage.prompt_tokens_details.cached_tokens == 1920


async def test_openais_async_client_is_awaited(async_gpt):
    assert (
        await Warmer(async_gpt).awarm(model=OLDER_GPT, system=SYSTEM, verify=True)
    ).verified is True


@pytest.mark.parametrize("part", ["tools", "messages", "documents"])
def test_a_non_list_of_parts_is_rejected_by_name(claude, part):
    with pytest.raises(TypeError, match=f"{part} must be a list of them, not a single int"):
        Warmer(claude).warm(model=CLAUDE, **{part: 3})
