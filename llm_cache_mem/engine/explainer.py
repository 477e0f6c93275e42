"""Explain the misses of a cache: how a request differs from the stored ones."""

import logging

from llm_cache_mem.diagnostics.explain import Explanation, StoredRequest, explain
from llm_cache_mem.diagnostics.misses import Misses
from llm_cache_mem.diagnostics.redaction import Redaction
from llm_cache_mem.engine.generations import KIND as GENERATION
from llm_cache_mem.engine.generations import Generations
from llm_cache_mem.engine.settings import Settings
from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.request import Keyer, Request
from llm_cache_mem.stores.fail_open import FailOpenStore

__all__ = ["Explainer"]

_log = logging.getLogger(__name__)


class Explainer:
    """Compares requests of a cache with those that its store holds. Thread-safe."""

    def __init__(
        self,
        store: FailOpenStore,
        keyer: Keyer,
        settings: Settings,
        misses: Misses,
        generations: Generations,
    ) -> None:
        self._store = store
        self._keyer = keyer
        self._settings = settings
        self._misses = misses
        self._generations = generations
        self._warned = False

    def explain(self, request: Request, *, until: float | None = None) -> Explanation:
        """How *request* differs from those stored before *until* (None: now).

        Counts nothing. StoreError if the store fails.
        """
        redaction = self._settings.redaction or Redaction()
        text = request.text or self._keyer.text(request.messages, request.params, request.view)
        asked = StoredRequest.from_key(request.key, text.encode())
        others = (
            StoredRequest.from_key(key, one.request)
            for key, one in self._store.entries(digest.prefix(digest.parse(request.key).namespace))
            if key != request.key and (until is None or one.stored_at <= until)
        )
        others = (one for one in others if one.kind != GENERATION)  # of depends_on: no answer
        found = explain(asked, others, self._keyer.hashed, redaction)
        return found._replace(state=self._state(request))

    def last(self, most: int) -> list[Explanation]:
        """Why the last lookups missed, the latest first, at most *most* of them."""
        if not self._keyer.texts and not self._warned:
            self._warned = True
            _log.warning(
                "explain_misses() has no requests to compare: LLMCache(keep_requests=True) stores"
                " them"
            )
        found = []
        for miss in self._misses.last(most):
            state, reason = self._misses.cause(miss)
            explained = self.explain(miss.request, until=miss.at)
            found.append(explained._replace(state=state, reason=reason))
        return found

    def _state(self, request: Request) -> str:
        entry = self._store.get_or_raise(request.key)
        if entry is None:
            return "absent"
        try:
            entry.payload.decode()
        except EntryUnreadable:
            return "unreadable"
        if not self._settings.is_fresh(entry, self._settings.clock()):
            return "expired"
        return "fresh" if self._generations.allow(request, entry) else "invalidated"
