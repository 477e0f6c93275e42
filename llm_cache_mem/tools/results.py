"""Results: the engine of a cache for the results of tools, by the rules of each tool."""

import logging
from contextvars import ContextVar
from typing import Any, Literal, cast, get_args

from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.engine.generations import KIND, generation_of_tool
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys.dependencies import Dependencies
from llm_cache_mem.keys.request import Request
from llm_cache_mem.options import INHERITED, Unset, current
from llm_cache_mem.tools.counters import ToolCacheStats, ToolLedger, label
from llm_cache_mem.tools.rules import Rule

__all__ = ["FORMS", "KINDS", "Form", "Results", "skip_reason", "tool_ttl"]

_log = logging.getLogger(__name__)

Form = Literal["tool", "tool-message", "tool-output", "tool-mcp"]
FORMS: tuple[Form, ...] = get_args(Form)
"""The kinds of results: what a tool returns, as it is and as LangChain, LlamaIndex and MCP pass it
on. Each is read in its own form only."""
KINDS = frozenset((*FORMS, KIND))
"""The kinds of all entries that tools have in a store."""

tool_ttl: "ContextVar[float | Unset | None]" = ContextVar(
    "llm_cache_mem_tool_ttl", default=INHERITED
)
"""How long results of the tool being called live. Every call sets it: a tool that calls others does
not pass it on."""


class Results:
    """The results of tools in the store of *cache*, counted in its ledger, under its single-flight.
    Thread-safe.

    Its *key_fn*, its *ignore* and the test for complete answers are about conversations and do not
    apply here. Its *admit* does if it is a function.
    """

    def __init__(self, cache: LLMCache) -> None:
        own = cache.engine
        self._ledger = ToolLedger(own.ledger)
        store = own.backend.inner
        # invalid results must not be served from memory for some seconds more
        store = getattr(store, "exact", store)
        settings = own.settings._replace(free=True, ttl_fn=_ttl_of_tool)
        if not settings.own_admit:
            settings = settings._replace(admit=lambda result: None)
        self.engine = Engine(
            store, own.keyer.verbatim(), cast(Ledger, self._ledger), settings, beside=own
        )
        self.generations = self.engine.generations

    def of_call(self, tool: str, args: Any, rule: Rule, form: Form) -> Request | None:
        """The request for a call of *tool*; None: make the call without the cache."""
        if self.engine.is_off:
            return None
        try:
            return self.request_of(tool, args, rule, form)
        # depends_on may be a function of the user's, and its fault must not break the call
        except Exception as exc:
            if self.engine.is_replay:
                raise
            known = isinstance(exc, RequestNotCacheable)
            why = exc if known else f"depends_on raised {type(exc).__name__}"
            self.skip(
                tool,
                "request" if known else "depends_on",
                "a call of a tool goes uncached: %s",
                why,
            )
            return None

    def request_of(self, tool: str, args: Any, rule: Rule, form: Form) -> Request:
        """As ``of_call``.

        Raises RequestNotCacheable if the arguments have no wire form or name no entity, and
        whatever a function for *depends_on* raises.
        """
        if not isinstance(args, dict):
            raise RequestNotCacheable(
                "args", f"the arguments are not a mapping but {type(args).__name__}"
            )
        request = self.engine.keyer.request(None, rule.params(tool, args), form)
        names = [generation_of_tool(tool), *rule.entities(args)]
        if request.depends_on is not None:
            names += request.depends_on.names
        return request._replace(model=label(tool), depends_on=Dependencies(names))

    def skip(self, tool: str, reason: str, text: str, *args: object) -> None:
        """Count a call of *tool*, or its result, as skipped for *reason*; log the first."""
        if self._ledger.skip(reason, None, label(tool)):
            _log.warning(text, *args)

    def by_tool(self) -> ToolCacheStats:
        """The counters of each tool."""
        return self._ledger.by_tool()


def _ttl_of_tool(ttl_seconds: float | None) -> float | None:
    """The shorter of the lifetime asked for in this call, or else set for the cache, and that of
    the tool."""
    own = tool_ttl.get()
    if isinstance(own, Unset):
        return ttl_seconds
    asked = current().ttl_seconds
    if isinstance(asked, Unset) or asked is None:
        return own
    return asked if own is None else min(own, asked)


def skip_reason(result: Any) -> str | None:
    """Why *result* is not to be stored: it reports an error, or commands the framework that runs
    the tool. None if neither."""
    for name in ("is_error", "isError"):
        flag = result.get(name) if isinstance(result, dict) else getattr(result, name, None)
        if flag is True:
            return "tool error"
    if getattr(result, "status", None) == "error" and hasattr(result, "tool_call_id"):
        return "tool error"
    if isinstance(result, BaseException):
        return "tool error"
    several = result if isinstance(result, (list, tuple)) else (result,)
    if any(
        type(item).__name__ == "Command" and type(item).__module__.startswith("langgraph.")
        for item in several
    ):
        return "side effect"
    return None
