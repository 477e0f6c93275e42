"""The HTTP libraries that ``install`` covers, patched as a whole or not at all."""

import sys
import threading
from types import ModuleType
from typing import Final

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.installation import under_aiohttp, under_httpx, under_lm15, under_urllib3
from llm_cache_mem.installation.patching import ImportHook, Patch

__all__ = ["LIBRARIES", "Libraries"]


class Libraries:
    """The patches of all libraries. Thread-safe."""

    def __init__(self) -> None:
        covered = (under_httpx, under_urllib3, under_aiohttp, under_lm15)
        methods = [method for library in covered for method in library.METHODS]
        self._patches = [Patch(method) for method in methods]
        self._hook = ImportHook((patch.module for patch in self._patches), self._imported)
        self._is_on = False
        self._lock = threading.RLock()
        reset_after_fork(self)

    def turn_on(self) -> None:
        """Patch what is imported now, and the rest when it is."""
        with self._lock:
            self._is_on = True
            self._hook.turn_on()
            for patch in self._patches:
                module = sys.modules.get(patch.module)
                spec = getattr(module, "__spec__", None)
                if module is not None and not getattr(spec, "_initializing", False):
                    patch.apply(module)

    def turn_off(self) -> None:
        """Put back what was there."""
        with self._lock:
            self._is_on = False
            self._hook.turn_off()
            for patch in self._patches:
                patch.restore()

    def _imported(self, module: ModuleType) -> None:
        with self._lock:
            if self._is_on:
                for patch in self._patches:
                    if patch.module == module.__name__:
                        patch.apply(module)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()


LIBRARIES: Final = Libraries()
"""Those of this process."""
