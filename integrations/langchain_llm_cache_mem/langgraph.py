"""NodeCache: LangGraph's cache of nodes over an LLMCache, for ``graph.compile(cache=...)``."""

import json
import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any, NamedTuple

try:
    from langgraph.cache.base import BaseCache, FullKey, Namespace
    from langgraph.types import Send
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "langgraph":  # installed but broken
        raise
    raise ImportError(
        "NodeCache needs langgraph: pip install 'llm-cache-mem[langgraph]'", name="langgraph"
    ) from None

from langchain_core.messages import BaseMessage

from langchain_llm_cache_mem.nodes import (
    Node,
    function_mark,
    message_ids,
    nodes_looked_up,
)
from llm_cache_mem import LLMCache, Request, RequestNotCacheable
from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.arguments import exact
from llm_cache_mem.keys.dependencies import Dependencies
from llm_cache_mem.options import INHERITED, current
from llm_cache_mem.tools.results import Results, tool_ttl
from llm_cache_mem.values.classes import register_package

__all__ = ["NodeCache", "node_key"]

_log = logging.getLogger(__name__)

register_package("langchain_core.messages")
register_package("langchain_core.documents")

_KIND = "node"
_ALL = "node\n"
_UNNAMED = "__dynamic__"
_UNFINISHED = {"__interrupt__": "interrupt", "__resume__": "interrupt", "__error__": "error"}
_MOST_ASKED = 1024
_UNSEEN = Node()


class _Asked(NamedTuple):
    """A lookup in *cache* that missed, of a *node* whose writes are still to come."""

    cache: "NodeCache"
    request: Request
    began: float
    node: Node


_NOTHING_ASKED: Mapping[FullKey, _Asked] = {}
_asked: "ContextVar[Mapping[FullKey, _Asked]]" = ContextVar(
    "langchain_llm_cache_mem_nodes", default=_NOTHING_ASKED
)


class NodeCache(BaseCache[Any]):
    """The results of LangGraph's nodes and tasks in *cache*, for those that have a CachePolicy.

    A result lives for the ``ttl`` of its policy, or without one as long as the cache says. No
    failure of the cache reaches a run, and nothing is unpickled: results that the cache cannot
    store are skipped, counted, and their nodes run again. The classes in them are declared with
    ``llm_cache_mem.register``; messages, documents and ``Send`` need no declaration.

    Args:
        cache: The LLMCache to use. Without it, one is made from *arguments*, which are those of
            LLMCache.
        graph: The name of the graph, the same in every process. Nodes are told apart by their names
            and by the code and defaults of their functions and what these close over. Where that
            has no wire form, such as a client, a callable object or a subgraph, results are found
            in this process only, unless the graph has a name; graphs of one name must not differ in
            such things.

    Example:
        >>> policy = CachePolicy(key_func=node_key, ttl=600)
        >>> builder.add_node("summarize", summarize, cache_policy=policy)
        >>> graph = builder.compile(cache=NodeCache(cache))
    """

    def __init__(self, cache: LLMCache | None = None, *, graph: str = "", **arguments: Any) -> None:
        if cache is not None and arguments:
            raise TypeError("give either a cache or the arguments to make one")
        if cache is not None and not isinstance(cache, LLMCache):
            raise TypeError(f"cache must be an LLMCache, not {type(cache).__name__}")
        if not isinstance(graph, str):
            raise TypeError(f"a graph is named by a str, not {type(graph).__name__}")
        super().__init__()
        self._cache = LLMCache(**arguments) if cache is None else cache
        self._graph = graph
        self._scope = os.urandom(16).hex()
        self._marks: dict[FullKey, str | None] = {}
        self._engine = Results(self._cache).engine

    @property
    def cache(self) -> LLMCache:
        """The cache underneath."""
        return self._cache

    def __repr__(self) -> str:
        return f"NodeCache({self._cache!r}, graph={self._graph!r})"

    # -- What LangGraph calls

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """The stored writes of the nodes with these keys."""
        nodes = nodes_looked_up()
        requests = self._requests(keys, nodes)
        found = self._lookup(requests)
        self._note(requests, found, nodes)
        return found

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """As ``get``, in a thread where that would wait for a disk."""
        nodes = nodes_looked_up()
        requests = self._requests(keys, nodes)
        found = await self._engine.off_loop(lambda: self._lookup(requests))
        self._note(requests, found, nodes)
        return found

    def set(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """Store the writes of nodes, each for so many seconds."""
        asked = _asked.get()
        for key, (writes, ttl) in pairs.items():
            with _ttl(INHERITED if ttl is None else float(ttl)), self._engine.fail_open:
                self._store(key, writes, asked.get(key))

    async def aset(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """As ``set``, in a thread where that would wait for a disk."""
        await self._engine.off_loop(lambda: self.set(pairs))

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Make the results of all nodes invalid, or those of *namespaces*, at once in every
        process. StoreError if the store fails."""
        for name in [_ALL] if namespaces is None else map(self._name, namespaces):
            self._engine.generations.end(name)

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """As ``clear``."""
        await self._engine.off_loop(lambda: self.clear(namespaces))

    # -- Inside

    def _name(self, namespace: Namespace) -> str:
        return _ALL + json.dumps([self._graph, *namespace])

    def _requests(
        self, keys: Sequence[FullKey], nodes: Mapping[FullKey, Node]
    ) -> dict[FullKey, Request]:
        found = {}
        for key in keys:
            with self._engine.fail_open:
                request = self._request(key, self._mark(key, nodes.get(key, _UNSEEN).functions))
                if request is not None:
                    found[key] = request
        return found

    def _mark(self, key: FullKey, functions: Sequence[Any]) -> str:
        """What tells the functions of a node from others, noted for results of which no lookup is
        known in their context; None for those that several nodes may have."""
        if functions:
            mark = function_mark(functions, named=bool(self._graph))
        else:
            mark = self._scope if _UNNAMED in key[0] and not self._graph else ""
        self._marks[key] = mark if self._marks.get(key, mark) == mark else None
        if len(self._marks) > _MOST_ASKED:
            self._marks.pop(next(iter(self._marks)), None)
        return mark

    def _request(self, key: FullKey, mark: str) -> Request | None:
        """The request for the writes of a node; None where the cache is off."""
        namespace, hexdigest = key
        if self._engine.is_off:
            return None
        params = {"graph": self._graph, "function": mark, "namespace": list(namespace)}
        params["key"] = hexdigest
        made = self._engine.keyer.request(None, params, _KIND)
        names = [_ALL, self._name(namespace)]
        if made.depends_on is not None:
            names += made.depends_on.names
        node = f"node:{namespace[-1] if namespace else ''}"
        return made._replace(model=node, depends_on=Dependencies(names))

    def _lookup(self, requests: Mapping[FullKey, Request]) -> dict[FullKey, Any]:
        with _ttl(None), self._engine.fail_open:
            hits = self._engine.reader.lookup_many(list(requests.values()), _decode)
            return {
                key: hit.value for key, hit in zip(requests, hits, strict=True) if hit is not None
            }
        return {}

    def _note(
        self,
        requests: Mapping[FullKey, Request],
        found: Mapping[FullKey, Any],
        nodes: Mapping[FullKey, Node],
    ) -> None:
        """Remember in this context which lookups missed: their nodes depend on what held then."""
        missed = {
            # without its functions, which need not outlive their graph here
            key: _Asked(self, request, monotonic(), nodes.get(key, _UNSEEN)._replace(functions=()))
            for key, request in requests.items()
            if key not in found
        }
        if missed:
            known = {**_asked.get(), **missed}
            _asked.set(dict(list(known.items())[-_MOST_ASKED:]))

    def _store(self, key: FullKey, writes: Any, asked: _Asked | None) -> None:
        if asked is not None and asked.cache is not self:
            asked = None
        mark = self._marks.get(key, "") if asked is None else ""
        if mark is None:
            self._engine.skip("unidentified", "the writes of a node were not stored: %s")
            return
        request = self._request(key, mark) if asked is None else asked.request
        if request is None:
            return
        reason = _not_stored(writes, _UNSEEN if asked is None else asked.node)
        if reason is not None:
            self._engine.writer.skip(
                request, reason, "the writes of a node were not stored: %s", reason
            )
            return
        if asked is None and not current().depends_on:  # as of now: nothing ran in between
            self._engine.generations.begin(request, self._engine.settings.current_ttl())
        seconds = None if asked is None else monotonic() - asked.began
        value = _encode(writes)
        self._engine.writer.store(request, value, response=value, seconds=seconds)


def _is_writes(value: Any) -> bool:
    """Whether *value* is what a node wrote: pairs of a channel and a value."""
    return isinstance(value, (list, deque)) and all(
        type(pair) is tuple and len(pair) == 2 and isinstance(pair[0], str) for pair in value
    )


def _not_stored(writes: Any, node: Node) -> str | None:
    """Why the *writes* of *node* are not for another run; None if they are."""
    pairs = writes if _is_writes(writes) else []
    reason = next((_UNFINISHED[name] for name, _ in pairs if name in _UNFINISHED), None)
    if reason is None and node.resumed:
        return "interrupt"
    if reason is None and not node.message_ids.isdisjoint(message_ids([*map(list, pairs)])):
        return "message ids"  # it removes or replaces messages of this run
    return reason


def _encode(value: Any) -> dict[str, Any]:
    """The stored form of *value*: of writes, each with a ``Send`` as its parts."""
    if not _is_writes(value):
        return {"value": value}
    return {
        "writes": [
            [channel, "send", [getattr(each, name, None) for name in _SEND]]
            if type(each) is Send
            else [channel, "value", each]
            for channel, each in value
        ]
    }


_SEND = ("node", "arg", "timeout")


def _decode(stored: Any) -> Any:
    if not isinstance(stored, dict) or stored.keys() not in ({"writes"}, {"value"}):
        raise EntryUnreadable("not the writes of a node")
    if "value" in stored:
        return stored["value"]
    return [
        (channel, _send(each) if form == "send" else each)
        for channel, form, each in stored["writes"]
    ]


def _send(parts: Sequence[Any]) -> Send:
    node, arg, timeout = parts
    return Send(node, arg) if timeout is None else Send(node, arg, timeout=timeout)


@contextmanager
def _ttl(seconds: Any) -> Iterator[None]:
    token = tool_ttl.set(seconds)
    try:
        yield
    finally:
        tool_ttl.reset(token)


def node_key(*args: Any, **kwargs: Any) -> str:
    """The key of a node's input, for ``CachePolicy(key_func=node_key)``: everything that it is,
    classes and state included, but for the ids of messages.

    Equal pydantic states have equal keys, in every process. An input that has no JSON form has a
    key of its own each time, so its node always runs.
    """
    try:
        return digest.digest(None, {"args": _without_ids(args), "kwargs": _without_ids(kwargs)})
    except RequestNotCacheable as exc:
        _log.debug("a node always runs: %s", exc)
        return os.urandom(16).hex()


def _without_ids(value: Any) -> Any:
    """*value* as JSON that tells it from every other, messages without their ids."""
    if isinstance(value, BaseMessage):
        fields = {name: each for name, each in vars(value).items() if name != "id"}
        return {"$message": [type(value).__qualname__, _without_ids(fields)]}
    if type(value) is dict:
        return {"$dict": [[exact(key), _without_ids(each)] for key, each in _sorted(value)]}
    if type(value) in (list, tuple):
        return {f"${type(value).__name__}": [_without_ids(each) for each in value]}
    if type(value) in (set, frozenset):
        items = sorted((_without_ids(each) for each in value), key=json.dumps)
        return {f"${type(value).__name__}": items}
    state = _state_of(value)
    if state is None:
        return exact(value)
    return {
        "$object": [f"{type(value).__module__}:{type(value).__qualname__}", _without_ids(state)]
    }


def _sorted(value: dict[Any, Any]) -> list[tuple[Any, Any]]:
    return sorted(value.items(), key=lambda pair: (type(pair[0]).__name__, str(pair[0])))


def _state_of(value: Any) -> dict[str, Any] | None:
    """The fields of an instance of a pydantic model or a dataclass, private ones included; None for
    anything else."""
    kind = type(value)
    if hasattr(kind, "__pydantic_fields__"):
        private = getattr(value, "__pydantic_private__", None) or {}
        extra = getattr(value, "__pydantic_extra__", None) or {}
        return {**vars(value), **private, **extra}
    if hasattr(kind, "__dataclass_fields__"):
        named = {name: getattr(value, name, None) for name in kind.__dataclass_fields__}
        return {**named, **getattr(value, "__dict__", {})}
    return None
