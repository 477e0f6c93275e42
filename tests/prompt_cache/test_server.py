"""The test double keeps the rules it claims to keep, asked through the real SDKs."""

import anthropic
import pytest
from prompt_cache_server import CLAUDE, GPT, OLDER_GPT, SYSTEM

MARK = {"type": "ephemeral"}


def block(text, mark=None):
    return {"type": "text", "text": text} | ({"cache_control": mark} if mark else {})


def ask(client, system, question="why", **params):
    params = {"max_tokens": 5} | params
    usage = client.messages.create(
        model=CLAUDE, system=system, messages=[{"role": "user", "content": question}], **params
    ).usage
    return usage.cache_creation_input_tokens, usage.cache_read_input_tokens, usage.input_tokens


def test_a_marked_prefix_is_written_and_then_read(claude):
    assert ask(claude, [block(SYSTEM, MARK)]) == (2000, 0, 1)
    assert ask(claude, [block(SYSTEM, MARK)], "another question") == (0, 2000, 2)


def test_no_breakpoint_means_no_cache_write(claude):
    assert ask(claude, [block(SYSTEM)]) == (0, 0, 2001)


def test_top_level_cache_control_marks_the_last_block(claude):
    assert ask(claude, SYSTEM, cache_control=MARK) == (2001, 0, 0)


def test_a_short_prefix_is_silently_not_cached(claude):
    assert ask(claude, [block("short " * 1023, MARK)]) == (0, 0, 1024)
    assert ask(claude, [block("short " * 1023, MARK)]) == (0, 0, 1024)


def test_a_read_prolongs_the_life_and_disuse_ends_it(claude, clock):
    ask(claude, [block(SYSTEM, MARK)])
    for _ in range(3):
        clock.advance(299)
        assert ask(claude, [block(SYSTEM, MARK)])[1] == 2000
    clock.advance(300)
    assert ask(claude, [block(SYSTEM, MARK)])[1] == 0


def test_an_hour_is_an_hour(claude, clock):
    mark = {"type": "ephemeral", "ttl": "1h"}
    answer = claude.messages.create(
        model=CLAUDE,
        max_tokens=1,
        system=[block(SYSTEM, mark)],
        messages=[{"role": "user", "content": "x"}],
    )
    assert answer.usage.cache_creation.ephemeral_1h_input_tokens == 2000
    clock.advance(3599)
    assert ask(claude, [block(SYSTEM, mark)])[1] == 2000


def test_tools_come_before_the_system_prompt(claude):
    tool = {"name": "look", "description": SYSTEM, "input_schema": {"type": "object"}}
    ask(claude, [block("one " * 1100, MARK)], tools=[tool])
    assert ask(claude, [block("one " * 1100, MARK)], tools=[tool | {"name": "see"}])[1] == 0


def test_a_breakpoint_looks_twenty_blocks_back(claude):
    blocks = [block(f"{n} " * 100) for n in range(45)]
    ask(claude, [*blocks[:19], block("end " * 100, MARK)])
    near = [*blocks[:19], block("end " * 100), *blocks[20:38], block("x", MARK)]
    far = [*blocks[:19], block("end " * 100), *blocks[20:40], block("y", MARK)]
    assert ask(claude, near)[1] == 2000
    assert ask(claude, far)[1] == 0


def test_five_breakpoints_are_one_too_many(claude):
    with pytest.raises(anthropic.BadRequestError):
        ask(claude, [block(f"{n} " * 300, MARK) for n in range(5)])


def test_the_longer_lifetime_must_come_first(claude):
    with pytest.raises(anthropic.BadRequestError):
        ask(claude, [block("a", MARK), block("b", {"type": "ephemeral", "ttl": "1h"})])


def test_no_tokens_at_all_write_but_not_as_a_stream(claude):
    assert ask(claude, [block(SYSTEM, MARK)], max_tokens=0) == (2000, 0, 1)
    with pytest.raises(anthropic.BadRequestError):
        ask(claude, [block(SYSTEM, MARK)], max_tokens=0, stream=True)


def test_older_openai_models_do_not_report_cache_writes(gpt):
    for expected in (0, 1920):
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "why"}]
        details = gpt.chat.completions.create(
            model=OLDER_GPT, messages=turns
        ).usage.prompt_tokens_details
        assert (details.cached_tokens, details.cache_write_tokens) == (expected, None)


def test_newer_openai_models_report_cache_writes(gpt):
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "why"}]
    usage = gpt.responses.create(
        model=GPT, input=turns, extra_body={"prompt_cache_options": {"prewarm": True}}
    ).usage
    assert (usage.input_tokens_details.cache_write_tokens, usage.output_tokens) == (2001, 0)
    assert (
        gpt.responses.create(model=GPT, input=turns).usage.input_tokens_details.cached_tokens
        == 2001
    )
