"""LLMCacheMem: LangChain's cache interface over LLMCache, with keys made from what the two strings
say rather than from the strings."""

import logging
from contextvars import ContextVar
from hashlib import sha256
from time import monotonic
from typing import Any, Literal, Self

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache

from langchain_llm_cache_mem.generations import dump, load, mark_hits
from langchain_llm_cache_mem.leading import Turns
from langchain_llm_cache_mem.parsing import is_chat, model_of, read_prompt
from llm_cache_mem import CacheStats, Hit, LLMCache, Request, RequestNotCacheable
from llm_cache_mem.engine.fail_open import FailOpen
from llm_cache_mem.options import current

__all__ = ["LLMCacheMem", "Usage", "kind_of_entry"]

_log = logging.getLogger(__name__)

Usage = Literal["zero", "keep"]
Unidentified = Literal["cache", "bypass"]

_SLOTS = 256
_LARGEST_REMEMBERED = 1 << 16

# What this context missed last and when, so that the update which follows in the same context knows
# what the call took.
_missed: ContextVar[tuple[str, float] | None] = ContextVar(
    "langchain_llm_cache_mem_missed", default=None
)


def kind_of_entry(scope: str, *, chat: bool) -> str:
    """The kind of the entries of chat models or of plain LLMs, in *scope*: a part of the key that
    no key function can remove."""
    kind = "langchain" if chat else "langchain-text"
    return f"{kind}.{sha256(scope.encode()).hexdigest()[:16]}" if scope else kind


class LLMCacheMem(BaseCache):
    """``set_llm_cache(LLMCacheMem())``: every LangChain model behind an LLMCache. Thread-safe;
    copies are the same cache.

    *cache*: the LLMCache to use; without it, one is made from *arguments*, which are those of
      LLMCache. *usage*: whether a hit
    reports ``zero`` tokens, so that nobody is billed twice, or keeps those of the call that was
    made. *unidentified*: what to do for a model whose description is no more than its type, so that
    two of them cannot be told apart: ``cache``, with a warning in the log, or ``bypass``.

    No failure reaches the model call, save two that are asked for: CacheMissError in mode
    ``replay`` and StoreError of a cache with ``strict=True``.
    """

    def __init__(
        self,
        cache: LLMCache | None = None,
        *,
        usage: Usage = "zero",
        unidentified: Unidentified = "cache",
        **arguments: Any,
    ) -> None:
        if cache is not None and arguments:
            raise TypeError("give either a cache or the arguments to make one")
        if cache is not None and not isinstance(cache, LLMCache):
            raise TypeError(f"cache must be an LLMCache, not {type(cache).__name__}")
        if usage not in ("zero", "keep"):
            raise ValueError(f"usage must be zero or keep, not {usage!r}")
        if unidentified not in ("cache", "bypass"):
            raise ValueError(f"unidentified must be cache or bypass, not {unidentified!r}")
        self._cache = LLMCache(**arguments) if cache is None else cache
        self._usage: Usage = usage
        self._unidentified: Unidentified = unidentified
        self._scope = ""
        self._warned: set[str] = set()
        self._requests: list[_Remembered | None] = [None] * _SLOTS
        self._turns = Turns()
        engine = self._cache.engine
        self._fail_open = engine.fail_open
        # a request without a key was counted at the lookup before
        self._fail_open_quietly = FailOpen(engine.ledger, engine.settings, count_requests=False)

    @property
    def cache(self) -> LLMCache:
        """The cache underneath."""
        return self._cache

    @property
    def scope(self) -> str:
        """The name of this key space; empty for the usual one."""
        return self._scope

    @property
    def usage(self) -> Usage:
        """Whether hits report zero tokens or keep their own."""
        return self._usage

    def stats(self) -> CacheStats:
        """The counters of the cache underneath, by all who use it."""
        return self._cache.stats()

    def scoped(self, name: str) -> "LLMCacheMem":
        """The same cache with a key space of its own: for models that LangChain describes alike, or
        that differ by an API key."""
        if not isinstance(name, str):
            raise TypeError(f"a scope is named by a str, not {type(name).__name__}")
        other = LLMCacheMem(
            self._cache, usage=self._usage, unidentified="cache" if name else self._unidentified
        )
        other._scope = name
        return other

    # -- What LangChain calls

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """The stored generations, as new objects, or None."""
        with self._fail_open:
            request = self._request(prompt, llm_string)
            return self._found(request, self._cache.engine.lookup(request, load))
        return None

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Store the generations, if they are worth keeping."""
        with self._fail_open_quietly:
            request = self._request(prompt, llm_string)
            self._cache.engine.store(
                request,
                dump(return_val, request.params),
                response=return_val,
                seconds=_seconds(request),
            )

    def clear(self, **kwargs: Any) -> None:
        """Forget every answer of the cache's namespace, those of its other users included, and of
        no other namespace."""
        self._cache.clear()

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """As ``lookup``, in a thread where that would wait for a disk; concurrent identical calls
        of a chat model take turns."""
        with self._fail_open:
            request = self._request(prompt, llm_string)
            wait_timeout = self._cache.engine.wait_timeout if is_chat(prompt) else 0.0
            if wait_timeout:
                await self._turns.take(request.key, wait_timeout)
            hit = await self._cache.engine.alookup(request, load)
            if hit is not None:
                self._turns.give_up(request.key)
            return self._found(request, hit)
        return None

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """As ``update``."""
        with self._fail_open_quietly:
            request = self._request(prompt, llm_string)
            await self._cache.engine.astore(
                request,
                dump(return_val, request.params),
                response=return_val,
                seconds=_seconds(request),
            )
            self._turns.give_up(request.key)

    async def aclear(self, **kwargs: Any) -> None:
        """As ``clear``."""
        await self._cache.aclear()

    # -- Inside

    def _found(self, request: Request, hit: Hit | None) -> RETURN_VAL_TYPE | None:
        if hit is None:
            _missed.set((request.key, monotonic()))
            return None
        mark_hits(hit.value, age=hit.age, keep_usage=self._usage == "keep")
        return hit.value  # type: ignore[no-any-return]  # load made it

    def _request(self, prompt: str, llm_string: str) -> Request:
        """The request that the two strings are, remembered for as long as the classes they name are
        the same."""
        model = model_of(llm_string)
        classes = model.resolve() if model.classes or model.refusal else ()
        options = current()
        about = (prompt, llm_string, classes, options.namespace, options.sample)
        place = hash(prompt) % _SLOTS
        slot = self._requests[place]
        if slot is not None and slot[0] == about:
            return slot[1]
        params = model.params(classes)
        self._check_identified(params)
        kind = kind_of_entry(self._scope, chat=is_chat(prompt))
        request = self._cache.engine.keyer.request(read_prompt(prompt, params), params, kind)
        if len(prompt) + len(llm_string) <= _LARGEST_REMEMBERED:
            self._requests[place] = (about, request)
        return request

    def _check_identified(self, params: dict[str, Any]) -> None:
        kind = params.get("_type")
        if self._scope or kind is None or "model" in params or "_class" in params:
            return
        if self._unidentified == "bypass":
            raise RequestNotCacheable("model", f"LangChain describes it as {kind!r} and no more")
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning(
                "LangChain describes this model as %r without its name: if you use two of them,"
                " give each a cache.scoped(...) or wrap it with cached(model, cache), or one may"
                " get the other's answers",
                kind,
            )

    def __repr__(self) -> str:
        scope = f", scope={self._scope!r}" if self._scope else ""
        return f"LLMCacheMem({self._cache!r}{scope})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a copied model means the same cache

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._cache, self._usage, self._unidentified, self._scope)


_Remembered = tuple[tuple[Any, ...], Request]


def _reopen(cache: LLMCache, usage: Usage, unidentified: Unidentified, scope: str) -> LLMCacheMem:
    restored = LLMCacheMem(cache, usage=usage, unidentified=unidentified)
    return restored.scoped(scope) if scope else restored


def _seconds(request: Request) -> float | None:
    """How long the call took, if its miss was the last of this context."""
    missed = _missed.get()
    if missed is None or missed[0] != request.key:
        return None
    _missed.set(None)
    return monotonic() - missed[1]
