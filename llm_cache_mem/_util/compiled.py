"""The compiled part, where it was built and is not turned off: what the library does for plain JSON
in Python, done in C.

Without it everything works, only slower: each caller has the same in Python beside it.
"""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["speedups"]


def _load() -> "ModuleType | None":
    if os.environ.get("LLM_CACHE_MEM_NO_SPEEDUPS", "0") not in ("", "0"):
        return None
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None  # it relies on the global lock
    try:
        from llm_cache_mem._util import _speedups
    except ImportError:  # not built, or for another Python
        return None
    return _speedups if hasattr(_speedups, "text_or_print") else None  # else built before an update


speedups = _load()
