"""The methods in which LangChain's plain LLMs meet their provider, answered from a cache where they
can be."""

import copy
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM
from langchain_core.outputs import GenerationChunk, LLMResult

from langchain_llm_cache_mem.agreement import answer_in
from langchain_llm_cache_mem.binding import Binding, binding_of, with_manager
from langchain_llm_cache_mem.generations import dump
from langchain_llm_cache_mem.streaming import astream, stream
from llm_cache_mem import Hit, Request
from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.engine.circumstances import circumstances_of, timeout_of
from llm_cache_mem.engine.verification import Verifier
from llm_cache_mem.engine.writer import Answered
from llm_cache_mem.values.entry import Entry

__all__ = ["methods"]


def methods(cls: type[BaseLLM]) -> dict[str, Callable[..., Any]]:
    """The methods to put over those of *cls*; streams only if it has some, since LangChain looks
    for that."""
    found: dict[str, Callable[..., Any]] = {"_generate": _generate, "_agenerate": _agenerate}
    streams = cls._stream is not BaseLLM._stream
    if streams:
        found["_stream"] = _stream
    if streams or cls._astream is not BaseLLM._astream:
        found["_astream"] = _astream
    return found


@without_content
class _Answer(NamedTuple):
    """What to store for one prompt."""

    request: Request
    generations: list[Any]
    llm_output: dict[str, Any] | None

    def stored(self) -> list[dict[str, Any]]:
        return dump(self.generations, self.request.params)

    def response(self) -> list[Any]:
        return _response(self.generations, self.llm_output)


class _Batch:
    """The prompts that LangChain hands to an LLM in one call: which are answered, and which are
    still to be asked."""

    def __init__(
        self,
        binding: Binding,
        model: BaseLLM,
        prompts: list[str],
        stop: Any,
        kwargs: Mapping[str, Any],
        run_manager: Any,
    ) -> None:
        self.requests = [
            binding.request(model, prompt, stop, kwargs, run_manager) for prompt in prompts
        ]
        self.answers: list[Any] = [None] * len(prompts)
        self._binding = binding
        self._prompts = prompts
        self._asked: list[list[int]] = []
        self._llm_output: dict[str, Any] | None = {}

    @property
    def only(self) -> Request | None:
        """The request, where there is just one: it may join a call in flight."""
        return self.requests[0] if len(self.requests) == 1 else None

    def missing(self) -> list[str]:
        """The prompts to ask: those without an answer, equal requests once."""
        places: dict[Any, list[int]] = {}
        for i, request in enumerate(self.requests):
            if self.answers[i] is None:
                places.setdefault(i if request is None else request.key, []).append(i)
        self._asked = list(places.values())
        return [self._prompts[same[0]] for same in self._asked]

    def take(self, result: LLMResult) -> list[_Answer]:
        """Note what the model said to those prompts; what to store of it. The usage of several
        prompts is that of none."""
        self._llm_output = result.llm_output
        usage = result.llm_output if len(self._asked) == 1 else None
        fresh = []
        for same, generations in zip(self._asked, result.generations, strict=True):
            request = self.requests[same[0]]
            if request is not None:
                fresh.append(_Answer(request, generations, usage))
            for i in same:
                self.answers[i] = generations if i == same[0] else copy.deepcopy(generations)
        return fresh

    def to_verify(
        self, hits: Sequence[Hit | None]
    ) -> Iterator[tuple[Verifier, Request, Entry, str]]:
        """Those of *hits*, one for each prompt, whose prompt is to be asked again."""
        for request, hit, prompt in zip(self.requests, hits, self._prompts, strict=True):
            if request is not None and hit is not None:
                verifier = self._binding.cache.engine.verifier_for(request)
                if verifier is not None:
                    yield verifier, request, hit.entry, prompt

    def result(self) -> LLMResult:
        return LLMResult(generations=self.answers, llm_output=self._llm_output)


def _generate(
    self: BaseLLM,
    prompts: list[str],
    stop: list[str] | None = None,
    run_manager: CallbackManagerForLLMRun | None = None,
    **kwargs: Any,
) -> LLMResult:
    binding = binding_of(self)
    model = binding.direct(self)
    batch = _Batch(binding, model, prompts, stop, kwargs, run_manager)

    def ask(missing: list[str]) -> list[_Answer]:
        named = with_manager(run_manager, kwargs, model._generate)
        return batch.take(model._generate(missing, stop, **named))

    def again(prompt: str) -> list[Any]:
        result = model._generate([prompt], stop, **kwargs)
        return _response(result.generations[0], result.llm_output)

    if batch.only is not None:
        made: list[_Answer] = []

        def call() -> list[Any]:
            made.extend(ask(batch.missing()))
            return made[-1].response()

        response = binding.cache.engine.call(
            batch.only,
            call,
            encode=_encoding(batch.only),
            decode=binding.load,
            circumstances=lambda: circumstances_of(self._generate, kwargs),
            timeout=timeout_of(kwargs, model),
            zero_usage=binding.usage == "zero",
            again=partial(again, prompts[0]),
            seen=answer_in,
        )
        if not made:
            batch.answers[0] = response
        return batch.result()
    hits = binding.lookup_many(batch.requests)
    batch.answers = [None if hit is None else hit.value for hit in hits]
    for verifier, request, entry, prompt in batch.to_verify(hits):
        verifier.verify_call(
            request, entry, partial(again, prompt), _encoding(request), seen=answer_in
        )
    began, epoch = monotonic(), binding.cache.engine.epoch
    if missing := batch.missing():
        with binding.cache.engine.layers.in_hand():  # its answers are entries of each prompt
            made = ask(missing)
        seconds = monotonic() - began
        with binding.fail_open:
            binding.cache.engine.writer.store_many(
                _to_keep(binding, made), seconds=seconds, epoch=epoch
            )
    return batch.result()


async def _agenerate(
    self: BaseLLM,
    prompts: list[str],
    stop: list[str] | None = None,
    run_manager: AsyncCallbackManagerForLLMRun | None = None,
    **kwargs: Any,
) -> LLMResult:
    binding = binding_of(self)
    model = binding.direct(self)
    batch = _Batch(binding, model, prompts, stop, kwargs, run_manager)

    async def ask(missing: list[str]) -> list[_Answer]:
        named = with_manager(run_manager, kwargs, model._agenerate)
        return batch.take(await model._agenerate(missing, stop, **named))

    async def again(prompt: str) -> list[Any]:
        result = await model._agenerate([prompt], stop, **kwargs)
        return _response(result.generations[0], result.llm_output)

    if batch.only is not None:
        made: list[_Answer] = []

        async def call() -> list[Any]:
            made.extend(await ask(batch.missing()))
            return made[-1].response()

        response = await binding.cache.engine.acall(
            batch.only,
            call,
            encode=_encoding(batch.only),
            decode=binding.load,
            circumstances=lambda: circumstances_of(self._agenerate, kwargs),
            timeout=timeout_of(kwargs, model),
            zero_usage=binding.usage == "zero",
            again=partial(again, prompts[0]),
            seen=answer_in,
        )
        if not made:
            batch.answers[0] = response
        return batch.result()
    hits = await binding.alookup_many(batch.requests)
    batch.answers = [None if hit is None else hit.value for hit in hits]
    for verifier, request, entry, prompt in batch.to_verify(hits):
        verifier.averify_call(
            request, entry, partial(again, prompt), _encoding(request), seen=answer_in
        )
    began, epoch = monotonic(), binding.cache.engine.epoch
    if missing := batch.missing():
        with binding.cache.engine.layers.in_hand():
            made = await ask(missing)
        seconds = monotonic() - began
        with binding.fail_open:
            await binding.cache.engine.writer.astore_many(
                _to_keep(binding, made), seconds=seconds, epoch=epoch
            )
    return batch.result()


def _encoding(request: Request) -> Callable[[list[Any]], list[dict[str, Any]]]:
    """How what ``_response`` returned is stored as the answer to *request*."""
    return lambda response: dump(response[:-1], request.params)


def _response(generations: list[Any], llm_output: dict[str, Any] | None) -> list[Any]:
    """What prices and admission read: *generations*, and beside them the llm_output in which LLMs
    report their usage."""
    return [*generations, {"llm_output": llm_output}]


def _to_keep(binding: Binding, made: list[_Answer]) -> list[Answered]:
    """What there is to store of the answers that were *made*."""
    found = []
    for answer in made:
        with binding.fail_open:  # one that has no stored form leaves the others theirs
            found.append(Answered(answer.request, answer.stored(), answer.response()))
    return found


def _stream(
    self: BaseLLM,
    prompt: str,
    stop: list[str] | None = None,
    run_manager: CallbackManagerForLLMRun | None = None,
    **kwargs: Any,
) -> Iterator[GenerationChunk]:
    return stream(self, prompt, stop, run_manager, kwargs)


async def _astream(
    self: BaseLLM,
    prompt: str,
    stop: list[str] | None = None,
    run_manager: AsyncCallbackManagerForLLMRun | None = None,
    **kwargs: Any,
) -> AsyncIterator[GenerationChunk]:
    async with aclosing(astream(self, prompt, stop, run_manager, kwargs)) as chunks:
        async for chunk in chunks:
            yield chunk
