"""Whatever happens to the cache, the call is answered as if there were none."""

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index_llm_cache_mem import CachedLLM

from llm_cache_mem import LLMCache, MemoryStore, StoreError

LEAVES = (
    "chat",
    "complete",
    "stream_chat",
    "stream_complete",
    "achat",
    "acomplete",
    "astream_chat",
    "astream_complete",
)


class Broken(MemoryStore):
    """A store in which some operations raise."""

    blocking = True

    def __init__(self, error: Exception, *names: str) -> None:
        super().__init__()
        self._error = error
        for name in names:
            setattr(self, name, self._fail)

    def _fail(self, *args: Any, **kwargs: Any) -> Any:
        raise self._error


class Wrapper:
    """Hides that it is a memory store, which is trusted not to fail."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize(
    "error",
    [
        OSError("disk"),
        MemoryError(),
        RecursionError(),
        UnicodeError("u"),
        KeyError("k"),
        StoreError("s", "get", "r"),
    ],
)
@pytest.mark.parametrize("operations", [("get",), ("put",), ("get", "put", "delete", "discard")])
def test_a_failing_store_is_no_cache(error, operations, parrot, ask, said):
    cache = LLMCache(backend=Wrapper(Broken(error, *operations)))
    llm = CachedLLM(parrot, cache)
    for leaf in LEAVES:
        assert said(ask(llm, leaf)) == said(ask(parrot, leaf))
    assert cache.stats().errors > 0


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize(
    "settings",
    [
        {"on_event": lambda event: 1 / 0},
        {"key_fn": lambda messages, **params: 1 / 0},
        {"key_fn": lambda messages, **params: object()},
        {"admit": lambda response: 1 / 0},
        {"prices": lambda model, usage: 1 / 0},
    ],
    ids=["on_event", "key_fn raises", "key_fn no key", "admit", "prices"],
)
def test_failing_functions_of_the_application_are_no_cache(settings, leaf, parrot, ask, said):
    llm = CachedLLM(parrot, LLMCache(**settings))
    for _ in range(2):
        assert said(ask(llm, leaf)) == said(ask(parrot, leaf))


@pytest.mark.parametrize(
    "function",
    [
        "requests.identity",
        "requests.overlaid",
        "requests.messages_to_dicts",
        "calls.encode",
        "calls.decode",
        "calls.Recording.record",
        "calls.Recording.entry",
        "calls.read_chunks",
        "calls.read_whole",
        "calls.as_chunks",
    ],
)
@pytest.mark.parametrize("leaf", LEAVES)
def test_a_fault_of_our_own_is_no_cache(function, leaf, parrot, cache, ask, said, monkeypatch):
    llm = CachedLLM(parrot, cache)
    monkeypatch.setattr(f"llama_index_llm_cache_mem.{function}", lambda *args, **kwargs: 1 / 0)
    for _ in range(2):
        assert said(ask(llm, leaf)) == said(ask(parrot, leaf))


def test_a_model_whose_parts_raise_is_called_uncached(make_parrot, cache):
    class Thorny:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("do not compare me")

        __hash__ = None  # type: ignore[assignment]

    class Odd(make_parrot):
        thorn: Any = None

    llm = CachedLLM(Odd(thorn=Thorny()), cache)
    for _ in range(3):
        assert "x" in llm.complete("x").text
        llm.thorn = Thorny()


def test_a_test_double_that_skips_pydantic_works(cache):
    from llama_index.core.llms import MockLLM

    class Double(MockLLM):
        def __init__(self) -> None:
            object.__setattr__(
                self,
                "__dict__",
                {"max_tokens": None, "callback_manager": None, "rate_limiter": None},
            )

        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            return prompt.upper()

    assert CachedLLM(Double(), cache).complete("x") == "X"


def test_logs_hold_no_prompt_and_no_secret(make_parrot, caplog, ask):
    llm = make_parrot(system_prompt="sesame-system")
    with caplog.at_level(logging.DEBUG):
        for settings in (
            {"key_fn": lambda messages, **params: object()},
            {"backend": Wrapper(Broken(OSError("x"), "get", "put"))},
            {},
        ):
            cached = CachedLLM(llm, LLMCache(**settings))
            for leaf in LEAVES:
                ask(cached, leaf, "sesame-prompt", stop=object())
                ask(cached, leaf, "sesame-prompt")
    assert "sesame" not in caplog.text


def test_many_threads_make_one_call_for_each_request(parrot, cache):
    llm = CachedLLM(parrot, cache)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: llm.complete(f"prompt {i % 10}").text, range(400)))
    assert [answer[-1] for answer in answers] == [str(i % 10) for i in range(400)]
    assert len(parrot.calls) == 10


def test_strict_raises_store_errors(parrot):
    llm = CachedLLM(parrot, LLMCache(backend=Wrapper(Broken(OSError("disk"), "get")), strict=True))
    with pytest.raises(StoreError):
        llm.complete("x")
