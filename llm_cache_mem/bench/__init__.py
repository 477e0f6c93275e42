"""The benchmark: what an exact cache in the client, the provider's prompt cache, and both save on a
trace of real calls."""

from typing import TYPE_CHECKING, Any

from llm_cache_mem.bench.recorder import TraceRecorder

if TYPE_CHECKING:
    from llm_cache_mem.bench.results import Simulated, simulate

__all__ = ["Simulated", "TraceRecorder", "simulate"]


def __getattr__(name: str) -> Any:
    """The simulator, which a program that only records does not load."""
    if name in ("Simulated", "simulate"):
        from llm_cache_mem.bench import results

        return getattr(results, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
