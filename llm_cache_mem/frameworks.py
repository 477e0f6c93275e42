"""Turn caching on for a whole framework: the integrations announce themselves by entry points."""

import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import NamedTuple

from llm_cache_mem.cache import LLMCache

__all__ = ["GROUP", "Framework", "frameworks"]

GROUP = "llm_cache_mem.frameworks"
"""The group of entry points: each is named after a framework's module, and refers to a function
``install(cache)`` that answers every model of the framework from *cache* and returns a function
that restores what was set before."""


class Framework(NamedTuple):
    """A framework that an installed integration can cache. *module* is the framework's own."""

    module: str
    load: Callable[[], Callable[[LLMCache], Callable[[], object]]]

    @property
    def name(self) -> str:
        """The name as a program writes it in its imports, such as ``langchain``."""
        return self.module.partition(".")[0].removesuffix("_core")

    @property
    def is_imported(self) -> bool:
        """Whether the program has imported the framework."""
        return self.module in sys.modules

    def install(self, cache: LLMCache) -> Callable[[], object] | None:
        """Answer every model of the framework from *cache*.

        Returns a function that restores what was set before; None if the framework is not
        installed.
        """
        try:
            return self.load()(cache)
        except ModuleNotFoundError as exc:
            if (exc.name or "").partition(".")[0] != self.module.partition(".")[0]:
                raise  # installed but broken: let that error speak
            return None
        except ImportError as exc:
            if exc.name != self.module:
                raise
            return None


@cache
def frameworks() -> tuple[Framework, ...]:
    """The frameworks that the installed integrations can cache, by name."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    return tuple(Framework(name, point.load) for name, point in sorted(found.items()))
