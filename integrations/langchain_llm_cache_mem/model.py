"""cached(model, cache): the same model, of the same class, whose calls and streams are answered
from the cache where they can be.

LangChain's own cache layer sees two strings, no streams, and nothing of who else is asking. A
subclass of the model's class sees all: its fields as they are, each chunk, and concurrent identical
calls. It overrides only the methods in which LangChain meets the provider, so callbacks, tools,
structured output and agents are LangChain's as ever.
"""

import copy
import sys
from collections.abc import Collection
from functools import partial
from typing import Any, TypeVar, overload
from weakref import WeakValueDictionary

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.configurable import DynamicRunnable

from langchain_llm_cache_mem import chat, text
from langchain_llm_cache_mem.binding import Binding, binding_of, derived, sharing_state
from langchain_llm_cache_mem.cache import LLMCacheMem, Usage
from langchain_llm_cache_mem.config import ConfigReader, NamespaceFrom
from langchain_llm_cache_mem.configurable import cached_configurable, is_configurable, model_named
from langchain_llm_cache_mem.embeddings import cached_embeddings
from langchain_llm_cache_mem.sources import Sources
from langchain_llm_cache_mem.validation import watch_steps
from llm_cache_mem import LLMCache

__all__ = ["cached"]

R = TypeVar("R", bound="Runnable[Any, Any] | Embeddings")

_AROUND_MODELS = (RunnableBinding, RunnableSequence, RunnableWithFallbacks, DynamicRunnable)


@overload
def cached(
    model: str,
    cache: LLMCache | LLMCacheMem,
    *,
    scope: str = ...,
    identity: str = ...,
    usage: Usage = ...,
    namespace_from: NamespaceFrom | None = ...,
    tags_from: Collection[str] = ...,
    sources: Sources = ...,
) -> Any: ...
@overload
def cached(
    model: R,
    cache: LLMCache | LLMCacheMem,
    *,
    scope: str = ...,
    identity: str = ...,
    usage: Usage = ...,
    namespace_from: NamespaceFrom | None = ...,
    tags_from: Collection[str] = ...,
    sources: Sources = ...,
) -> R: ...
def cached(
    model: Any,
    cache: LLMCache | LLMCacheMem,
    *,
    scope: str = "",
    identity: str = "",
    usage: Usage = "zero",
    namespace_from: NamespaceFrom | None = None,
    tags_from: Collection[str] = (),
    sources: Sources = False,
) -> Any:
    """A copy of *model* that answers from *cache*.

    ``invoke``, ``batch`` and ``stream``, sync and async, share their entries. The copy leaves
    LangChain's own cache alone. An embedding model is cached text by text.

    Args:
        model: A chat model, an LLM or an embedding model, what
            ``init_chat_model(configurable_fields=...)`` returns, or a name that
            ``init_chat_model`` takes, such as ``"openai:gpt-5"``.
        cache: Where answers are stored. An LLMCacheMem lends its other settings too.
        scope: A key space of its own, for a tenant or a purpose.
        identity: A name for the parts of *model* that have no wire form, such as a local pipeline
            or a model in memory. Without it, calls of such a model go uncached.
        usage: Whether a hit reports ``zero`` tokens, or ``keep``s those of the call that was made.
        namespace_from: As in LLMCacheMem.
        tags_from: As in LLMCacheMem.
        sources: As in LLMCacheMem.

    Raises:
        TypeError: *model* is none of these.
        ImportError: *model* is a name, and langchain is not installed.

    Example:
        >>> model = cached(ChatOpenAI(model="gpt-4o-mini"), LLMCache())
    """
    config = ConfigReader.of(namespace_from, tags_from, sources)
    if isinstance(cache, LLMCacheMem):
        scope, identity = scope or cache.scope, identity or cache.scope
        config = config if any(config) else cache.config
        usage, cache = cache.usage, cache.cache
    if not isinstance(cache, LLMCache):
        raise TypeError(
            f"cache must be an LLMCache, not {type(cache).__name__}: cached(model, LLMCache(...))"
        )
    if isinstance(model, str):
        model = model_named(model)
    if is_configurable(model):
        wrap = partial(
            cached, cache=cache, scope=scope, identity=identity, usage=usage, **config._asdict()
        )
        return cached_configurable(model, wrap)
    if isinstance(model, Embeddings):
        return cached_embeddings(model, cache, scope, identity)
    if not isinstance(model, (BaseChatModel, BaseLLM)):
        around = isinstance(model, _AROUND_MODELS)
        hint = "; wrap the model first, then bind or chain it" if around else ""
        raise TypeError(
            "cached() takes a chat model, an LLM or an embedding model,"
            f" not {type(model).__name__}{hint}"
        )
    watch_steps()
    wrapped: Any = copy.copy(model)
    cls = _cached_class(_uncached_class(type(model)), cache, scope, identity, usage, config)
    object.__setattr__(wrapped, "__class__", cls)
    wrapped.__dict__["cache"] = False
    return wrapped


_classes: "WeakValueDictionary[tuple[Any, ...], type[Any]]" = WeakValueDictionary()


def _cached_class(
    cls: type[Any], cache: LLMCache, scope: str, identity: str, usage: Usage, config: ConfigReader
) -> type[Any]:
    """The subclass of *cls* that is bound to *cache*, made once for as long as it is in use."""
    # the class keeps the cache alive, and with it its id
    about = (cls, id(cache), scope, identity, usage, config)
    known = _classes.get(about)
    if known is not None:
        return known
    methods = chat.methods(cls) if issubclass(cls, BaseChatModel) else text.methods(cls)
    made = derived(cls, {**methods, "__reduce_ex__": _reduce})
    made._llm_cache_mem = Binding(cls, cache, scope, identity, usage, config)  # binding_of reads it
    if "rate_limiter" in cls.model_fields:
        made.rate_limiter = _unlimited  # over the field
    return _classes.setdefault(about, made)


def _set_limiter(self: Any, limiter: Any) -> None:
    self.__dict__["rate_limiter"] = limiter


def _limiter(self: Any) -> Any:
    """None to langchain-core, which would ask it before every hit; calls do wait for it."""
    reader = sys._getframe(1).f_globals.get("__name__", "")
    if reader.startswith("langchain_core.language_models."):
        return None
    return self.__dict__.get("rate_limiter")


_unlimited = property(_limiter, _set_limiter)


def _uncached_class(cls: type[Any]) -> type[Any]:
    return cls.__mro__[1] if "_llm_cache_mem" in cls.__dict__ else cls


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    binding = binding_of(self)
    model = sharing_state(self, binding.cls)
    settings = {
        "scope": binding.scope,
        "identity": binding.identity,
        "usage": binding.usage,
        **binding.config._asdict(),
    }
    return _cached_again, (model, binding.cache, settings)


def _cached_again(model: Any, cache: LLMCache, settings: dict[str, Any]) -> Any:
    return cached(model, cache, **settings)
