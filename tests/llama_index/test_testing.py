"""The pytest plugin that wraps the LLMs of somebody else's test suite."""

import pytest
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index_llm_cache_mem import CachedLLM, cache_of
from llama_index_llm_cache_mem.testing import MODES, wrapping
from pydantic import BaseModel

pytest_plugins = ["pytester"]

FOREIGN = """
import pytest
from unittest.mock import patch
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index_llm_cache_mem import cache_of

LLM = MockLLM(max_tokens=4)


class Counting(MockLLM):
    @property
    def number(self) -> int:
        return len(self.complete("x").text)


def test_module_level_llm():
    assert LLM.complete("x").text == "text text text text"


def test_stream():
    assert [r.delta for r in MockLLM().stream_complete("abc")] == ["a", "b", "c"]


def test_exact_class():
    assert isinstance(MockFunctionCallingLLM(), MockFunctionCallingLLM)
    assert type(MockLLM()).__name__ == "MockLLM"


def test_subclass():
    assert Counting().number == 1


def test_patched_class():
    with patch.object(MockLLM, "predict", return_value="patched"):
        assert MockLLM().predict("x") == "patched"


async def _collect(llm):
    return [r.delta async for r in await llm.astream_chat([ChatMessage(content="ab")])]


def test_async_stream():
    import asyncio
    assert "".join(asyncio.run(_collect(MockLLM(is_chat_model=True)))).startswith("user: ab")


def test_arguments():
    with pytest.raises(ValueError, match="No prompt"):
        MockLLM().complete()


def test_it_is_wrapped():
    assert cache_of(MockLLM()) is not None
    llm = MockLLM()
    llm.complete("hit")
    llm.complete("hit")
"""


PLUGIN = ("-p", "llama_index_llm_cache_mem.testing", "-p", "no:cacheprovider", "-p", "no:asyncio")


@pytest.mark.parametrize("mode", MODES)
def test_a_foreign_suite_passes_wrapped(mode, pytester):
    pytester.makepyfile(FOREIGN)
    result = pytester.runpytest_inprocess(*PLUGIN, f"--llm-cache-wrap={mode}")
    result.assert_outcomes(passed=8)
    seen = {"passthrough": "llm", "own": "1 hit", "shared": "hit", "roundtrip": "round trip"}
    result.stdout.fnmatch_lines([f"llm-cache-mem, {mode}: *{seen[mode]}*"])
    assert "not equal" not in result.stdout.str()


def test_without_the_option_it_does_nothing(pytester):
    pytester.makepyfile(
        """
        from llama_index.core.llms import MockLLM
        from llama_index_llm_cache_mem import cache_of

        def test_plain():
            assert cache_of(MockLLM()) is None
        """
    )
    pytester.runpytest_inprocess(*PLUGIN).assert_outcomes(passed=1)


def test_it_leaves_pydantic_as_it_was():
    metaclass = type(BaseModel)
    before = dict(metaclass.__dict__)
    with wrapping("own"):
        assert isinstance(MockLLM(), CachedLLM)
    assert dict(metaclass.__dict__) == before
    assert not isinstance(MockLLM(), CachedLLM)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="passthrough, own, shared, roundtrip"), wrapping("other"):
        pass


def test_shared_llms_share_and_own_ones_do_not():
    for mode, hits in (("shared", 1), ("own", 0)):
        with wrapping(mode) as state:
            for _ in range(2):
                MockLLM().chat([ChatMessage(content="x")])
        assert state.counts["hit"] == hits


def test_a_structured_llm_is_unchanged():
    class Answer(BaseModel):
        x: int

    with wrapping("own"):
        llm = StructuredLLM(llm=MockLLM(), output_cls=Answer)
    assert type(llm) is StructuredLLM
    assert cache_of(llm) is not None


def test_the_round_trip_check_finds_lost_values():
    with wrapping("roundtrip") as state:
        llm = MockLLM()
    llm.complete("x")
    assert state.counts["round trip"] == 1
    assert str(state) == "1 llm, 1 round trip"
