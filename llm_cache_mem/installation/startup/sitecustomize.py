"""Install the cache in each Python process under ``llm-cache-mem run``, when it starts.

This folder stands first on PYTHONPATH, so the user's own ``sitecustomize``, if there is one, is run
from here.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

__all__: list[str] = []


def _run_the_users_own() -> None:
    here = Path(__file__).parent
    spec = PathFinder.find_spec("sitecustomize", [p for p in sys.path if p and Path(p) != here])
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _install() -> None:
    try:
        from llm_cache_mem.installation.child import begin
    except ImportError as exc:
        sys.stderr.write(
            f"llm-cache-mem run: {sys.executable} runs without the cache, since {exc.name} is not"
            " installed there\n"
        )
        return
    try:
        begin()
    except Exception as exc:  # noqa: BLE001  # the program runs as it would without
        sys.stderr.write(f"llm-cache-mem run: this process runs without the cache: {exc}\n")


_install()
_run_the_users_own()
