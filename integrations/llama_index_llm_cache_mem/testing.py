"""A pytest plugin that wraps every LLM of another project's test suite: tests that pass without it
must pass with it.

``pytest -p llama_index_llm_cache_mem.testing --llm-cache-wrap=own llama-index-core/tests``

``passthrough``: the cache is off. ``own``: a cache for each LLM. ``shared``: one for all, cleared
before each test. ``roundtrip``: every response is encoded and decoded, and every stream replayed
from what would have been stored.
"""

import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms.structured_llm import StructuredLLM

from llama_index_llm_cache_mem import CachedLLM, cache_of
from llm_cache_mem import LLMCache
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.engine.streams import ChunkRecording
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
        return CachedLLM(llm, self._shared or self._new_cache(), usage="keep")

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

    def share_stream(
        self,
        request: Any,
        fn: Callable[[], Any],
        *,
        recording: Callable[[], ChunkRecording] = ChunkRecording,
        decode: Callable[[Any], Iterable[Any]] = list,
        **single_flight: Any,
    ) -> Any:
        source, record = fn(), recording()
        if not hasattr(source, "__next__"):
            return source

        def chunks() -> Iterator[Any]:
            came: list[Any] = []
            try:
                for chunk in source:
                    record.add(chunk)
                    came.append(chunk)
            except BaseException:
                yield from came
                raise
            yield from self._replayed(record, decode, came)

        return chunks()

    async def ashare_stream(
        self,
        request: Any,
        fn: Callable[[], Any],
        *,
        recording: Callable[[], ChunkRecording] = ChunkRecording,
        decode: Callable[[Any], Iterable[Any]] = list,
        **single_flight: Any,
    ) -> Any:
        source, record = await fn(), recording()
        if not hasattr(source, "__anext__"):
            return source

        async def chunks() -> AsyncIterator[Any]:
            came: list[Any] = []
            try:
                async for chunk in source:
                    record.add(chunk)
                    came.append(chunk)
            except BaseException:
                for chunk in came:
                    yield chunk
                raise
            for chunk in self._replayed(record, decode, came):
                yield chunk

        return chunks()

    def _replayed(
        self, record: ChunkRecording, decode: Callable[[Any], Iterable[Any]], came: list[Any]
    ) -> list[Any]:
        try:
            data = Payload.of(record.entry()[0]).json()
        except Exception:  # noqa: BLE001  # not stored, then
            self.wrapping.count("stream not storable")
            return came
        again = list(decode(Payload.from_json(data).decode()))
        self.wrapping.count("replay" if again == came else "replay, not equal")
        return again

    def store(self, *args: Any, **kwargs: Any) -> None:
        return None


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
    try:
        yield state
    finally:
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
