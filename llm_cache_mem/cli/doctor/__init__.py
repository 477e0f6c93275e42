"""The command ``doctor``: check whether a store is fit to be a cache."""

from llm_cache_mem.cli.doctor.command import doctor

__all__ = ["doctor"]
