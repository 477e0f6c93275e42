"""What a RunnableConfig says of a call besides its answer: whose it is, and by which tags it is
counted."""

import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple

from langchain_core.runnables.config import var_child_runnable_config

from langchain_llm_cache_mem.sources import Sources, check_sources, documents_of, names_of
from llm_cache_mem import RequestNotCacheable
from llm_cache_mem.options import check_names, check_namespace, options

__all__ = ["NOTHING_READ", "ConfigReader", "NamespaceFrom", "manager_around"]

_LONGEST: Final = 128
_FARTHEST: Final = 8
_CORE: Final = "langchain_core.language_models."

NamespaceFrom = Callable[[Mapping[str, Any]], str | None]
"""Returns the namespace of a call with that RunnableConfig; None for that of the cache."""


class ConfigReader(NamedTuple):
    """Reads namespace, tags and sources of a call from its run. See LLMCacheMem."""

    namespace_from: NamespaceFrom | None = None
    tags_from: tuple[str, ...] = ()
    sources: Sources = False

    @classmethod
    def of(
        cls,
        namespace_from: "NamespaceFrom | None",
        tags_from: Collection[str],
        sources: Sources = False,
    ) -> "ConfigReader":
        """TypeError for anything but a function and names."""
        if namespace_from is not None and not callable(namespace_from):
            raise TypeError(
                "namespace_from must be a function of a RunnableConfig, not"
                f" {type(namespace_from).__name__}"
            )
        if isinstance(tags_from, str) or not all(isinstance(name, str) for name in tags_from):
            raise TypeError("tags_from must be a collection of names")
        return cls(namespace_from, tuple(tags_from), check_sources(sources))

    def options_for(self, manager: Any) -> AbstractContextManager[object]:
        """The options of the call whose callback manager is *manager*; None if it is not known.

        Raises RequestNotCacheable where the namespace cannot be told.
        """
        if self is NOTHING_READ or not any(self):
            return nullcontext()
        if manager is None:
            manager = manager_around()
        config = _config_of(manager)
        asked: dict[str, Any] = {}
        if self.namespace_from is not None:
            if manager is None:
                raise RequestNotCacheable("namespace", "the config of this call cannot be seen")
            namespace = self._namespace(config)
            if namespace is not None:
                asked["namespace"] = namespace
        if self.tags_from:
            asked["tags"] = self._tags(config)
        if self.sources:
            asked["depends_on"] = self._names(manager)
        return options(**asked)

    def _namespace(self, config: Mapping[str, Any]) -> str | None:
        """What ``namespace_from`` returns. A call whose tenant it does not tell is no other's."""
        try:
            found = self.namespace_from(config) if self.namespace_from is not None else None
            return None if found is None else check_namespace(found)
        except Exception as exc:
            reason = f"namespace_from raised {type(exc).__name__}"
            raise RequestNotCacheable("namespace", reason) from exc

    def _names(self, manager: Any) -> tuple[str, ...]:
        """What the answer depends on. One that depends on what has no name is not cached."""
        try:
            return check_names(names_of(documents_of(manager), self.sources), "sources")
        except Exception as exc:
            reason = f"the names of its documents: {type(exc).__name__}"
            raise RequestNotCacheable("sources", reason) from exc

    def _tags(self, config: Mapping[str, Any]) -> dict[str, str]:
        """The tags that are named: keys of the metadata, and tags such as ``team:search``."""
        found: dict[str, str] = {}
        for tag in config["tags"]:
            name, mark, value = str(tag).partition("=" if "=" in str(tag) else ":")
            if name in self.tags_from:
                found[name] = value if mark else "true"
        for name in self.tags_from:
            value = config["metadata"].get(name)
            if isinstance(value, (str, int, float)):
                found[name] = str(value)
        return {
            name: value
            for name, value in found.items()
            if len(value) <= _LONGEST and value.isprintable()
        }


NOTHING_READ: Final = ConfigReader()


def manager_around() -> Any:
    """The callback manager of the stream that is being read: langchain-core does not pass it on."""
    frame = sys._getframe(1).f_back
    for _ in range(_FARTHEST):
        if frame is None:
            return None
        if frame.f_globals.get("__name__", "").startswith(_CORE):
            found = frame.f_locals.get("run_manager")
            if found is not None:
                return found
        frame = frame.f_back
    return None


def _config_of(manager: Any) -> dict[str, Any]:
    """The RunnableConfig of a call: what the callback manager has of it, and in chains and graphs
    ``configurable``."""
    outer = var_child_runnable_config.get() or {}
    return {
        **outer,
        "tags": list(getattr(manager, "tags", None) or ()),
        "metadata": dict(getattr(manager, "metadata", None) or {}),
        "configurable": dict(outer.get("configurable") or {}),
    }
