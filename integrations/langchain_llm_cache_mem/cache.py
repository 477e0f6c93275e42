"""LLMCacheMem: LangChain's cache interface over LLMCache, with keys made from what the two strings
say rather than from the strings."""

import logging
from collections.abc import Collection
from contextvars import ContextVar
from time import monotonic
from typing import Any, Literal, NamedTuple, Self

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache

from langchain_llm_cache_mem.caller import Call, calling, check_langchain, report_change
from langchain_llm_cache_mem.config import NOTHING_READ, ConfigReader, NamespaceFrom
from langchain_llm_cache_mem.fallback import Fallback
from langchain_llm_cache_mem.generations import complete_hits, dump, load, mark_hits
from langchain_llm_cache_mem.leading import ROUNDS, Leads, TaskLeads
from langchain_llm_cache_mem.parsing import is_chat, model_of, read_prompt
from langchain_llm_cache_mem.requests import Requests, kind_of_entry
from langchain_llm_cache_mem.settings import is_core_fake
from langchain_llm_cache_mem.shape import state_of
from langchain_llm_cache_mem.sources import Sources
from langchain_llm_cache_mem.validation import note_answer, watch_steps
from llm_cache_mem import CacheStats, Hit, LLMCache, Request, RequestNotCacheable
from llm_cache_mem.engine.circumstances import timeout_of
from llm_cache_mem.engine.fail_open import FailOpen
from llm_cache_mem.keys.state import refuse_stateful
from llm_cache_mem.options import current

__all__ = ["LLMCacheMem", "Usage"]

_log = logging.getLogger(__name__)

Usage = Literal["zero", "keep"]
Unidentified = Literal["cache", "bypass"]

_SLOTS = 256
_LARGEST_REMEMBERED = 1 << 16
_UNDER_WAY = 256
_CORE_FAKES = frozenset(
    {"fake-chat-model", "fake-list", "fake-list-chat-model", "fake-messages-list-chat-model"}
    | {"generic-fake-chat-model", "parrot-fake-chat-model"}
)


class _Miss(NamedTuple):
    """A lookup that missed, of whose call the answer is still to come."""

    request: Request
    began: float


# What this context missed last, for calls whose model cannot be seen.
_missed: ContextVar[_Miss | None] = ContextVar("langchain_llm_cache_mem_missed", default=None)


class LLMCacheMem(BaseCache):
    """``set_llm_cache(LLMCacheMem())``: every LangChain model behind an LLMCache. Thread-safe;
    copies are the same cache.

    No failure of the cache reaches the model call, except those that you ask for: CacheMissError
    in mode ``replay``, and StoreError of a cache with ``strict=True``.

    Args:
        cache: The LLMCache to use. Without it, one is made from *arguments*, which are those of
            LLMCache.
        usage: Whether a hit reports ``zero`` tokens, so that no call is billed twice, or ``keep``s
            those of the call that was made.
        unidentified: What to do when a lookup does not show which model is asking, and LangChain's
            description of the model does not tell it from others: ``cache``, with a warning in the
            log, or ``bypass``. By default, only the fakes of langchain-core are cached.
        namespace_from: A function of the RunnableConfig of a call that returns its namespace, such
            as the id of a user in ``config["metadata"]``; None for that of the cache. Where it
            raises, the call goes uncached, and is counted.
        tags_from: Names of tags by which calls are counted: keys of ``config["metadata"]``, and
            tags of the config written as ``"team:search"`` or ``"team=search"``.
        sources: Whether answers depend on the documents that were retrieved in the same run, so
            that ``cache.invalidate("doc:<id>")`` makes them invalid: ``doc:`` and the id of each,
            and ``doc:`` and its ``metadata["source"]``; or a function of a document that returns
            its name.
        fallback: Another LangChain cache, such as the SQLiteCache used before. Answers that are
            only there are taken over as they are asked for, each once, into the cache's own
            namespace, until ``clear()``.
    """

    def __init__(
        self,
        cache: LLMCache | None = None,
        *,
        usage: Usage = "zero",
        unidentified: Unidentified | None = None,
        namespace_from: NamespaceFrom | None = None,
        tags_from: Collection[str] = (),
        sources: Sources = False,
        fallback: BaseCache | None = None,
        **arguments: Any,
    ) -> None:
        if cache is not None and arguments:
            raise TypeError("give either a cache or the arguments to make one")
        if cache is not None and not isinstance(cache, LLMCache):
            raise TypeError(f"cache must be an LLMCache, not {type(cache).__name__}")
        if usage not in ("zero", "keep"):
            raise ValueError(f"usage must be zero or keep, not {usage!r}")
        if fallback is not None and not isinstance(fallback, BaseCache):
            raise TypeError(f"fallback must be a BaseCache, not {type(fallback).__name__}")
        if unidentified not in ("cache", "bypass", None):
            raise ValueError(f"unidentified must be cache or bypass, not {unidentified!r}")
        self._cache = LLMCache(**arguments) if cache is None else cache
        self._usage: Usage = usage
        self._unidentified: Unidentified | None = unidentified
        self._config = ConfigReader.of(namespace_from, tags_from, sources)
        self._fallback = None if fallback is None else Fallback(fallback, self._cache)
        self._scope = ""
        self._warned: set[str] = set()
        self._remembered: list[_Remembered | None] = [None] * _SLOTS
        self._under_way: dict[tuple[int, str], _Miss] = {}
        self._task_leads = TaskLeads()
        self._leads = Leads()
        engine = self._cache.engine
        self._requests = Requests(engine)
        check_langchain()
        watch_steps()
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
    def config(self) -> ConfigReader:
        """What is read from the RunnableConfig of a call."""
        return self._config

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
        other = _reopen(self._cache, self._usage, self._unidentified, "", self._config)
        other._scope = name
        other._requests = Requests(self._cache.engine, name, identity=name)
        return other

    # -- What LangChain calls

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """The stored generations, as new objects, or None."""
        with self._fail_open:
            call = self._calling(prompt, llm_string)
            request = self._request(prompt, llm_string, call)
            if request is not None:
                if self._fallback is not None:
                    self._fallback.take_over(request, prompt, llm_string)
                hit = self._cache.engine.lookup(request, load, zero_usage=self._usage == "zero")
                if hit is None and call is not None and is_chat(prompt):
                    hit = self._coalesced(request, call)
                return self._found(request, hit, call, prompt)
        return None

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Store the generations, if they are worth it."""
        with self._fail_open_quietly:
            request, seconds = self._answered(prompt, llm_string, calling(prompt, llm_string))
            if request is not None:
                try:
                    if not self._answered_below(request, return_val):
                        value = dump(return_val, request.params)
                        self._cache.engine.store(
                            request, value, response=return_val, seconds=seconds
                        )
                finally:
                    self._leads.release(request.key)
                note_answer(self._cache.engine, request, return_val, None)

    def clear(self, **kwargs: Any) -> None:
        """Forget every answer of the cache's namespace, those of its other users included, and of
        no other namespace. A fallback is asked no more.

        Raises:
            TypeError: for any argument. No part of a namespace can be named here, because keys are
                digests.
        """
        _refuse_arguments(kwargs)
        self._cache.clear()

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """As ``lookup``, in a thread where that would wait for a disk; concurrent identical calls
        of a chat model wait for one another."""
        with self._fail_open:
            call = self._calling(prompt, llm_string)
            request = self._request(prompt, llm_string, call)
            if request is None:
                return None
            if self._fallback is not None:
                await self._fallback.atake_over(request, prompt, llm_string)
            wait_timeout = self._wait_timeout(call) if is_chat(prompt) else 0.0
            if wait_timeout and not await self._task_leads.take(request.key, wait_timeout) and call:
                report_change("a call of a chat model is no task of its own")
            hit = await self._cache.engine.alookup(request, load, zero_usage=self._usage == "zero")
            if hit is not None:
                self._task_leads.give_up(request.key)
            return self._found(request, hit, call, prompt)
        return None

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """As ``update``."""
        with self._fail_open_quietly:
            request, seconds = self._answered(prompt, llm_string, calling(prompt, llm_string))
            if request is not None:
                if not self._answered_below(request, return_val):
                    value = dump(return_val, request.params)
                    await self._cache.engine.astore(
                        request, value, response=return_val, seconds=seconds
                    )
                note_answer(self._cache.engine, request, return_val, None)
                self._task_leads.give_up(request.key)

    async def aclear(self, **kwargs: Any) -> None:
        """As ``clear``."""
        _refuse_arguments(kwargs)
        await self._cache.aclear()

    # -- Inside

    def _calling(self, prompt: str, llm_string: str) -> Call | None:
        """The call that begins with a lookup. One that failed may have had its number."""
        call = calling(prompt, llm_string)
        if call is not None:
            self._under_way.pop((call.number, prompt), None)
        return call

    def _coalesced(self, request: Request, call: Call) -> Hit | None:
        """The answer to another thread's call in progress; None if this thread is to make the
        call."""
        engine, began, wait_timeout = self._cache.engine, monotonic(), self._wait_timeout(call)
        for _ in range(ROUNDS) if wait_timeout and call.run_manager is not None else ():
            leads = self._leads.take(request.key, call.run_manager)
            if not leads and not self._leads.wait(request.key, began + wait_timeout - monotonic()):
                break
            hit = engine.recheck(request, load)
            if hit is not None:
                engine.count_coalesced(request, hit.entry, monotonic() - began)
            if leads and hit is not None:
                self._leads.release(request.key)
            if leads or hit is not None:
                return hit
        return None

    def _wait_timeout(self, call: Call | None) -> float:
        """How many seconds this call may wait for another; 0.0 where calls are not coalesced."""
        most = self._cache.engine.wait_timeout
        own = None if call is None else timeout_of(call.kwargs, call.model)
        return most if own is None else min(most, own)

    def _found(
        self, request: Request, hit: Hit | None, call: Call | None, prompt: str
    ) -> RETURN_VAL_TYPE | None:
        if hit is None:
            self._missed(request, call, prompt)
            return None
        mark_hits(hit.value, age=hit.age, keep_usage=self._usage == "keep")
        manager = None if call is None else call.run_manager
        complete_hits(hit.value, None if manager is None else manager.run_id)
        note_answer(self._cache.engine, request, hit.value, manager)
        return hit.value  # type: ignore[no-any-return]  # load made it

    def _answered_below(self, request: Request, generations: RETURN_VAL_TYPE) -> bool:
        """Whether an installed HTTP layer has answered, and stored, the call; a hit there is marked
        as one here."""
        below = self._cache.engine.answered_below(request)
        if below is not None and below.is_hit:
            mark_hits(list(generations), keep_usage=self._usage == "keep")
        return below is not None

    def _missed(self, request: Request, call: Call | None, prompt: str) -> None:
        """Note a miss, for the update that follows if the call succeeds."""
        if call is None:
            _missed.set(_Miss(request, monotonic()))
            return
        while len(self._under_way) >= _UNDER_WAY:  # calls that failed
            self._under_way.pop(next(iter(self._under_way)), None)
        self._under_way[call.number, prompt] = _Miss(request, monotonic())

    def _answered(
        self, prompt: str, llm_string: str, call: Call | None
    ) -> tuple[Request | None, float | None]:
        """The request that was looked up before the call, and how many seconds that took. The model
        may have changed meanwhile."""
        if call is None:
            request = self._request(prompt, llm_string, None)
            miss = _missed.get()
            if miss is None or request is None or miss.request.key != request.key:
                return request, None
            _missed.set(None)
        else:
            miss = self._under_way.pop((call.number, prompt), None)
            if miss is None:
                return None, None
        return miss.request, monotonic() - miss.began

    def _request(self, prompt: str, llm_string: str, call: Call | None = None) -> Request | None:
        """The request of *call*, or that the two strings are where it cannot be seen."""
        with self._config.options_for(None if call is None else call.manager):
            return self._request_here(prompt, llm_string, call)

    def _request_here(self, prompt: str, llm_string: str, call: Call | None) -> Request | None:
        """``_request`` under the options that count."""
        if call is None or is_core_fake(type(call.model)):
            return self._read(prompt, llm_string)
        if self._cache.engine.is_off:
            return None
        params = self._requests.params(call.model, type(call.model), call.stop, call.kwargs)
        return None if params is None else self._requests.request(call.prompt, params)

    def _read(self, prompt: str, llm_string: str) -> Request:
        """The request that the two strings are, remembered for as long as the classes they name are
        the same."""
        model = model_of(llm_string)
        classes = model.resolve() if model.classes or model.refusal else ()
        options = current()
        if options.draw is not None:  # a lookup and its update are not told from others here
            raise RequestNotCacheable("samples", "wrap the model with cached(model, cache)")
        about = (
            *(prompt, llm_string, classes),
            *(options.namespace, options.sample, options.stateful, options.tags),
        )
        place = hash(prompt) % _SLOTS
        slot = self._remembered[place]
        alone = bool(options.depends_on)  # the request is of one call
        if slot is not None and slot[0] == about and not alone:
            return slot[1]
        params = model.params(classes)
        self._check_identified(params)
        kind = kind_of_entry(self._scope, self._scope, chat=is_chat(prompt))
        messages = read_prompt(prompt, params)
        refuse_stateful(state_of(messages, params))
        request = self._cache.engine.keyer.request(messages, params, kind)
        if not alone and len(prompt) + len(llm_string) <= _LARGEST_REMEMBERED:
            self._remembered[place] = (about, request)
        return request

    def _check_identified(self, params: dict[str, Any]) -> None:
        """RequestNotCacheable if *params* are all that LangChain says of a model that it does not
        describe whole."""
        kind = params.get("_type")
        if self._scope or kind is None or "_class" in params:
            return
        caches = self._unidentified == "cache"
        if not caches and (self._unidentified == "bypass" or kind not in _CORE_FAKES):
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
        return _reopen, (
            *(self._cache, self._usage, self._unidentified, self._scope),
            self._config,
        )


_Remembered = tuple[tuple[Any, ...], Request]


def _reopen(
    cache: LLMCache,
    usage: Usage,
    unidentified: Unidentified | None,
    scope: str,
    config: ConfigReader = NOTHING_READ,
) -> LLMCacheMem:
    restored = LLMCacheMem(cache, usage=usage, unidentified=unidentified, **config._asdict())
    return restored.scoped(scope) if scope else restored


def _refuse_arguments(kwargs: dict[str, Any]) -> None:
    if kwargs:
        raise TypeError(
            f"clear() removes a whole namespace and takes no {', '.join(kwargs)}: put answers that"
            " are to be removed separately into another namespace, with options(namespace=...)"
        )
