"""One LLM's credentials never decide what another LLM of the same name is told."""

import threading
from typing import Any

import pytest
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index_llm_cache_mem import CachedLLM, set_llm_cache
from threads import WAIT_SECONDS, start, until

from llm_cache_mem import LLMCache


class Keyed(CustomLLM):
    """Fails for the key "bad", when it is let; others of its name answer."""

    api_key: str = "good"
    timeout: float | None = None

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="keyed")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        STARTED.release()
        assert PASSED.acquire(timeout=WAIT_SECONDS)
        if self.api_key == "bad":
            raise PermissionError
        return CompletionResponse(text="answer")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


STARTED, PASSED = threading.Semaphore(0), threading.Semaphore(0)


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_bad_key_fails_its_own_caller_only(everywhere: bool) -> None:
    cache = LLMCache()
    bad, good = Keyed(api_key="bad"), Keyed(api_key="good")
    with set_llm_cache(cache if everywhere else None):
        one, other = (bad, good) if everywhere else (CachedLLM(bad, cache), CachedLLM(good, cache))
        first = start(lambda: one.complete("hi").text)
        assert STARTED.acquire(timeout=WAIT_SECONDS)
        second = start(lambda: other.complete("hi").text)
        flights = cache.engine.flights._table._listed
        until(lambda: sum(len(flight.waiters) for flight in flights.values()) == 1)
        PASSED.release(2)
        with pytest.raises(PermissionError):
            first.result(WAIT_SECONDS)
        assert second.result(WAIT_SECONDS) == "answer"
    assert STARTED.acquire(timeout=WAIT_SECONDS)


def test_follower_waits_no_longer_than_the_timeout_of_its_llm() -> None:
    cache = LLMCache()
    leader = start(lambda: CachedLLM(Keyed(), cache).complete("hi").text)
    assert STARTED.acquire(timeout=WAIT_SECONDS)
    with pytest.raises(TimeoutError):
        CachedLLM(Keyed(timeout=0.01), cache).complete("hi")
    PASSED.release()
    assert leader.result(WAIT_SECONDS) == "answer"
