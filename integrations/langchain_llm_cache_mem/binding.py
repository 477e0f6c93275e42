"""Link: what ties a class of models to a cache: their calls as requests, their answers as what is
stored and back."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import BaseMessage
from pydantic import BaseModel

from langchain_llm_cache_mem.cache import Usage, kind_of_entry
from langchain_llm_cache_mem.generations import load, load_stream, mark_hits
from langchain_llm_cache_mem.settings import Identities, settings_of
from langchain_llm_cache_mem.shape import as_params, message_as_dict, sent
from llm_cache_mem import Hit, LLMCache, Request

__all__ = ["Link", "derived", "link_of", "twin", "with_manager"]

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
_STATE: Final = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


class Link:
    """The way of the models of class *cls* to *cache*, into the key space *scope*. Thread-safe."""

    def __init__(self, cls: type[Any], cache: LLMCache, scope: str, usage: Usage) -> None:
        self.cls = cls
        self.cache = cache
        self.scope = scope
        self.usage: Usage = usage
        self.fail_open = cache.engine.fail_open
        self._identities = Identities()
        self._plain = _plain_class(cls, self._identities)

    def request(
        self,
        model: BaseLanguageModel[Any],
        prompt: str | Sequence[BaseMessage],
        stop: Any,
        kwargs: Mapping[str, Any],
    ) -> Request | None:
        """The request that this call of *model* is; None: call it without the cache."""
        with self.fail_open:
            params = as_params(
                settings_of(model, self.cls, self._identities),
                kwargs if stop is None else {**kwargs, "stop": stop},
            )
            kind = kind_of_entry(self.scope, chat=not isinstance(prompt, str))
            return self.cache.engine.request(_messages(prompt, params), params, kind=kind)
        return None

    def plain(self, model: M) -> M:
        """The cached *model* as if it were not.

        What it calls on itself goes to the provider, so a method that falls back on another is not
        answered from the cache halfway.
        """
        return twin(model, self._plain)

    def lookup(self, request: Request | None, load: Callable[[Any], list[Any]]) -> list[Any] | None:
        """The stored answer, if there is one. *load* is one of those below."""
        with self.fail_open:
            hit = None if request is None else self.cache.engine.lookup(request, load)
            return None if hit is None else hit.value
        return None

    async def alookup(
        self, request: Request | None, load: Callable[[Any], list[Any]]
    ) -> list[Any] | None:
        """As ``lookup``, in a thread where that would wait for a disk."""
        with self.fail_open:
            hit = None if request is None else await self.cache.engine.alookup(request, load)
            return None if hit is None else hit.value
        return None

    def lookup_many(self, requests: Sequence[Request | None]) -> list[list[Any] | None]:
        """The stored generations for each of *requests*, in one round trip to a store that can do
        that."""
        with self.fail_open:
            return _spread(
                requests,
                self.cache.engine.reader.lookup_many(
                    [request for request in requests if request is not None], self.load
                ),
            )
        return [None] * len(requests)

    async def alookup_many(self, requests: Sequence[Request | None]) -> list[list[Any] | None]:
        """As ``lookup_many``, in a thread where that would wait for a disk."""
        with self.fail_open:
            return _spread(
                requests,
                await self.cache.engine.reader.alookup_many(
                    [request for request in requests if request is not None], self.load
                ),
            )
        return [None] * len(requests)

    def load(self, value: Any) -> list[Any]:
        """What is stored as new generations, marked as a hit."""
        generations = load(value)
        mark_hits(generations, keep_usage=self.usage == "keep")
        return generations

    def load_stream(self, value: Any) -> list[Any]:
        """What is stored as the new chunks of a stream, marked as a hit."""
        chunks = load_stream(value)
        mark_hits(chunks, keep_usage=self.usage == "keep", stream=True)
        return chunks


def link_of(model: Any) -> Link:
    """The link that the class of a cached *model* holds."""
    return model._llm_cache_mem  # type: ignore[no-any-return]  # cached() puts it there


def twin(model: M, cls: Any) -> M:
    """The cached *model* seen as a *cls*: another object with the very same state."""
    other: M = cls.__new__(cls)
    object.__setattr__(other, "__dict__", model.__dict__)
    for name in _STATE:
        object.__setattr__(other, name, getattr(model, name))
    return other


def _plain_class(cls: type[Any], identities: Identities) -> type[Any]:
    """*cls*, but for noting what a model of it writes into its own fields."""

    def note(self: Any, name: str, value: Any) -> None:
        identities.wrote(cls, name, self.__dict__.get(name), value)
        set_field(self, name, value)

    set_field: Any = cls.__setattr__
    return derived(cls, {"__setattr__": note})


def derived(cls: type[Any], namespace: Mapping[str, Any]) -> type[Any]:
    """A subclass of *cls* that goes by its name, with *namespace*."""
    named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    # The validator is that of cls, unless somebody asks for it: to build one takes half a second.
    metaclass: Any = type(cls)
    return metaclass(  # type: ignore[no-any-return]
        cls.__name__, (cls,), {**named, "model_config": {"defer_build": True}, **namespace}
    )


def with_manager(
    run_manager: Any, kwargs: Mapping[str, Any], method: Callable[..., Any] | None = None
) -> Mapping[str, Any]:
    """*kwargs* with the *run_manager*, if there is one; LangChain lets a *method* do without."""
    if run_manager is None or (
        method is not None and "run_manager" not in inspect.signature(method).parameters
    ):
        return kwargs
    return {**kwargs, "run_manager": run_manager}


def _spread(
    requests: Sequence[Request | None], hits: Sequence[Hit | None]
) -> list[list[Any] | None]:
    """The values of *hits* in the places of the requests that there were."""
    found = iter(hits)
    return [
        None if request is None or (hit := next(found)) is None else hit.value
        for request in requests
    ]


def _messages(
    prompt: str | Sequence[BaseMessage], params: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    with_response_id = bool(params.get("use_previous_response_id"))
    fields = ({**message.__dict__, **(message.__pydantic_extra__ or {})} for message in prompt)
    return [message_as_dict(sent(each), with_response_id=with_response_id) for each in fields]
