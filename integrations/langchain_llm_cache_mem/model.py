"""cached(model, cache): the same model, of the same class, whose calls and streams are answered
from the cache where they can be.

LangChain's own cache layer sees two strings, no streams, and nothing of who else is asking. A
subclass of the model's class sees all: its fields as they are, each chunk, and concurrent identical
calls. It overrides only the methods in which LangChain meets the provider, so callbacks, tools,
structured output and agents are LangChain's as ever.
"""

import copy
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from langchain_core.language_models import BaseChatModel, BaseLanguageModel, BaseLLM

from langchain_llm_cache_mem import chat, text
from langchain_llm_cache_mem.binding import Link, derived, link_of, twin
from langchain_llm_cache_mem.cache import LLMCacheMem, Usage
from llm_cache_mem import LLMCache

__all__ = ["cached"]

M = TypeVar("M", bound="BaseLanguageModel[Any]")


def cached(model: M, cache: LLMCache | LLMCacheMem, *, scope: str = "", usage: Usage = "zero") -> M:
    """A copy of *model* that answers from *cache*: invoke, batch, stream and their async twins
    share their entries.

    *scope* names a key space of its own, and *usage* is what hits report; both as in LLMCacheMem,
      and taken from one that is given.
    The copy leaves LangChain's own cache alone. TypeError for anything but a chat model or an LLM.
    """
    if not isinstance(model, (BaseChatModel, BaseLLM)):
        raise TypeError(
            f"cached() takes a chat model or an LLM, not {type(model).__name__}; wrap the model"
            " first, then bind or chain it"
        )
    if isinstance(cache, LLMCacheMem):
        scope, usage, cache = scope or cache.scope, cache.usage, cache.cache
    wrapped: Any = copy.copy(model)
    object.__setattr__(
        wrapped, "__class__", _cached_class(_uncached_class(type(model)), cache, scope, usage)
    )
    wrapped.__dict__["cache"] = False
    return wrapped  # type: ignore[no-any-return]  # an M, by construction


_classes: "WeakValueDictionary[tuple[Any, ...], type[Any]]" = WeakValueDictionary()


def _cached_class(cls: type[Any], cache: LLMCache, scope: str, usage: Usage) -> type[Any]:
    """The subclass of *cls* that is linked to *cache*, made once for as long as it is in use."""
    about = (cls, id(cache), scope, usage)  # the class keeps the cache alive, and with it its id
    known = _classes.get(about)
    if known is not None:
        return known
    methods = chat.methods(cls) if issubclass(cls, BaseChatModel) else text.methods(cls)
    made = derived(cls, {**methods, "__reduce_ex__": _reduce})
    made._llm_cache_mem = Link(cls, cache, scope, usage)  # link_of reads it
    if "rate_limiter" in cls.model_fields:
        made.rate_limiter = _unlimited  # over the field
    return _classes.setdefault(about, made)


def _set_limiter(self: Any, limiter: Any) -> None:
    self.__dict__["rate_limiter"] = limiter


_unlimited = property(
    lambda self: None,
    _set_limiter,
    doc="None to LangChain, which would ask it before every hit; calls do wait for it.",
)


def _uncached_class(cls: type[Any]) -> type[Any]:
    return cls.__mro__[1] if "_llm_cache_mem" in cls.__dict__ else cls


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    link = link_of(self)
    return _cached_again, (twin(self, link.cls), link.cache, link.scope, link.usage)


def _cached_again(model: M, cache: LLMCache, scope: str, usage: Usage) -> M:
    return cached(model, cache, scope=scope, usage=usage)
