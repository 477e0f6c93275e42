"""Embedding models of frameworks, in this process or behind an SDK: each text is looked up by
itself, and the model is asked for those that miss."""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

from llm_cache_mem.engine.batches import Found, Made, Part, acall_many, call_many
from llm_cache_mem.engine.circumstances import timeout_of
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.errors import RequestNotCacheable, ValueNotCacheable
from llm_cache_mem.keys.class_names import class_name
from llm_cache_mem.keys.growing import note_settings
from llm_cache_mem.keys.identity import describe, settings_of
from llm_cache_mem.keys.request import Request
from llm_cache_mem.values.payload import Payload
from llm_cache_mem.values.vectors import packed, unpacked

__all__ = ["EmbeddingModel"]

Embed = Callable[[list[str]], Any]

_OF_CALLS: Final = frozenset(
    {
        *("batch_size", "chunk_size", "embed_batch_size", "max_batch_size", "num_workers"),
        *("embeddings_cache", "show_progress", "show_progress_bar"),
    }
)
"""Settings of how texts are sent, and how they are cached elsewhere."""
_URLS: Final = frozenset({"api_base", "azure_endpoint", "base_url", "endpoint"})
_MOST: Final = ("chunk_size", "embed_batch_size", "batch_size", "max_batch_size")


class EmbeddingModel(NamedTuple):
    """*model*, whose vectors come from *engine* where they can.

    *kind* names the layer; *identity* what of the model has no wire form. Without it, such a model
    goes uncached.
    """

    engine: Engine
    model: Any
    kind: str
    identity: str = ""

    def call(
        self, embed: Embed, texts: Any, purpose: str, settings: Mapping[str, Any]
    ) -> list[Any]:
        """The vectors of *texts*, those that miss from *embed*.

        *purpose* tells vectors of queries from those of documents; *settings* are those of the
        call.
        """
        requests = self._requests(texts, purpose, settings)
        if not requests:
            return embed(texts)  # type: ignore[no-any-return]  # as the model has it
        texts = list(texts)
        errors: list[BaseException] = []

        def send(numbers: list[int]) -> Made:
            vectors: list[Any] = []
            try:
                for some in self._slices(numbers, settings):
                    vectors += embed([texts[number] for number in some])
            except BaseException as exc:
                if not vectors:
                    raise
                errors.append(exc)  # what came is stored first
            return _made(self.engine, numbers, vectors)

        timeout = timeout_of(settings, self.model)
        found = call_many(
            self.engine, requests, send, decode=unpacked, timeout=timeout, over_http=True
        )
        if errors:
            raise errors[0]
        return embed(texts) if None in found else _values(found)

    async def acall(
        self,
        embed: Callable[[list[str]], Awaitable[Any]],
        texts: Any,
        purpose: str,
        settings: Mapping[str, Any],
    ) -> list[Any]:
        """``call`` for a coroutine function."""
        requests = self._requests(texts, purpose, settings)
        if not requests:
            return await embed(texts)  # type: ignore[no-any-return]  # as above
        texts = list(texts)
        errors: list[BaseException] = []

        async def send(numbers: list[int]) -> Made:
            vectors: list[Any] = []
            try:
                for some in self._slices(numbers, settings):
                    vectors += await embed([texts[number] for number in some])
            except BaseException as exc:
                if not vectors:
                    raise
                errors.append(exc)  # as above
            return _made(self.engine, numbers, vectors)

        timeout = timeout_of(settings, self.model)
        found = await acall_many(
            self.engine, requests, send, decode=unpacked, timeout=timeout, over_http=True
        )
        if errors:
            raise errors[0]
        return await embed(texts) if None in found else _values(found)

    def _requests(
        self, texts: Any, purpose: str, settings: Mapping[str, Any]
    ) -> list[Request] | None:
        """A request for each text; None, counted as skipped, to call the model uncached."""
        engine = self.engine
        if engine.is_off or not isinstance(texts, Sequence) or isinstance(texts, str):
            return None
        if not all(type(text) is str for text in texts):
            return None
        try:
            params = self._params(purpose, settings)
            name = sha256(self.identity.encode()).hexdigest()[:16] if self.identity else ""
            kind = f"{self.kind}.{name}" if name else self.kind
            return [
                engine.keyer.request([{"role": "user", "content": text}], params, kind)
                for text in texts
            ]
        except RequestNotCacheable as exc:
            if engine.is_replay:
                raise
            engine.skip(exc.skipped_as, "a call goes uncached: %s", exc)
            return None

    def _params(self, purpose: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        cls = type(self.model)
        found = describe(self._settings(), transport=_OF_CALLS)
        params = found.settings if self.identity else found.require_known()
        note_settings(cls, params)
        params |= describe(settings.items(), transport=_OF_CALLS).require_known()
        named = (params.get(name) for name in ("model", "model_name", "model_id", "deployment"))
        model = next((name for name in named if isinstance(name, str)), cls.__qualname__)
        about = {"class": class_name(cls), "purpose": purpose}
        return {**params, **about, "model": model}

    def _settings(self) -> list[tuple[str, Any]]:
        """The settings of the model, without a client that it made of them for itself."""
        settings = list(settings_of(self.model))
        if not any(name in _URLS and value for name, value in settings):
            return settings
        return [pair for pair in settings if not pair[0].startswith("_") or "client" not in pair[0]]

    def _slices(self, numbers: list[int], settings: Mapping[str, Any]) -> Iterator[list[int]]:
        """*numbers* in parts of which the model would make one request each."""
        found = [settings.get("chunk_size"), *(getattr(self.model, name, None) for name in _MOST)]
        most = next((size for size in found if type(size) is int and size > 0), len(numbers))
        return (numbers[at : at + most] for at in range(0, len(numbers), most))


def _made(engine: Engine, numbers: list[int], vectors: list[Any]) -> Made:
    parts: list[Part | None] = [_part(engine, vector) for vector in vectors[: len(numbers)]]
    return Made([*parts, *[None] * (len(numbers) - len(parts))], {"embeddings": len(parts)})


def _part(engine: Engine, vector: Any) -> Part:
    """The part of a text with this *vector*; one that cannot be stored is only handed on."""
    response = {"embedding": vector}
    if type(vector) is list and all(isinstance(number, float) for number in vector):
        vector = list(map(float, vector))  # numpy's are of a class of their own
    try:
        return Part(response["embedding"], Payload.packed(packed(vector)), response)
    except ValueNotCacheable as exc:
        engine.skip("value", "an answer was not stored: %s", exc)
        return Part(response["embedding"], None, response)


def _values(found: Collection[Found | None]) -> list[Any]:
    """The vectors; those that one text has twice are objects of their own."""
    seen: set[int] = set()
    values = []
    for each in found:
        value = None if each is None else each.value
        values.append(list(value) if id(value) in seen and isinstance(value, list) else value)
        seen.add(id(value))
    return values
