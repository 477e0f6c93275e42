"""The name of the module in which a function or a class is defined, the same in every process."""

from typing import Any

__all__ = ["module_name"]


def module_name(defined: Any) -> str:
    """The module of a function or a class.

    The main module of a program is ``__main__`` in the process that was started, and
    ``__mp_main__`` in workers that multiprocessing spawns: both are ``__main__`` here.
    """
    name = str(getattr(defined, "__module__", "") or "")
    return "__main__" if name == "__mp_main__" else name
