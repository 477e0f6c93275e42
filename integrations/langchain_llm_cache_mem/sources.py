"""``sources=``: the answers of a run depend on the documents that were retrieved in it."""

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from functools import cache
from threading import RLock
from typing import Any, Final, TypeAlias
from uuid import UUID

from langchain_core.documents import Document
from langchain_core.tracers.context import register_configure_hook

from langchain_llm_cache_mem.inline import InlineHandler
from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.options import document_name

__all__ = ["Sources", "check_sources", "documents_of", "names_of"]

Sources: TypeAlias = bool | Callable[[Document], str | None]
"""Whether answers depend on the documents of their run; a function returns the name of one."""

_MOST_RUNS: Final = 10_000


class _Retrieved(InlineHandler):
    """The documents of each run that is going on, by its root, before the model of that run is
    called. Thread-safe."""

    def __init__(self) -> None:
        self._roots: dict[UUID, UUID] = {}
        self._documents: dict[UUID, list[Document]] = {}
        self._lock = RLock()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = RLock()

    @property
    def ignore_llm(self) -> bool:
        return True

    @property
    def ignore_chat_model(self) -> bool:
        return True

    @property
    def ignore_retry(self) -> bool:
        return True

    @property
    def ignore_custom_event(self) -> bool:
        return True

    def documents(self, run_id: UUID | None) -> list[Document]:
        """Those that were retrieved so far in the run that *run_id* is a part of."""
        with self._lock:
            root = None if run_id is None else self._roots.get(run_id, run_id)
            return list(self._documents.get(root, ())) if root is not None else []

    def _begin(self, run_id: UUID, parent_run_id: UUID | None) -> None:
        with self._lock:
            while len(self._roots) >= _MOST_RUNS:  # whose end was not reported
                self._end(next(iter(self._roots)))
            parent = run_id if parent_run_id is None else parent_run_id
            self._roots[run_id] = self._roots.get(parent, parent)

    def _end(self, run_id: UUID) -> None:
        with self._lock:
            self._roots.pop(run_id, None)
            self._documents.pop(run_id, None)

    # -- What LangChain tells

    def on_chain_start(
        self, *args: Any, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._begin(run_id, parent_run_id)

    on_tool_start = on_retriever_start = on_chain_start

    def on_chain_end(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id)

    on_chain_error = on_tool_end = on_tool_error = on_retriever_error = on_chain_end

    def on_retriever_end(
        self, documents: Sequence[Document], *, run_id: UUID, **kwargs: Any
    ) -> None:
        with self._lock:
            root = self._roots.pop(run_id, run_id)
            if root != run_id:  # else the retriever was called by itself
                self._documents.setdefault(root, []).extend(documents)
            while len(self._documents) > _MOST_RUNS:  # of roots from before this handler
                del self._documents[next(iter(self._documents))]


@cache
def _retrieved() -> _Retrieved:
    """The handler of this process, made when it is first wanted."""
    handler = _Retrieved()
    variable: ContextVar[Any] = ContextVar("langchain_llm_cache_mem_sources", default=handler)
    register_configure_hook(variable, inheritable=True)
    return handler


def check_sources(sources: Any) -> Sources:
    """*sources* if it is a bool or a function; from now on, the documents of runs are noted."""
    if not isinstance(sources, bool) and not callable(sources):
        raise TypeError(f"sources must be a bool or a function, not {type(sources).__name__}")
    if sources:
        _retrieved()
    return sources  # type: ignore[no-any-return]  # checked above


def documents_of(manager: Any) -> list[Document]:
    """The documents retrieved so far in the run that the call with this callback manager is part
    of."""
    parent = getattr(manager, "parent_run_id", None)
    return _retrieved().documents(parent)


def names_of(documents: Iterable[Document], sources: Sources) -> list[str]:
    """What answers from *documents* depend on; those without a name are left out."""
    if callable(sources):
        return sorted(set(filter(None, map(sources, documents))))
    return sorted({document_name(own) for each in documents for own in _identities(each)})


def _identities(document: Document) -> list[str]:
    """Its id, which may be that of a chunk, and the source of the chunk."""
    own = document.id or document.metadata.get("id")
    return [str(each) for each in (own, document.metadata.get("source")) if each]
