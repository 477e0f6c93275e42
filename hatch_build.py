"""Build the compiled part of the library into its wheel, where there is a compiler.

``LLM_CACHE_MEM_NO_SPEEDUPS=1`` leaves it out; ``LLM_CACHE_MEM_SPEEDUPS=required`` fails where it
cannot be built, rather than make a wheel of Python alone. ``python hatch_build.py`` builds it into
the source tree, as an editable installation does.
"""

import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULE = "llm_cache_mem._util._speedups"
SOURCE = "native/speedups.c"


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # of any configuration
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        in_place = version == "editable"
        try:
            built = build(Path(self.root), in_place=in_place)
        except (Exception, SystemExit) as exc:
            if os.environ.get("LLM_CACHE_MEM_SPEEDUPS") == "required":
                raise
            self.app.display_warning(f"{notice(str(exc))}")
            return
        build_data.update(pure_python=False, infer_tag=True)
        if not in_place:
            build_data["force_include"][str(built)] = f"llm_cache_mem/_util/{built.name}"


def build(root: Path, *, in_place: bool) -> Path:
    """Compile the module; where it is. Whatever setuptools raises where that fails."""
    if os.environ.get("LLM_CACHE_MEM_NO_SPEEDUPS", "0") not in ("", "0"):
        raise RuntimeError("LLM_CACHE_MEM_NO_SPEEDUPS is set")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise RuntimeError("it relies on the global lock, which this Python lacks")
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    optimized = [] if sys.platform == "win32" else ["-O3", "-g0"]
    module = Extension(MODULE, [str(root / SOURCE)], extra_compile_args=optimized)
    command = build_ext(Distribution({"ext_modules": [module]}))
    command.build_temp = str(root / "build" / "native")
    command.build_lib = str(root if in_place else root / "build" / "native")
    command.force = True
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath(MODULE))


def notice(reason: str) -> str:
    """What is said where the compiled part is left out."""
    return f"llm-cache-mem goes without its compiled part, in Python alone: {reason}"


if __name__ == "__main__":
    print(build(Path(__file__).resolve().parent, in_place=True))
