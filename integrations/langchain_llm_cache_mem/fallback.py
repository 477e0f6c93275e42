"""Answers of the LangChain cache that was used before, taken over as they are asked for."""

import logging
from functools import partial
from typing import Final

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache

from langchain_llm_cache_mem.generations import dump
from llm_cache_mem import LLMCache, Request

__all__ = ["Fallback"]

_log = logging.getLogger(__name__)

_MOST_TAKEN: Final = 1 << 16


class Fallback:
    """Gives *cache* the answers of *old* that it has none for.

    Each is given at most once, so that one that expired or was deleted since does not come back;
    and only in the cache's own namespace, for *old* does not know whose its answers are, until a
    namespace is cleared. Where *old* fails, it has no answer.
    """

    def __init__(self, old: BaseCache, cache: LLMCache) -> None:
        self._old = old
        self._engine = cache.engine
        self._clears = cache.engine.writer.clears
        self._taken: set[str] = set()
        self._failed = False

    def take_over(self, request: Request, prompt: str, llm_string: str) -> None:
        """Store what *old* has for *request*, if that was never answered here."""
        if self._may_have(request) and self._is_new(request):
            epoch, found = self._engine.epoch, None
            try:
                found = self._old.lookup(prompt, llm_string)
            except Exception as exc:  # noqa: BLE001  # the model can still be called
                self._note_failure(exc)
            self._store(request, found, epoch)

    async def atake_over(self, request: Request, prompt: str, llm_string: str) -> None:
        """As ``take_over``, with the store in a thread where it would block the event loop."""
        off_loop = self._engine.off_loop
        if self._may_have(request) and await off_loop(lambda: self._is_new(request)):
            epoch, found = self._engine.epoch, None
            try:
                found = await self._old.alookup(prompt, llm_string)
            except Exception as exc:  # noqa: BLE001  # as above
                self._note_failure(exc)
            if found:
                await off_loop(lambda: self._store(request, found, epoch))

    def _may_have(self, request: Request) -> bool:
        """Whether an answer of *old* may be that of *request*: not for one of several samples, nor
        where documents that the answer depends on may have changed since."""
        if self._engine.writer.clears != self._clears:
            return False
        is_sample = "." in request.key.rpartition(":")[2]
        if (
            is_sample
            or request.depends_on is not None
            or not self._engine.keyer.is_own(request.key)
        ):
            return False
        mode = self._engine.settings.current_mode()
        if mode == "refresh":
            self._note_taken(request.key)
        return mode == "on" and request.key not in self._taken and len(self._taken) < _MOST_TAKEN

    def _is_new(self, request: Request) -> bool:
        """Whether the store has no answer, not even an expired one."""
        get = self._engine.backend.get
        return all(get(key) is None for key in (request.key, *request.older))

    def _store(self, request: Request, found: RETURN_VAL_TYPE | None, epoch: int) -> None:
        if found and epoch == self._engine.epoch:
            self._note_taken(request.key)
            encode = partial(dump, params=request.params)
            self._engine.writer.take_over(request, found, encode)

    def _note_taken(self, key: str) -> None:
        if len(self._taken) < _MOST_TAKEN:
            self._taken.add(key)

    def _note_failure(self, exc: Exception) -> None:
        self._engine.ledger.error("fallback")
        if not self._failed:
            self._failed = True
            _log.warning("the fallback cache failed: it raised %s", type(exc).__name__)
