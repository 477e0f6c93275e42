"""A pytest plugin that wraps every LLM built in somebody else's test suite: what passes without it
must pass with it.

``pytest -p llama_index_llm_cache_mem.testing --llm-cache-wrap=own llama-index-core/tests``

``passthrough``: the cache is off. ``own``: a cache for each LLM. ``shared``: one for all, cleared
before each test. ``roundtrip``: every response is encoded and decoded, and every stream replayed
from what would have been stored.
"""

import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms.structured_llm import StructuredLLM

from llama_index_llm_cache_mem import CachedLLM, cache_of, calls
from llama_index_llm_cache_mem.calls import Collector
from llama_index_llm_cache_mem.streaming import replay
from llama_index_llm_cache_mem.values import decode
from llm_cache_mem import LLMCache
from llm_cache_mem.engine.calls import Engine
from llm_cache_mem.values.payload import Payload

__all__ = ["MODES", "Wrapping", "wrapping"]

MODES: Final = ("passthrough", "own", "shared", "roundtrip")


class Wrapping:
    """What the plugin does in one *mode*, and what it has counted: llm, and the names of the
    cache's events."""

    def __init__(self, mode: str) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
        self.mode = mode
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._shared = self._new_cache() if mode in ("passthrough", "shared") else None

    def wrap(self, llm: Any) -> Any:
        """*llm* behind a cache, as the mode has it; a StructuredLLM has an inner LLM that was
        wrapped before."""
        if isinstance(llm, StructuredLLM) or cache_of(llm) is not None:
            return llm
        self.count("llm")
        return CachedLLM(llm, self._shared or self._new_cache())

    def count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1

    def begin_test(self) -> None:
        """Tests do not answer one another."""
        if self._shared is not None:
            self._shared.clear()

    def _new_cache(self) -> LLMCache:
        if self.mode == "roundtrip":
            return _RoundTrip(self)
        return LLMCache(
            mode="off" if self.mode == "passthrough" else "on",
            on_event=lambda event: self.count(event.name),
        )

    def __str__(self) -> str:
        return (
            ", ".join(f"{number} {name}" for name, number in sorted(self.counts.items()))
            or "no LLM was built"
        )


class _RoundTrip(LLMCache):
    """No cache: each answer goes into its persistent form and back."""

    def __init__(self, wrapping: Wrapping) -> None:
        super().__init__(mode="refresh")
        own = self.engine
        self.engine = _RoundTripEngine(own.backend.inner, own.keyer, own.ledger, own.settings)
        self.engine.wrapping = wrapping


class _RoundTripEngine(Engine):
    wrapping: Wrapping

    def call(self, request: Any, fn: Callable[[], Any], **form: Any) -> Any:
        return self._again(fn(), **form)

    async def acall(self, request: Any, fn: Callable[[], Any], **form: Any) -> Any:
        return self._again(await fn(), **form)

    def _again(
        self,
        response: Any,
        encode: Callable[[Any], Any] = lambda x: x,
        decode: Callable[[Any], Any] = lambda x: x,
        **single_flight: object,
    ) -> Any:
        try:
            data = Payload.of(encode(response)).json()
        except Exception:  # noqa: BLE001  # not stored, then
            self.wrapping.count("not storable")
            return response
        again = decode(Payload.from_json(data).decode())
        self.wrapping.count("round trip" if again == response else "round trip, not equal")
        return again

    def replayed(self, collector: Collector, chunks: list[Any]) -> list[Any]:
        entry = collector.entry()
        if entry is None:
            self.wrapping.count("stream not storable")
            return chunks
        self.wrapping.count("replay")
        return replay(*decode(Payload.from_json(Payload.of(entry["value"]).json()).decode()))

    def store(self, *args: Any, **kwargs: Any) -> None:
        return None


def _collect(collector: Collector, source: Any) -> Iterator[Any]:
    if not isinstance(collector.cache.engine, _RoundTripEngine):
        yield from _plain_collect(collector, source)
        return
    chunks: list[Any] = []
    try:
        for chunk in source:
            collector.add(chunk)
            chunks.append(chunk)
    except BaseException:
        yield from chunks
        raise
    yield from collector.cache.engine.replayed(collector, chunks)


async def _acollect(collector: Collector, source: Any) -> AsyncIterator[Any]:
    chunks: list[Any] = []
    if isinstance(collector.cache.engine, _RoundTripEngine):
        try:
            async for chunk in source:
                collector.add(chunk)
                chunks.append(chunk)
        except BaseException:
            for chunk in chunks:
                yield chunk
            raise
        chunks = collector.cache.engine.replayed(collector, chunks)
        for chunk in chunks:
            yield chunk
        return
    async for chunk in _plain_acollect(collector, source):
        yield chunk


_plain_collect, _plain_acollect = calls.collect, calls.acollect


@contextmanager
def wrapping(mode: str) -> Iterator[Wrapping]:
    """Wrap every LLM that is built meanwhile, right after its construction."""
    state = Wrapping(mode)
    metaclass: Any = type(BaseModel)
    before = metaclass.__dict__.get("__call__")

    def construct(cls: Any, *args: Any, **kwargs: Any) -> Any:
        made = type.__call__(cls, *args, **kwargs)
        return state.wrap(made) if isinstance(made, BaseLLM) else made

    metaclass.__call__ = construct
    calls.collect, calls.acollect = _collect, _acollect
    try:
        yield state
    finally:
        calls.collect, calls.acollect = _plain_collect, _plain_acollect
        if before is None:
            del metaclass.__call__
        else:
            metaclass.__call__ = before


# -- Hooks

_active: "list[tuple[Any, Wrapping]]" = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that turns it on."""
    parser.addoption(
        "--llm-cache-wrap",
        choices=MODES,
        help="put a cache in front of every LlamaIndex LLM that the tests build",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin before the test modules are imported."""
    mode = config.getoption("--llm-cache-wrap")
    if mode is not None:
        manager = wrapping(mode)
        _active.append((manager, manager.__enter__()))


def pytest_unconfigure() -> None:
    """Leave pydantic as it was."""
    if _active:
        _active.pop()[0].__exit__(None, None, None)


def pytest_runtest_setup() -> None:
    """Each test has a cache of its own."""
    for _, state in _active:
        state.begin_test()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How much of the suite went through a cache."""
    for _, state in _active:
        terminalreporter.write_line(f"llm-cache-mem, {state.mode}: {state}")
