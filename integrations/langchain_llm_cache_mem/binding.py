"""What ties a class of models to a cache: their calls as requests, their answers as what is stored
and back."""

import inspect
from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import BaseMessage
from pydantic import BaseModel

from langchain_llm_cache_mem.cache import Usage
from langchain_llm_cache_mem.config import NOTHING_READ, ConfigReader
from langchain_llm_cache_mem.generations import load, load_stream, mark_hits, zero_usage
from langchain_llm_cache_mem.requests import Requests
from llm_cache_mem import Hit, LLMCache, Request

__all__ = ["Binding", "binding_of", "derived", "sharing_state", "with_manager"]

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
_STATE: Final = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


class Binding:
    """Ties the models of class *cls* to *cache*, in the key space *scope*. Thread-safe.

    *identity* names whatever is opaque in them.
    """

    def __init__(
        self,
        cls: type[Any],
        cache: LLMCache,
        scope: str,
        identity: str,
        usage: Usage,
        config: ConfigReader = NOTHING_READ,
    ) -> None:
        self.cls = cls
        self.cache = cache
        self.scope = scope
        self.identity = identity
        self.usage: Usage = usage
        self.config = config
        self.fail_open = cache.engine.fail_open
        self._requests = Requests(cache.engine, scope, identity)

    def request(
        self,
        model: BaseLanguageModel[Any],
        prompt: str | Sequence[BaseMessage],
        stop: Any,
        kwargs: Mapping[str, Any],
        run_manager: Any,
    ) -> Request | None:
        """The request that this call of *model* is; None: call it without the cache."""
        if self.cache.engine.is_off:
            return None
        with self.fail_open, self.config.options_for(run_manager):
            params = self._requests.params(model, self.cls, stop, kwargs)
            return None if params is None else self._requests.request(prompt, params)
        return None

    def direct(self, model: M) -> M:
        """The cached *model* as if it were not.

        What it calls on itself goes to the provider, so a method that falls back on another is not
        answered from the cache halfway.
        """
        return sharing_state(model, self.cls)

    def lookup(self, request: Request, load: Callable[[Any], list[Any]]) -> Hit | None:
        """The stored answer, if there is one. *load* is one of those below."""
        with self.fail_open:
            return self.cache.engine.lookup(request, load, zero_usage=self.usage == "zero")
        return None

    async def alookup(self, request: Request, load: Callable[[Any], list[Any]]) -> Hit | None:
        """As ``lookup``, in a thread where that would wait for a disk."""
        with self.fail_open:
            return await self.cache.engine.alookup(request, load, zero_usage=self.usage == "zero")
        return None

    def lookup_many(self, requests: Sequence[Request | None]) -> list[Hit | None]:
        """The stored answer to each of *requests*, in one round trip to a store that can do
        that."""
        with self.fail_open:
            return _spread(
                requests,
                self.cache.engine.reader.lookup_many(
                    [request for request in requests if request is not None], self.load
                ),
            )
        return [None] * len(requests)

    async def alookup_many(self, requests: Sequence[Request | None]) -> list[Hit | None]:
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

    def load_chunk(self, stored: Any, *, first: bool) -> Any:
        """What is stored of one chunk as a new chunk, marked as a hit if it is the *first*."""
        chunks = load([stored])
        if first:
            mark_hits(chunks, keep_usage=self.usage == "keep")
        elif self.usage == "zero":
            zero_usage(chunks)
        return chunks[0]

    def load_stream(self, value: Any) -> list[Any]:
        """What is stored as the new chunks of a stream, marked as a hit."""
        chunks = load_stream(value)
        mark_hits(chunks, keep_usage=self.usage == "keep", stream=True)
        return chunks


def binding_of(model: Any) -> Binding:
    """The binding that the class of a cached *model* holds."""
    return model._llm_cache_mem  # type: ignore[no-any-return]  # cached() puts it there


def sharing_state(model: M, cls: Any) -> M:
    """The cached *model* seen as a *cls*: another object with the very same state."""
    other: M = cls.__new__(cls)
    object.__setattr__(other, "__dict__", model.__dict__)
    for name in _STATE:
        object.__setattr__(other, name, getattr(model, name))
    return other


def derived(cls: type[Any], namespace: Mapping[str, Any]) -> type[Any]:
    """A subclass of *cls* that goes by its name, with *namespace*.

    It has the fields, the validator and the schema of *cls* itself. To let pydantic make them anew
    would take a hundred times as long.
    """
    named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    made: Any = ABCMeta.__new__(type(cls), cls.__name__, (cls,), {**named, **namespace})
    return made  # type: ignore[no-any-return]  # a class


def with_manager(
    run_manager: Any, kwargs: Mapping[str, Any], method: Callable[..., Any] | None = None
) -> Mapping[str, Any]:
    """*kwargs* with the *run_manager*, if there is one; LangChain lets a *method* do without."""
    if run_manager is None or (
        method is not None and "run_manager" not in inspect.signature(method).parameters
    ):
        return kwargs
    return {**kwargs, "run_manager": run_manager}


def _spread(requests: Sequence[Request | None], hits: Sequence[Hit | None]) -> list[Hit | None]:
    """*hits* in the places of the requests that there were."""
    found = iter(hits)
    return [None if request is None else next(found) for request in requests]
