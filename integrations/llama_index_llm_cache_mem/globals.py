"""set_llm_cache: a cache for every LLM of the process, or for Settings.llm only, with one call, and
off again with one."""

import logging
import threading
import weakref
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from llama_index.core.settings import Settings, _Settings

from llama_index_llm_cache_mem import embeddings as every_embedding
from llama_index_llm_cache_mem import patch
from llama_index_llm_cache_mem.base import CachedLLM, cache_of, set_view_cache, uncached
from llama_index_llm_cache_mem.leaves import Usage, check_usage
from llm_cache_mem import LLMCache

__all__ = ["get_llm_cache", "set_llm_cache"]

Scope: TypeAlias = Literal["process", "settings"]

_log = logging.getLogger(__name__)
_lock: Final = threading.RLock()


class _State(NamedTuple):
    cache: LLMCache | None = None
    scope: Scope = "process"
    usage: Usage = "zero"
    embeddings: bool = False


_OFF: Final = _State()
_state = _OFF


class _Switch:
    """What set_llm_cache returns: in a ``with`` statement, what was set before is set again at its
    end."""

    def __init__(self, before: _State, cache: LLMCache | None) -> None:
        self._before = before
        self._cache = cache

    def __enter__(self) -> LLMCache | None:
        return self._cache

    def __exit__(self, *exc: object) -> None:
        _set(self._before)


def set_llm_cache(
    cache: LLMCache | None,
    *,
    scope: Scope = "process",
    usage: Usage = "zero",
    embeddings: bool = False,
) -> _Switch:
    """Answer every LLM of this process from *cache*, those passed to agents and engines included;
    None: none any more.

    ``scope="settings"`` is for ``Settings.llm`` only, its lazy default and what is assigned later
    included. An LLM from CachedLLM keeps its own cache, ``uncached(llm)`` has none. Replaces what
    was set before; may be used in a ``with`` statement. *usage*: whether a hit reports ``zero``
    tokens, or ``keep``s those of the call that was made.
    """
    if cache is not None and not isinstance(cache, LLMCache):
        raise TypeError(f"cache must be an LLMCache or None, not {type(cache).__name__}")
    if scope not in ("process", "settings"):
        raise ValueError(f"scope must be 'process' or 'settings', not {scope!r}")
    if not isinstance(embeddings, bool):
        raise TypeError(f"embeddings must be True or False, not {embeddings!r}")
    check_usage(usage)
    before = _set(_State(cache, scope, usage, embeddings) if cache is not None else _OFF)
    if cache is not None:
        what = "every LLM of this process" if scope == "process" else "Settings.llm"
        _log.info("LLM cache on for %s: %r; set_llm_cache(None) turns it off", what, cache)
    return _Switch(before, cache)


def get_llm_cache() -> LLMCache | None:
    """What set_llm_cache has set."""
    return _state.cache


def _set(state: _State) -> _State:
    """Make *state* so; the state before."""
    global _state
    with _lock:
        before, _state = _state, state
        every_embedding.install(state.cache if state.embeddings else None)
        patch.install(state.cache if state.scope == "process" else None, state.usage)
        _install_settings(state.cache if state.scope == "settings" else None)
        return before


# -- Settings.llm

_views: "list[weakref.ref[Any]]" = []
"""What Settings.llm has given out: it stops caching when the cache is turned off."""


class _CachedSettings(_Settings):
    """Settings whose ``llm`` is a view; what LlamaIndex keeps is the LLM itself."""

    @property
    def llm(self) -> Any:
        # a property: the lazy default is resolved here
        llm = _Settings.llm.fget(self)  # type: ignore[attr-defined]
        with _lock:
            view = next(
                (
                    view
                    for reference in _views
                    if (view := reference()) is not None and _is_view_of(view, llm)
                ),
                None,
            )
            if (
                view is None
                and _state.scope == "settings"
                and _state.cache is not None
                and cache_of(llm) is None
            ):
                view = CachedLLM(llm, _state.cache, usage=_state.usage)
                _views[:] = [reference for reference in _views if reference() is not None]
                _views.append(weakref.ref(view))
        return llm if view is None else view

    @llm.setter
    def llm(self, llm: Any) -> None:
        if any(reference() is llm for reference in _views):  # Settings.llm = Settings.llm
            llm = uncached(llm)
        _Settings.llm.fset(self, llm)  # type: ignore[attr-defined]  # as above


def _is_view_of(view: Any, llm: Any) -> bool:
    return uncached(view) is llm


def _install_settings(cache: LLMCache | None) -> None:
    for reference in _views:
        if (view := reference()) is not None:
            set_view_cache(view, cache)
    if cache is None:
        _views.clear()
    object.__setattr__(Settings, "__class__", _Settings if cache is None else _CachedSettings)
