"""From a call of a LangChain model to a request with a key."""

import logging
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from langchain_core.messages import BaseMessage
from pydantic import BaseModel

from langchain_llm_cache_mem.settings import MODEL_SETTINGS
from langchain_llm_cache_mem.shape import as_params, messages_as_dicts, sent, state_of
from llm_cache_mem import Request, RequestNotCacheable
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.keys.growing import note_settings
from llm_cache_mem.keys.identity import Identity
from llm_cache_mem.keys.state import refuse_stateful

__all__ = ["Requests", "kind_of_entry", "kind_of_scope"]

_log = logging.getLogger(__name__)


def kind_of_entry(scope: str, identity: str = "", *, chat: bool) -> str:
    """The kind of the entries of chat models or of plain LLMs, in *scope*, of what is called
    *identity*: a part of the key that no key function can remove."""
    kind = "langchain" if chat else "langchain-text"
    name = f"{scope}\0{identity}" if identity not in ("", scope) else scope
    return f"{kind}.{sha256(name.encode()).hexdigest()[:16]}" if name else kind


def kind_of_scope(scope: str) -> str:
    """The kind of the entries of embedding models in *scope*."""
    kind = "langchain-embedding"
    return f"{kind}.{sha256(scope.encode()).hexdigest()[:16]}" if scope else kind


class Requests:
    """Makes the requests of the models of one cache, in one *scope*. Thread-safe.

    *identity* names whatever is opaque in a model. Without it, calls of such a model are skipped.
    """

    def __init__(self, engine: Engine, scope: str = "", identity: str = "") -> None:
        self._engine = engine
        self._scope = scope
        self._identity = identity
        self._logged: set[tuple[str, ...]] = set()

    def params(
        self,
        model: BaseModel,
        cls: type[BaseModel],
        stop: Any,
        kwargs: Mapping[str, Any],
    ) -> dict[str, Any] | None:
        """The params of a call of *model*, a *cls*; None, counted as skipped, if they cannot be
        known."""
        found = MODEL_SETTINGS.read(model, cls)
        if found.opaque and not self._identity:
            self._skip(cls, found)
            return None
        note_settings(cls, found.settings)
        return as_params(found.settings, kwargs if stop is None else {**kwargs, "stop": stop})

    def request(self, prompt: str | Sequence[BaseMessage], params: Mapping[str, Any]) -> Request:
        """The request for *prompt* with *params*. RequestNotCacheable if it has no wire form."""
        return self.request_of(_messages(prompt, params), params, chat=not isinstance(prompt, str))

    def request_of(
        self, messages: list[Any], params: Mapping[str, Any], *, chat: bool = True
    ) -> Request:
        """As ``request``, for messages in the form in which they are keyed."""
        kind = kind_of_entry(self._scope, self._identity, chat=chat)
        refuse_stateful(state_of(messages, params))
        return self._engine.keyer.request(messages, params, kind, draws=True)

    def _skip(self, cls: type, found: Identity) -> None:
        path, type_name = next(iter(found.opaque.items()))
        reason = f"{cls.__name__}.{path} is a {type_name}, which has no wire form"
        if self._engine.is_replay:
            raise RequestNotCacheable(path, reason)
        self._engine.ledger.skip("opaque")
        named = (cls.__name__, *found.opaque)
        if named not in self._logged:
            self._logged.add(named)
            _log.warning(
                "calls go uncached: %s, so no key can tell two such models apart; identify yours"
                " with cached(model, cache, identity=...) or LLMCacheMem.scoped(...)",
                reason,
            )


def _messages(
    prompt: str | Sequence[BaseMessage], params: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    fields = ({**message.__dict__, **(message.__pydantic_extra__ or {})} for message in prompt)
    return messages_as_dicts(map(sent, fields), params)
